"""Scores of how unlike a picture is to what a model knows: the larger, the more of an anomaly.

Letters: B pictures x and their reconstructions x_hat from the mean, (B, C, H, W); posteriors (B, d). None of them is
an anomaly score by itself: which one tells, if any, says the AUROC of labelled pictures (`probes.anomaly_auroc`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vaekit.config.groups import Weights
from vaekit.config.settings import Config
from vaekit.measures.pictures import l1, laplacian_energy
from vaekit.models.base import Density
from vaekit.models.batches import evaluating
from vaekit.models.decoding import expects_lower, from_above
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE

WINDOWS = 8  # to a side: the size of what is looked for by `local_error`
LEAST_TEXTURE = 1e-6


@dataclass(frozen=True)
class Known:
    """A picture, what a model makes of it, and the Gaussian of the latents of its train pictures, if it has that."""

    x: Tensor
    x_hat: Tensor
    posterior: Posterior
    gaussian: Density | None = None
    expected: Expected | None = None


@dataclass(frozen=True)
class Expected:
    """Of a model of two levels: the picture with the details that the upper level expects, and what the lower adds.

    `kl` (B,) is that of the lower level, nats; `nats_l1` those of an l1 of one: its weight over that of this KL.
    """

    x_hat: Tensor
    kl: Tensor
    nats_l1: float


def known_of(vae: VAE, x: Tensor, x_hat: Tensor, posterior: Posterior) -> Known:
    """Pictures x and what `vae` makes of them, x_hat from the mean of the `posterior`, on its device."""
    expected = None
    if expects_lower(vae.decoder):
        with evaluating(vae):
            ahead, kl = from_above(vae.decoder, posterior)
        weights = Config.from_json(vae.config_json).weights if vae.config_json else Weights()
        expected = Expected(ahead.to(x.device, x.dtype), kl.to(x.device), weights.l1 / (weights.kl_lower or 1.0))
    return Known(x, x_hat, posterior, vae.priors.get("gaussian"), expected)


def likelihood_ratio(known: Known, expected: Expected) -> Tensor:
    """LLR>1, nats (Havtorn et al., ICML 2021, eq. 8): the bound with the lower level from the picture, less that with
    the lower level as the upper expects it. Details that do not follow from the rest of a picture make it large.
    """
    gained = expected.nats_l1 * (l1(known.x, expected.x_hat) - l1(known.x, known.x_hat))
    return gained - expected.kl


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
    nats (eqs 11 and 21): how much the model has to say of the picture; `nll`, -log p(mean) under the Gaussian of
    the train latents, nats; `likelihood_ratio`, of two levels. `darkness` asks no model: what a score has to be better
    than.
    """
    scores = {
        "error": l1(known.x, known.x_hat),
        "local_error": local_error(known),
        "error_by_texture": error_by_texture(known),
    }
    if not known.posterior.points:
        scores |= {"kl": known.posterior.kl_standard(), "kl_individual": known.posterior.kl_individual()}
    if known.gaussian is not None:
        scores["nll"] = -known.gaussian.log_prob(known.posterior.mean.cpu())
    if known.expected is not None:
        scores["likelihood_ratio"] = likelihood_ratio(known, known.expected)
    scores["darkness"] = -known.x.flatten(1).mean(1)
    return {name: score.detach().cpu().double() for name, score in scores.items()}


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The scores of several batches as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
