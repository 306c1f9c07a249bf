"""The fit of a flow to latents: its draws, its steps, and what a fit that was interrupted goes on from.

A step is a function of (seed, step): indices, noise and angles are drawn for the whole batch, and ranks take their
share of it. Letters: N latents of d entries, B of a batch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.networks.average import update_ema
from vaekit.networks.muon import Muon
from vaekit.networks.velocity import MixtureVelocity, Velocity
from vaekit.priors.base import Latents
from vaekit.priors.components import Mixture, fit_components, num_components
from vaekit.priors.conditions import Conditions, conditions_of
from vaekit.priors.flow import FlowPrior, on_arc
from vaekit.priors.gaussian import GaussianPrior, fit_gaussian
from vaekit.system.autocast import without_autocast
from vaekit.system.devices import own_generators
from vaekit.system.ranks import agree, average_gradients, object_from_rank_zero, rank_and_world

BATCH = 128
LR, MOMENTUM, BETAS, EPSILON, WEIGHT_DECAY, CLIP = 5e-3, 0.95, (0.9, 0.99), 1e-8, 0.01, 1.0
WARMUP_STEPS = 100
EMA = 0.999
HELD_OUT = 0.05  # of the pictures, at most HELD_OUT_MOST: what decides which network is kept
HELD_OUT_MOST = 512
HELD_OUT_BATCHES = 8  # drawn of them
HELD_OUT_KEY = 2**31  # of their seeds: no step has this number
LOOKS = 10  # times over the fit that the held-out loss is taken
FEWEST = 20  # pictures that a network is trained on; with fewer the flow stays the Gaussian


@dataclass
class FlowFit:
    """All that changes during a fit: the network, its running average, the best average so far, and the optimiser."""

    network: Velocity
    averaged: Velocity
    best: Velocity
    optimizer: Muon
    counters: dict[str, float] = field(default_factory=lambda: {"step": 0, "elapsed_sec": 0.0, "best_loss": 1.0})
    scaler: torch.amp.GradScaler | None = None  # none: there is no fp16 here

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks by name, for checkpoints."""
        return {"network": self.network, "averaged": self.averaged, "best": self.best}

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """The optimiser by name, for checkpoints."""
        return {"network": self.optimizer}


@dataclass(frozen=True)
class Length:
    """How long a fit is: by latents drawn, by the clock, or until one of both is over."""

    draws: float = math.inf
    minutes: float = math.inf

    def done(self, counters: Mapping[str, float]) -> float:
        """The share that is over, 1 at the end."""
        drawn = counters["step"] * BATCH / self.draws if self.draws else 1.0
        return min(1.0, max(drawn, counters["elapsed_sec"] / (60 * self.minutes)))


Watch = Callable[[FlowFit, float], object]  # hears the state after each step, and the share that is done


def fit_flow(
    latents: Latents,
    seed: int = 0,
    *,
    length: Length | None = None,
    width: int = 96,
    depth: int = 4,
    components: int | None = None,
    device: torch.device | str = "cpu",
    begin: Callable[[FlowFit], object] = lambda fit: None,
    watch: Watch = lambda fit, done: None,
) -> FlowPrior:
    """Fit a flow to the latents, by default until each was drawn ten times.

    Every rank calls it with the same latents, and gets the same flow. `width` and `depth` are those of the network. It
    starts as a mixture of so many `components`, by default as many as the latents can tell apart, or with 0 as the
    Gaussian.
    It computes in float32: bf16 took twice as long on a CPU, whose time goes to small products. `begin` may fill a fit
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
    optimizer = Muon(network.parameters(), LR, BETAS, EPSILON, WEIGHT_DECAY, momentum=MOMENTUM, fused=False)
    fit = FlowFit(network, copy.deepcopy(network), copy.deepcopy(network), optimizer)
    fit.counters["best_loss"] = loss
    if length is not None and math.isinf(length.draws):  # else the same draws would give another flow on a busy machine
        fit.counters["elapsed_sec"], _ = agree(time.monotonic() - began_at, 0)
    begin(fit)
    if judged_by:
        with without_autocast(torch.device(device)):
            run_fit(fit, length or Length(10 * len(train)), draws, train, judged_by, watch)
    return FlowPrior(gaussian, fit.best, settings, conditions, fit.counters["best_loss"])


def held_out(latents: Latents, seed: int) -> tuple[Tensor, Tensor]:
    """Places of the latents to learn from and of those to judge by, never two views of one picture on both sides.

    Without enough pictures to do both, none is left to judge by.
    """
    num_pictures = len(latents.mean) // latents.views
    if num_pictures < FEWEST:
        return torch.arange(len(latents.mean)), torch.arange(0)
    order = torch.randperm(num_pictures, generator=torch.Generator().manual_seed(seed))
    kept = min(max(1, int(HELD_OUT * num_pictures)), HELD_OUT_MOST)
    views = num_pictures * torch.arange(latents.views)[:, None]
    return (views + order[kept:]).flatten(), (views + order[:kept]).flatten()


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


def run_fit(
    fit: FlowFit,
    length: Length,
    draws: Draws,
    train: Tensor,
    judged_by: Sequence[Batch],
    watch: Watch,
) -> None:
    """Step until the fit is over; what it found is in `fit.best`."""
    rank, world = rank_and_world()
    started_at = time.monotonic() - fit.counters["elapsed_sec"]
    done = length.done(fit.counters)
    while done < 1:
        step = int(fit.counters["step"])
        for group in fit.optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        batch = draws.batch(train, BATCH, step, rank=rank, world=world)
        loss = squared_error(fit.network, batch).sum() * world / BATCH  # the mean over ranks is that over the batch
        fit.optimizer.zero_grad()
        loss.backward()
        average_gradients(fit.network)
        nn.utils.clip_grad_norm_(fit.network.parameters(), CLIP)
        fit.optimizer.step()
        update_ema(fit.averaged, fit.network, EMA, step)
        fit.counters["step"] = step + 1
        fit.counters["elapsed_sec"], _ = agree(time.monotonic() - started_at, 0)
        before, done = done, length.done(fit.counters)
        if math.floor(LOOKS * done) > math.floor(LOOKS * before):
            look(fit, judged_by)
        watch(fit, done)


@torch.no_grad()
def look(fit: FlowFit, judged_by: Sequence[Batch]) -> None:
    """Keep the averaged network if its held-out loss, 1 without a network, is the least so far."""
    fit.counters["held_out_loss"] = loss = held_out_loss(fit.averaged, judged_by)
    if loss < fit.counters["best_loss"]:
        fit.counters["best_loss"] = loss
        fit.best.load_state_dict(fit.averaged.state_dict())


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
