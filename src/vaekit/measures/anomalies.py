"""Scores of how unlike a picture is to what a model knows: the larger, the more of an anomaly.

Letters: B pictures x and their reconstructions x_hat from the mean, (B, C, H, W); posteriors (B, d). None of them is
an anomaly score by itself: which one tells, if any, says the AUROC of labelled pictures (`probes.anomaly_auroc`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vaekit.measures.pictures import l1, laplacian_energy
from vaekit.models.base import Density
from vaekit.models.posterior import Posterior

WINDOWS = 8  # to a side: the size of what is looked for by `local_error`
LEAST_TEXTURE = 1e-6


@dataclass(frozen=True)
class Known:
    """A picture, what a model makes of it, and the Gaussian of the latents of its train pictures, if it has that."""

    x: Tensor
    x_hat: Tensor
    posterior: Posterior
    gaussian: Density | None = None


def error_map(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean |x - x_hat| over the channels: (B, H, W)."""
    return (x - x_hat).abs().mean(1)


def local_error(known: Known) -> Tensor:
    """The largest mean error of a window with an eighth of the side: a small fault in a picture that is right else."""
    window = max(1, min(known.x.shape[-2:]) // WINDOWS)
    return avg_pool2d(error_map(known.x, known.x_hat)[:, None], window, stride=1).flatten(1).amax(1)


def error_by_texture(known: Known) -> Tensor:
    """The error over the root of the picture's energy of edges: rough pictures have larger errors anyway."""
    return l1(known.x, known.x_hat) / laplacian_energy(known.x).clamp(min=LEAST_TEXTURE).sqrt()


def anomaly_scores(known: Known) -> dict[str, Tensor]:
    """Every score by name, (B,) each, on the CPU; those that need a width or the Gaussian where there is one.

    `error`, mean |x - x_hat|; `local_error`; `error_by_texture`; `kl`, KL(q(z|x) || N(0, I)), and `kl_individual`,
    nats (eqs 11 and 21): how much the model has to say of the picture; `log_prob`, -log p(mean) under the Gaussian of
    the train latents, nats. `darkness` asks no model: what a score has to be better than.
    """
    scores = {
        "error": l1(known.x, known.x_hat),
        "local_error": local_error(known),
        "error_by_texture": error_by_texture(known),
    }
    if not known.posterior.points:
        scores |= {"kl": known.posterior.kl_standard(), "kl_individual": known.posterior.kl_individual()}
    if known.gaussian is not None:
        scores["log_prob"] = -known.gaussian.log_prob(known.posterior.mean.cpu())
    scores["darkness"] = -known.x.flatten(1).mean(1)
    return {name: score.detach().cpu().double() for name, score in scores.items()}


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The scores of several batches as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
