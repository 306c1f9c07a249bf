"""The fit of a flow to latents: its draws, and where it starts.

Indices, noise and angles of a step are drawn for the whole batch, and ranks take their share of it. Letters: N latents
of d entries, B of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.networks.velocity import MixtureVelocity, Velocity
from vaekit.priors.base import Latents
from vaekit.priors.components import Mixture, fit_components, num_components
from vaekit.priors.conditions import Conditions, conditions_of
from vaekit.priors.fitting import BATCH, Fit, Length, Watch, begun, held_out, run_fit
from vaekit.priors.flow import FlowPrior, on_arc
from vaekit.priors.gaussian import GaussianPrior, fit_gaussian
from vaekit.system.devices import own_generators
from vaekit.system.ranks import object_from_rank_zero, rank_and_world

HELD_OUT_BATCHES = 8  # drawn of the latents that are held out
HELD_OUT_KEY = 2**31  # of their seeds: no step has this number


def fit_flow(
    latents: Latents,
    seed: int = 0,
    *,
    length: Length | None = None,
    width: int = 96,
    depth: int = 4,
    components: int | None = None,
    device: torch.device | str = "cpu",
    begin: Callable[[Fit], object] = lambda fit: None,
    watch: Watch = lambda fit, done: None,
) -> FlowPrior:
    """Fit a flow to the latents, by default until each was drawn ten times.

    Every rank calls it with the same latents, and gets the same flow. `width` and `depth` are those of the network. It
    starts as a mixture of so many `components`, by default as many as the latents can tell apart, or with 0 as the
    Gaussian. `begin` may fill a fit
    that was interrupted, and `watch` keep it.
    What is kept is the running average of the weights with the least loss on pictures held out of the fit, or the
    start, if no network does better; and no start that is worse than the Gaussian there.
    """
    began_at = time.monotonic()
    gaussian = fit_gaussian(latents)
    conditions = conditions_of(latents)
    train, test = held_out(latents, seed)
    draws = Draws(latents, gaussian, conditions, seed, device)
    judged_by = [draws.batch(test, BATCH, HELD_OUT_KEY, i) for i in range(HELD_OUT_BATCHES)] if len(test) else []
    if components is None:
        components = num_components(len(train), gaussian.latent_dim)
    first = rank_and_world()[0] == 0
    found = started(latents, gaussian, train, components, judged_by, seed) if judged_by and first else (None, 1.0)
    start, loss = object_from_rank_zero(found)
    settings = {"positions": latents.positions, "width": width, "depth": depth}
    settings["components"] = 0 if start is None else components
    with own_generators():
        torch.manual_seed(seed)
        network = Velocity(latents.mean.shape[1], **settings, conditions=conditions.num_rows).to(device)
    if start is not None and network.start is not None:
        network.start.set_mixture(*start)
    fit = begun(network, loss, began_at, length)
    begin(fit)
    if judged_by:
        run_fit(fit, length or Length(10 * len(train)), ArcTask(draws, train, judged_by), device, watch)
    return FlowPrior(gaussian, fit.best, settings, conditions, fit.counters["best_loss"])


class Batch(NamedTuple):
    """What a loss is taken of: w (B, d) at angles a (B,), where dw/da is `slope` (B, d), and what is `told` (B, F)."""

    w: Tensor
    a: Tensor
    slope: Tensor
    told: Tensor | None


Slope = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # dw/da of w (B, d) at angles (B,), and what is told


class Draws:
    """Draws of the latents, whitened, with noise and angles of their own: functions of a seed."""

    def __init__(
        self,
        latents: Latents,
        gaussian: GaussianPrior,
        conditions: Conditions,
        seed: int,
        device: torch.device | str,
    ) -> None:
        self.latents, self.gaussian, self.conditions, self.seed, self.device = (
            latents,
            gaussian,
            conditions,
            seed,
            device,
        )

    def batch(self, of: Tensor, size: int, *key: int, rank: int = 0, world: int = 1) -> Batch:
        """This rank's share of `size` draws of the latents at the places `of`, by (seed, *key)."""
        seed = np.random.SeedSequence([self.seed, *key]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        chosen = of[torch.randint(len(of), (size,), generator=generator)]
        eps, noise = torch.randn(2, size, self.latents.mean.shape[1], generator=generator)
        a = torch.randn(size, generator=generator).exp().atan()  # logit-normal in the time of straight paths
        told = None
        if self.latents.labels is not None:
            told = self.conditions.hidden(self.conditions.told(self.latents.labels[chosen]), generator)
            told = told.tensor_split(world)[rank].to(self.device)
        chosen, eps, noise, a = (tensor.tensor_split(world)[rank] for tensor in (chosen, eps, noise, a))
        u = self.gaussian.whiten(self.latents.mean[chosen] + self.latents.std[chosen] * eps)
        w, slope = on_arc(u, noise, a)
        return Batch(w.to(self.device), a.to(self.device), slope.to(self.device), told)


@dataclass(frozen=True)
class ArcTask:
    """dw/da of draws of the train latents, judged by some that are held out."""

    draws: Draws
    train: Tensor
    judged_by: Sequence[Batch]

    def losses(self, network: Velocity, step: int, rank: int, world: int) -> Tensor:
        """See `squared_error`."""
        return squared_error(network, self.draws.batch(self.train, BATCH, step, rank=rank, world=world))

    def held_out_loss(self, network: Velocity) -> float:
        """See the function of that name."""
        return held_out_loss(network, self.judged_by)


def started(
    latents: Latents,
    gaussian: GaussianPrior,
    train: Tensor,
    components: int,
    judged_by: Sequence[Batch],
    seed: int,
) -> tuple[Mixture | None, float]:
    """The mixture to start from and its held-out loss; none, with that of the Gaussian, 1, where it is no better."""
    if not components:
        return None, 1.0
    mixture = fit_components(latents, gaussian, train, components, seed)
    velocity = MixtureVelocity(gaussian.latent_dim, components).to(judged_by[0].w.device)
    velocity.set_mixture(*mixture)
    loss = held_out_loss(lambda w, a, told: velocity(w, a), judged_by)
    return (mixture, loss) if loss < 1 else (None, 1.0)


@torch.no_grad()
def held_out_loss(network: Slope, judged_by: Sequence[Batch]) -> float:
    """The loss on the latents that are held out, as a share of that without a network."""
    error = sum(squared_error(network, batch).sum().item() for batch in judged_by)
    return error / sum(batch.slope.square().mean(1).sum().item() for batch in judged_by)


def squared_error(network: Slope, batch: Batch) -> Tensor:
    """Squared distance of the network's dw/da from that of each draw, the mean over the entries: (B,)."""
    return (network(batch.w, batch.a, batch.told) - batch.slope).square().mean(1)
