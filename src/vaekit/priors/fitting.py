"""The fit of a network to latents, step by step: what changes, how long it goes, and what it is judged by.

A step is a function of (seed, step), ranks take their share of it, and a fit that was interrupted goes on.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vaekit.networks.average import update_ema
from vaekit.networks.muon import Muon
from vaekit.priors.base import Latents
from vaekit.system.autocast import without_autocast
from vaekit.system.ranks import agree, average_gradients, rank_and_world

BATCH = 128
LR, MOMENTUM, BETAS, EPSILON, WEIGHT_DECAY, CLIP = 5e-3, 0.95, (0.9, 0.99), 1e-8, 0.01, 1.0
WARMUP_STEPS = 100
EMA = 0.999
HELD_OUT = 0.05  # of the pictures, at most HELD_OUT_MOST: what decides which network is kept
HELD_OUT_MOST = 512
LOOKS = 10  # times over the fit that the held-out loss is taken
FEWEST = 20  # pictures that a network is trained on; with fewer it stays what it starts as


@dataclass
class Fit:
    """All that changes during a fit: the network, its running average, the best average so far, and the optimiser."""

    network: Any
    averaged: Any
    best: Any
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

    @property
    def by_clock(self) -> bool:
        """Whether the clock alone ends it."""
        return math.isinf(self.draws)

    def done(self, counters: Mapping[str, float]) -> float:
        """The share that is over, 1 at the end."""
        drawn = counters["step"] * BATCH / self.draws if self.draws else 1.0
        return min(1.0, max(drawn, counters["elapsed_sec"] / (60 * self.minutes)))


Watch = Callable[[Fit, float], object]  # hears the state after each step, and the share that is done


class Task(Protocol):
    """What a network is fitted to."""

    def losses(self, network: Any, step: int, rank: int, world: int) -> Tensor:
        """The loss of each latent of this rank's share of the `BATCH` of a step, (B,)."""

    def held_out_loss(self, network: Any) -> float:
        """The loss on latents that no step draws, as a share of that of an untrained network."""


def begun(network: nn.Module, loss: float, began_at: float, length: Length | None) -> Fit:
    """A fit of an untrained network with its held-out loss; by the clock, what was done since `began_at` counts."""
    optimizer = Muon(network.parameters(), LR, BETAS, EPSILON, WEIGHT_DECAY, momentum=MOMENTUM, fused=False)
    fit = Fit(network, copy.deepcopy(network), copy.deepcopy(network), optimizer)
    fit.counters["best_loss"] = loss
    if length is not None and length.by_clock:  # else the same draws would give another fit on a busy machine
        fit.counters["elapsed_sec"], _ = agree(time.monotonic() - began_at, 0)
    return fit


def run_fit(fit: Fit, length: Length, task: Task, device: torch.device | str, watch: Watch) -> None:
    """Step until the fit is over; what it found is in `fit.best`: the average of the weights with the least held-out
    loss, or the untrained network, where none does better. In float32: bf16 took twice as long on a CPU, whose time
    goes to small products.
    """
    rank, world = rank_and_world()
    started_at = time.monotonic() - fit.counters["elapsed_sec"]
    done = length.done(fit.counters)
    with without_autocast(torch.device(device)):
        while done < 1:
            step = int(fit.counters["step"])
            for group in fit.optimizer.param_groups:
                group["lr"] = LR * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
            loss = (
                task.losses(fit.network, step, rank, world).sum() * world / BATCH
            )  # its mean over ranks is the batch's
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
                look(fit, task)
            watch(fit, done)


@torch.no_grad()
def look(fit: Fit, task: Task) -> None:
    """Keep the averaged network if its held-out loss is the least so far."""
    fit.counters["held_out_loss"] = loss = task.held_out_loss(fit.averaged)
    if loss < fit.counters["best_loss"]:
        fit.counters["best_loss"] = loss
        fit.best.load_state_dict(fit.averaged.state_dict())


def held_out(latents: Latents, seed: int) -> tuple[Tensor, Tensor]:
    """Places of the latents to learn from and of those to judge by; of too few, none to judge by."""
    count = len(latents.mean)
    if count < FEWEST:
        return torch.arange(count), torch.arange(0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept = min(max(1, int(HELD_OUT * count)), HELD_OUT_MOST)
    return order[kept:], order[:kept]
