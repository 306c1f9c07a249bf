"""The one-page loop around `step.train_step`.

A run is a function of its config and its pictures: weights, order, flips and noise come from (seed, step), so a
resumed run needs no state of random generators, and ranks take their share of the same global batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaekit.config.settings import Config
from vaekit.data.loader import Stream
from vaekit.data.pixels import to_float
from vaekit.objectives.build import build_objective
from vaekit.objectives.losses import Objective
from vaekit.runs.checkpoint import latest, save_checkpoint
from vaekit.runs.log import RunLog
from vaekit.runs.progress import Pace, fraction_done
from vaekit.system.devices import Fabric
from vaekit.system.ranks import agree
from vaekit.system.signals import StopSignals
from vaekit.training.flops import step_flops
from vaekit.training.optimizers import set_learning_rates
from vaekit.training.state import TrainState, update_ema
from vaekit.training.step import NonFiniteLoss, check_finite, train_step

Inspect = Callable[[bool], None]  # looks at the state of a run, at the end (True) or on the way; all ranks call it


def train_loop(
    fabric: Fabric, config: Config, state: TrainState, stream: Stream, run: Path, log: RunLog, inspect: Inspect
) -> bool:
    """Step until the run is over (True) or a signal asks to stop (False); either way it is saved."""
    objective = build_objective(config, state.memory)
    counters = state.counters
    pace = Pace(config, counters, price_of_discriminator(config))
    progress = fraction_done(config, counters)
    stopping = False  # the same on all ranks: a signal that arrives after they agreed counts at the next step
    with StopSignals() as stop:
        while progress < 1 and not stopping:
            set_learning_rates(state.optimizers, config, progress)
            adversarial = config.gan and progress >= config.discriminator.start
            losses = next_step(fabric, config, state, objective, stream, adversarial)
            update_ema(state.ema, state.vae.module, config.optimizer.ema, int(counters["step"]))

            counters["step"] += 1
            counters["images_seen"] += config.batch
            now, stopping = agree(pace.clock(), stop.requested)
            counters["elapsed_sec"] = now
            before, progress = progress, fraction_done(config, counters)

            logging = counters["step"] % config.log_every_steps == 0 or progress >= 1
            saving = pace.save_due(now)
            if logging or saving or fabric.device.type == "cpu":  # elsewhere the check waits for the device
                stop_if_not_finite(state, run)
            if logging:
                rate = pace.images_per_sec(counters)
                record = counters | {name: loss.item() for name, loss in losses.items()} | {"images_per_sec": rate}
                log.write(record)
                log.show(progress, record, pace.left_sec(counters, rate), list(losses))
            if math.floor(progress * config.draws) > math.floor(before * config.draws) and progress < 1:
                with warn_on_oserror(log):
                    inspect(False)
            if saving:
                pace.saved(now)
                with warn_on_oserror(log):
                    save_run(fabric, state, run, config, log)
    stop_if_not_finite(state, run)
    save_run(fabric, state, run, config, log)
    if progress < 1:
        return False
    inspect(True)
    log.sync()
    return True


def price_of_discriminator(config: Config) -> float:
    """How many times as long a step with the discriminator takes, by its arithmetic; 1 where it does not matter."""
    if not config.gan or config.minutes is not None:
        return 1.0
    return step_flops(config, adversarial=True) / step_flops(config, adversarial=False)


@contextmanager
def warn_on_oserror(log: RunLog) -> Iterator[None]:
    """Turn a failed write into a line of warning: the run goes on, and the write is tried again later."""
    try:
        yield
    except OSError as error:
        log.say(f"WARNING: {error}; training goes on, and tries again later")


def next_step(
    fabric: Fabric, config: Config, state: TrainState, objective: Objective, stream: Stream, adversarial: bool
) -> dict[str, Tensor]:
    """The step on the batch that is next; returns its loss terms by name. The counters stay."""
    x, eps = next_batch(fabric, config, stream, state.counters)
    return train_step(
        fabric,
        state,
        objective,
        x,
        eps,
        adversarial=adversarial,
        micro_batch=config.micro_batch,
        clip=config.optimizer.clip,
    )


def next_batch(fabric: Fabric, config: Config, stream: Stream, counters: dict[str, float]) -> tuple[Tensor, Tensor]:
    """This rank's share of the step's pictures x (B, C, H, W) in [-1, 1] and noise eps (B, d).

    The noise is drawn for the global batch on the CPU, so it is the same on any number and kind of devices.
    """
    seed = np.random.SeedSequence([config.seed, int(counters["step"])]).generate_state(2)
    torch.manual_seed(int(seed[0]) + fabric.global_rank)  # dropout
    noise = torch.Generator().manual_seed(int(seed[1]))
    eps = torch.randn(config.batch, config.latent_dim, generator=noise)
    pictures = stream.batch(int(counters["images_seen"]), config.batch, fabric.global_rank, fabric.world_size)
    x = to_float(to_device(pictures, fabric.device)).contiguous(memory_format=torch.channels_last)
    return x, to_device(eps.chunk(fabric.world_size)[fabric.global_rank], fabric.device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device, without waiting for it: a copy to CUDA is only asynchronous from pinned memory."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def save_run(fabric: Fabric, state: TrainState, run: Path, config: Config, log: RunLog) -> None:
    """Write a checkpoint, and the averaged model where `VAE.from_pretrained` finds it; only rank 0 writes.

    The log is written first: a resumed run must find every record up to its checkpoint. The config of the run is
    written after the checkpoint with the same settings. Raises `OSError` on a full disk.
    """
    if not fabric.is_global_zero:
        return
    try:
        log.sync()
        save_checkpoint(state, run, config)
        state.ema.save_pretrained(run)
    except OSError as error:
        at = f"step {int(state.counters['step']):,} of {run}"
        raise OSError(f"could not save {at}: {error}; make room there") from error


def stop_if_not_finite(state: TrainState, run: Path) -> None:
    """Raise `NonFiniteLoss` if a loss was not finite, and name the last good checkpoint."""
    try:
        check_finite(state)
    except NonFiniteLoss as error:
        newest = latest(run)
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint had been saved yet"
        raise NonFiniteLoss(
            f"{error}; stopped before the update, {kept}. Try a lower --lr, or --precision fp32"
        ) from error
