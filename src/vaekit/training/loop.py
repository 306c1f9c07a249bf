"""The one-page loop around `step.train_step`.

A run is a function of its config and its pictures: weights, order, flips and noise come from (seed, step), so a
resumed run needs no state of random generators, and ranks take their share of the same global batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.data.loader import Stream
from vaekit.data.pixels import to_float
from vaekit.networks.average import update_ema
from vaekit.objectives.build import build_objective
from vaekit.objectives.losses import Objective
from vaekit.runs.checkpoint import latest, save_checkpoint
from vaekit.runs.log import RunLog
from vaekit.runs.progress import Pace, fraction_done
from vaekit.system.devices import Fabric
from vaekit.system.processors import affinity, load
from vaekit.system.ranks import agree
from vaekit.system.signals import StopSignals
from vaekit.training.flops import step_flops
from vaekit.training.optimizers import set_learning_rates
from vaekit.training.state import TrainState, settle_batch_norm
from vaekit.training.step import NonFiniteLoss, check_finite, check_weights, split_batch, train_step
from vaekit.training.threads import ThreadWatch

SETTLE_STEPS = 10  # batches whose statistics the averaged model gets

Inspect = Callable[[bool], None]  # looks at the state of a run, at the end (True) or on the way; all ranks call it


def train_loop(
    fabric: Fabric, config: Config, state: TrainState, stream: Stream, run: Path, log: RunLog, inspect: Inspect
) -> int:
    """Step until the run is over (0) or a signal asks to stop (its number); either way it is saved."""
    objective = build_objective(config, state.beside)
    counters = state.counters
    pace = Pace(config, counters, price_of_discriminator(config))
    progress = fraction_done(config, counters)
    stopping = 0  # the signal, the same on all ranks: a signal that arrives after they agreed counts at the next step
    watch = thread_watch(fabric, config, pace.clock(), log)
    with StopSignals(log.say) as stop:
        while progress < 1 and not stopping:
            set_learning_rates(state.optimizers, config, progress)
            adversarial = config.gan and progress >= config.discriminator_start
            losses = next_step(fabric, config, state, objective.at(progress), stream, adversarial)
            update_ema(state.ema, state.vae.module, config.optimizer.ema, int(counters["step"]))

            counters["step"] += 1
            counters["images_seen"] += config.batch
            now, stopping = agree(pace.clock(), stop.requested)
            if watch is not None:
                watch.look(now)
            counters["elapsed_sec"] = now
            before, progress = progress, fraction_done(config, counters)

            logging = counters["step"] % config.log_every_steps == 0 or progress >= 1
            saving = pace.save_due(now, progress)
            if logging or saving or fabric.device.type == "cpu":  # elsewhere the check waits for the device
                stop_if_not_finite(state, run)
            if logging:
                rate = pace.images_per_sec(counters)
                record = counters | {name: loss.item() for name, loss in losses.items()} | {"images_per_sec": rate}
                log.write(record)
                log.show(progress, record, pace.left_sec(counters, rate), list(losses))
            drawing = math.floor(progress * config.draws) > math.floor(before * config.draws) and progress < 1
            if drawing or saving:
                settle_averaged(fabric, config, state, stream)
            if drawing:
                with warn_on_oserror(log):
                    inspect(False)
            if saving:
                pace.saved(now, progress)
                with warn_on_oserror(log):
                    save_run(fabric, state, run, config, log)
    settle_averaged(fabric, config, state, stream)
    stop_if_not_finite(state, run)
    save_run(fabric, state, run, config, log)
    if progress < 1:
        return stopping
    inspect(True)
    log.sync()
    return 0


def thread_watch(fabric: Fabric, config: Config, now: float, log: RunLog) -> ThreadWatch | None:
    """Watches, on a CPU, for other programs that keep processors busy; None where there are no threads to take away.

    Only a run that depends on the clock changes its threads: sums over other numbers of threads differ in their last
    bits. Others are told, and so are those whose user has set the number, or whose networks would be compiled again.
    """
    most = torch.get_num_threads()
    if fabric.device.type != "cpu" or fabric.world_size > 1 or most == 1:
        return None
    changes = config.minutes is not None and config.compile == "no" and "OMP_NUM_THREADS" not in os.environ

    @cache  # so that each is said once
    def tell(threads: int) -> None:
        what = f"{threads} of {most} threads are used meanwhile" if changes else f"--threads {threads} may be faster"
        if threads < most:
            log.say(f"other programs keep processors busy; {what}")

    def use(threads: int) -> None:
        if changes:
            torch.set_num_threads(threads)
        tell(threads)

    return ThreadWatch(most, affinity(), use, load, now)


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
    """The step on the batch that is next; returns its loss terms by name. The counters stay.

    Where the objective is `lagging`, in the first epoch, the encoder first has steps of its own on the batches after.
    """
    step = partial(
        train_step,
        fabric,
        state,
        objective,
        adversarial=adversarial,
        micro_batch=config.micro_batch,
        clip=config.optimizer.clip,
    )
    for ahead in range(encoder_steps_alone(config, stream, state.counters), 0, -1):
        position = state.counters | {"ahead": ahead}
        position["images_seen"] += ahead * config.batch
        step(*next_batch(fabric, config, stream, position), encoder_alone=True)
    return step(*next_batch(fabric, config, stream, state.counters))


def encoder_steps_alone(config: Config, stream: Stream, counters: dict[str, float]) -> int:
    """Steps of the encoder alone before the next one of all networks (He et al., ICLR 2019)."""
    first_epoch = counters["images_seen"] < len(stream.indices)
    read = "encoder_steps" in OBJECTIVES[config.objective].settings
    return config.encoder_steps - 1 if read and first_epoch else 0


def settle_averaged(fabric: Fabric, config: Config, state: TrainState, stream: Stream) -> None:
    """Give the averaged model BatchNorm statistics of its own, before it is measured and saved.

    From the first pictures of the run, in parts as the training step has them; each rank takes all of them, and so has
    the statistics of one process.
    """

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(SETTLE_STEPS):
            position: dict[str, float] = {"step": step, "images_seen": step * config.batch}
            x, eps = next_batch(fabric, config, stream, position, rank=0, world=1)
            for chunk in split_batch(len(x), config.micro_batch or math.ceil(len(x) / fabric.world_size)):
                yield x[chunk], eps[chunk]

    with fabric.autocast():
        settle_batch_norm(state.ema, batches())


def next_batch(
    fabric: Fabric,
    config: Config,
    stream: Stream,
    counters: dict[str, float],
    rank: int | None = None,
    world: int | None = None,
) -> tuple[Tensor, Tensor]:
    """This rank's share of the step's pictures x (B, C, H, W) in [-1, 1] and noise eps (B, d).

    The noise is drawn for the global batch on the CPU, so it is the same on any number and kind of devices. It is that
    of the step, and of how many batches `ahead` of it this one is.
    """
    rank = fabric.global_rank if rank is None else rank
    world = world or fabric.world_size
    place = [int(counters[name]) for name in ("step", "ahead") if name in counters]
    seed = np.random.SeedSequence([config.seed, *place]).generate_state(2)
    torch.manual_seed(int(seed[0]) + rank)  # dropout
    noise = torch.Generator().manual_seed(int(seed[1]))
    eps = torch.randn(config.batch, config.noise_dim, generator=noise)
    pictures = stream.batch(int(counters["images_seen"]), config.batch, rank, world)
    x = to_float(to_device(pictures, fabric.device)).contiguous(memory_format=torch.channels_last)
    return x, to_device(eps.chunk(world)[rank], fabric.device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device, on CUDA without waiting for it.

    Only pinned memory is kept until it is copied: elsewhere `non_blocking` would read memory that is free again
    (https://github.com/pytorch/pytorch/issues/189690).
    """
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def save_run(fabric: Fabric, state: TrainState, run: Path, config: Config, log: RunLog) -> None:
    """Write a checkpoint, and the averaged model where `VAE.from_pretrained` finds it; only rank 0 writes.

    The log is written first: a resumed run must find every record up to its checkpoint. The config of the run is
    written after the checkpoint with the same settings. Raises `NonFiniteLoss` on every rank for a weight that is not
    finite, and `OSError` on a full disk.
    """
    check_before_save(state, run)
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
    """Raise `NonFiniteLoss` if a loss or gradient was not finite, and name the last good checkpoint."""
    with last_good_named(run, "stopped before the update"):
        check_finite(state)


def check_before_save(state: TrainState, run: Path) -> None:
    """Raise `NonFiniteLoss` if a weight is not finite, and name the last good checkpoint."""
    with last_good_named(run, "not saved"):
        check_weights(state)


@contextmanager
def last_good_named(run: Path, done: str) -> Iterator[None]:
    """Add to a `NonFiniteLoss` what was done, where to go on from, and what to try."""
    try:
        yield
    except NonFiniteLoss as error:
        newest = latest(run)
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint had been saved yet"
        raise NonFiniteLoss(f"{error}; {done}, {kept}. Try a lower --lr, or --precision fp32") from error
