"""A flow from N(0, I) to the latents of training pictures, along arcs (flow matching; Lipman et al., 2023).

Latents are whitened by the Gaussian with their moments first: u has mean zero and covariance I. At an angle a from 0
to pi/2, noise eps and a latent u lie on the arc

    w = cos(a) eps + sin(a) u,    dw/da = cos(a) u - sin(a) eps,

and the network learns the mean of dw/da given w. Straight paths (rectified flow; Liu et al., 2023) are the same paths
but for a scale of w. On arcs all w have covariance I, and dw/da is not correlated with w: what the network has to give
is zero wherever the latents are Gaussian: with nothing else the untrained flow *is* the fitted Gaussian, and the loss
without a network is 1 an entry. Where there are latents enough to tell several Gaussians apart, the exact slope of
their mixture is added to the network's, and the untrained flow is that mixture. Letters: N latents of d entries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.networks.velocity import Velocity
from vaekit.priors.base import NO_METADATA, log_standard_normal, read_prior
from vaekit.priors.conditions import Conditions, check_guidance, log_mixture, read_conditions, told_of
from vaekit.priors.gaussian import TENSORS, GaussianPrior
from vaekit.priors.network import ABOUT, NetworkPrior, with_weights
from vaekit.system.autocast import without_autocast

NAME = "flow"  # in the files
QUARTER = math.pi / 2  # the angle of the latents; noise is at 0
STEPS = 25  # of Heun's method from one to the other
AT_ONCE = 256  # latents that are moved together
PROBES = 16  # directions that the divergence is estimated in

Field = Callable[[Tensor, Tensor], Tensor]  # dw/da of w (N, d) at angles (N,)


class FlowPrior(NetworkPrior):
    """Latents as what the flow makes of N(0, I): dw/da = network(w, a), and z from w by the Gaussian.

    `settings` are those that `Velocity` is built with, `conditions` what can be asked for. `held_out_loss` is that of
    the network on pictures that it did not learn from, where 1 is the Gaussian's.
    """

    def __init__(
        self,
        gaussian: GaussianPrior,
        network: Velocity,
        settings: Mapping[str, Any],
        conditions: Conditions,
        held_out_loss: float,
    ) -> None:
        super().__init__(network, settings, conditions, held_out_loss)
        self.gaussian = gaussian

    @property
    def latent_dim(self) -> int:
        """Entries of a latent, d."""
        return self.gaussian.latent_dim

    def field(self, w: Tensor, a: Tensor, told: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """dw/da (N, d) of w (N, d) at angles a (N,): of any picture, or of those of which is `told` (N, F).

        With a `guidance` above 1, that of those pictures, away from that of any (Ho & Salimans, 2022).
        """
        with without_autocast(self.device):
            if not self.conditions.num_rows:
                return self.network(w, a)
            unknown = self.conditions.unknown(len(w)).to(w.device)
            if told is None:
                return self.network(w, a, unknown)
            of_those = self.network(w, a, told)
            return of_those if guidance == 1 else torch.lerp(self.network(w, a, unknown), of_those, guidance)

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        label: str | Sequence[str] | None = None,
        guidance: float = 1.0,
        steps: int = STEPS,
    ) -> Tensor:
        """Draw z (num_images, d) on the CPU: of pictures with a `label`, or of all, as frequent as they are.

        A label is a class, or attributes: "smiling", "glasses=0", or several of them. Raises `ValueError` for one that
        the prior does not know, and a `guidance` that is negative.
        """
        check_guidance(self.conditions, guidance)
        noise = temperature * torch.randn(num_images, self.latent_dim, generator=generator)
        told = told_of(self.conditions, label, num_images, generator)
        return self.gaussian.colour(self.moved(noise, 0, QUARTER, steps, told, guidance))

    @torch.no_grad()
    def noise_of(self, z: Tensor, steps: int = STEPS) -> Tensor:
        """The noise (N, d) that the flow makes z (N, d) of: the way back, of any picture."""
        return self.moved(self.gaussian.whiten(z), QUARTER, 0, steps)

    @torch.no_grad()
    def latent_of(self, noise: Tensor, steps: int = STEPS) -> Tensor:
        """The z (N, d) that the flow makes of noise (N, d): the inverse of `noise_of`."""
        return self.gaussian.colour(self.moved(noise, 0, QUARTER, steps))

    def moved(
        self, w: Tensor, start: float, stop: float, steps: int, told: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """w (N, d) moved from one angle to another by Heun's method; on the CPU."""
        angles = torch.linspace(start, stop, steps + 1, device=self.device)
        parts = []
        for chosen in torch.arange(len(w)).split(AT_ONCE):
            part = w[chosen].to(self.device)
            known = None if told is None else told[chosen].to(self.device)
            for here, there in pairwise(angles.unbind()):
                h, (start_at, stop_at) = there - here, (angle.expand(len(part)) for angle in (here, there))
                slope = self.field(part, start_at, known, guidance)
                slope_there = self.field(part + h * slope, stop_at, known, guidance)
                part = part + h / 2 * (slope + slope_there)
            parts.append(part.cpu())
        return torch.cat(parts)

    def log_prob(self, z: Tensor, probes: int | None = PROBES, steps: int = STEPS, seed: int = 0) -> Tensor:
        """log p(z) of z (N, d): (N,), nats, on the CPU; where there are classes, of their mixture, at the cost of each.

        By the change of variables along the flow: log p = log N(w at 0) - (integral of the divergence of dw/da) + that
        of whitening. The divergence is estimated in `probes` random directions (Hutchinson), drawn from `seed`; with
        None it is exact, and takes d directions.
        """
        directions = probe_directions(self.latent_dim, probes, seed).to(self.device)
        u = self.gaussian.whiten(z)
        return log_mixture(self.conditions, lambda told: self.log_prob_of(u, told, directions, steps))

    def log_prob_of(self, u: Tensor, told: Tensor | None, directions: Tensor, steps: int) -> Tensor:
        """log p(z) of whitened latents u (N, d): (N,), of pictures of which is `told` (F,)."""
        parts = []
        for w in (part.to(self.device) for part in u.split(AT_ONCE)):
            known = None if told is None else told.to(w.device).expand(len(w), -1)
            field = partial(self.field, told=known)
            grown = torch.zeros(len(w), device=w.device)
            angles = torch.linspace(QUARTER, 0, steps + 1, device=w.device)
            for here, there in pairwise(angles.unbind()):
                h = there - here
                slope, divergence = with_divergence(field, w, here.expand(len(w)), directions)
                ahead = with_divergence(field, w + h * slope, there.expand(len(w)), directions)
                w = w + h / 2 * (slope + ahead[0])
                grown = grown + h / 2 * (divergence + ahead[1])
            parts.append((log_standard_normal(w) + grown).cpu())
        return torch.cat(parts) + self.gaussian.log_determinant

    def save(self, path: str | Path, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """Write Gaussian, weights and settings as safetensors, with metadata; a reader sees the old file or the new."""
        self.write(path, self.gaussian.tensors(), {"prior": NAME} | dict(metadata))

    @classmethod
    def load(cls, path: str | Path) -> FlowPrior:
        """Read what `save` wrote. Raises `ValueError` if the file is missing, damaged or something else."""
        tensors, metadata = read_prior(path)
        conditions = read_conditions(tensors, metadata)
        whole = tensors.keys() >= {*TENSORS} and metadata.keys() >= {*ABOUT}
        if metadata.get("prior") != NAME or not whole or conditions is None:
            raise ValueError(f"{path} holds no flow; fit the prior again")
        gaussian = GaussianPrior(*(tensors.pop(name) for name in TENSORS)).checked(path)
        settings, held_out_loss = (json.loads(metadata[name]) for name in ABOUT)
        network = with_weights(
            lambda: Velocity(gaussian.latent_dim, **settings, conditions=conditions.num_rows), tensors, path
        )
        return cls(gaussian, network, settings, conditions, held_out_loss)


def on_arc(u: Tensor, eps: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """w and dw/da (N, d) of whitened latents u and noise eps (N, d) at angles a (N,)."""
    cos, sin = a.cos()[:, None], a.sin()[:, None]
    return cos * eps + sin * u, cos * u - sin * eps


def probe_directions(d: int, probes: int | None, seed: int) -> Tensor:
    """Directions e (K, d) for which the mean of e^T J e is the trace of J: random signs, or every axis."""
    if probes is None or probes >= d:
        return math.sqrt(d) * torch.eye(d)
    signs = torch.randint(2, (probes, d), generator=torch.Generator().manual_seed(seed))
    return 2.0 * signs - 1


def with_divergence(field: Field, w: Tensor, a: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The field at w (N, d), and the mean of e^T (d field / d w) e over directions e (K, d): (N,)."""
    with torch.inference_mode(False), torch.enable_grad(), without_autocast(w.device):
        w = w.detach().clone().requires_grad_()
        slope = field(w, a)
        total = torch.zeros(len(w), device=w.device)
        for e in directions:
            (moved,) = torch.autograd.grad(slope, w, e.expand_as(w), retain_graph=True)
            total += moved @ e
    return slope.detach(), total / len(directions)
