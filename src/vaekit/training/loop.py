"""Train a VAE on a folder of pictures: build, resume, and the one-page loop around `step.train_step`.

A run is a function of its config and its pictures: weights, order, flips and noise come from (seed, step), so a
resumed run needs no state of random generators, and ranks take their share of the same global batch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.optim import AdamW, Optimizer

from vaekit.config.settings import Config
from vaekit.data.cache import Prepared, prepare
from vaekit.data.loader import HeldOut, Stream, split
from vaekit.data.pixels import to_float
from vaekit.data.sources.folder import resolve_source
from vaekit.measures.quick import measure
from vaekit.models.posterior import MomentsMemory
from vaekit.models.vae import VAE, build_discriminator, build_vae
from vaekit.objectives.losses import GlobalELBO, Objective, StandardELBO
from vaekit.runs import checkpoint
from vaekit.runs.folder import (
    FIGURE_IMAGES,
    check_free,
    check_resumable,
    check_same_pictures,
    default_run,
    draw,
    resume_command,
    write_run,
)
from vaekit.runs.log import RunLog
from vaekit.runs.progress import fraction_done, learning_rate_factor, left_sec
from vaekit.system.devices import Fabric, launch, make_fabric, resolve_precision, synchronise_batch_norm
from vaekit.system.ranks import agree, from_rank_zero
from vaekit.system.signals import StopSignals
from vaekit.training import step
from vaekit.training.flops import step_flops
from vaekit.training.muon import Muon
from vaekit.training.step import NonFiniteLoss, TrainState, UsualNorm, train_step

TEST_BATCH = 25
PREPARE_LINE_EVERY_SEC = 5.0
ADAM_EPSILON = 1e-7  # Keras' default


def train(
    config: Config,
    images: str | Path,
    out: str | Path | None = None,
    resume: bool = False,
    change_settings: bool = False,
) -> VAE:
    """Train a VAE on a folder of pictures and return it (the running average of its weights, in evaluation mode).

    Writes the folder `out` (default: runs/<pictures>-<preset>-<size>): model.safetensors, config.json,
    pictures.json (their folder, and those that could not be read), log.jsonl, figures/*.png, tensorboard/ and
    checkpoints/. With `resume`, goes on from the newest whole checkpoint of `out`; with `change_settings` even if
    `config` has other settings than those it began with.

    Raises `ValueError` for settings or pictures that cannot work, before anything is written, `NonFiniteLoss` if the
    training diverges, and `OSError` if the disk does not take the finished run; on the way, that is only a warning.
    """
    config = config.resolved()
    run = Path(out) if out is not None else default_run(config, images)
    folder = resolve_source(str(images))
    newest, problems = check_resumable(run, config, change_settings) if resume else (None, [])
    if not resume:
        check_free(run)

    fabric = make_fabric(config)
    # Before the ranks meet: nobody waits in a collective, which has a time limit, for pictures to be prepared.
    prepared = prepare(folder, *config.image_size, config.channels, progress=preparing(Console(stderr=True)))
    if resume:
        check_same_pictures(run, prepared)
    train_indices, test_indices = split(prepared.names, config.split)
    if min(len(train_indices), len(test_indices)) < 2:
        raise ValueError(
            f"{len(train_indices)} of {len(prepared)} pictures to train on and {len(test_indices)} to test on: "
            f"variances need two or more of each; add some to {folder}, or move --split"
        )
    stream = Stream(prepared.images, train_indices, config.seed, config.flip)
    held_out = HeldOut(prepared.images, test_indices)

    launch(fabric)
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    state = build_state(fabric, config)
    if newest is not None:
        checkpoint.load(state, newest)
    if problems:
        console.print(f"WARNING: {'; '.join(problems)}; going on from {newest}", highlight=False, soft_wrap=True)
    if fabric.is_global_zero:
        write_run(run, None if resume else config, folder, prepared)
    console.print(summary(fabric, config, state, prepared, len(train_indices), run), highlight=False, soft_wrap=True)

    resumed, over = int(state.counters["step"]), fraction_done(config, state.counters) >= 1
    with RunLog(run, resumed, console, enabled=fabric.is_global_zero, measure_again=over) as log:
        finished = loop(fabric, config, state, stream, held_out, run, log)
    outcome = (
        f"done: model and figures are in {run}" if finished else f"stopped and saved; go on with: {resume_command(run)}"
    )
    console.print(outcome, highlight=False, soft_wrap=True)
    return state.ema.eval()


def loop(
    fabric: Fabric,
    config: Config,
    state: TrainState,
    stream: Stream,
    held_out: HeldOut,
    run: Path,
    log: RunLog,
) -> bool:
    """Step until the run is over (True) or somebody asks to stop (False); either way it is saved."""
    objective = build_objective(config, state.memory)
    counters = state.counters
    started_at = time.monotonic() - counters["elapsed_sec"]
    saved_at = logged_at = counters["elapsed_sec"]
    logged_images = counters["images_seen"]
    progress = fraction_done(config, counters)
    price = price_of_discriminator(config)
    stopping = False  # agreed on by all ranks: a signal that reaches one of them just now waits for the next step
    with StopSignals() as stop:
        while progress < 1 and not stopping:
            set_learning_rates(state, config, progress)
            adversarial = config.gan and progress >= config.discriminator.start
            losses = next_step(fabric, config, state, objective, stream, adversarial)
            update_ema(state.ema, state.vae.module, config.optimizer.ema, int(counters["step"]))

            counters["step"] += 1
            counters["images_seen"] += config.batch
            now, stopping = agree(time.monotonic() - started_at, stop.requested)
            counters["elapsed_sec"] = now
            before, progress = progress, fraction_done(config, counters)

            logging = counters["step"] % config.log_every_steps == 0 or progress >= 1
            saving = now - saved_at > 60 * config.save_every_minutes
            if logging or saving or fabric.device.type == "cpu":  # elsewhere looking means waiting for the device
                check_finite(state, run)
            if logging:
                rate = (counters["images_seen"] - logged_images) / (now - logged_at)
                logged_at, logged_images = now, counters["images_seen"]
                record = counters | {name: loss.item() for name, loss in losses.items()}
                record["images_per_sec"] = rate
                log.write(record)
                log.show(progress, record, left_sec(config, counters, rate, price))
            if math.floor(progress * config.draws) > math.floor(before * config.draws) and progress < 1:
                with going_on(log):
                    measure_and_draw(fabric, state, held_out, run, log, limit=FIGURE_IMAGES)
            if saving:
                saved_at = now
                if fabric.is_global_zero:
                    with going_on(log):
                        save(state, run, config, log)
    check_finite(state, run)
    if fabric.is_global_zero:
        save(state, run, config, log)
    if progress < 1:
        return False
    measure_and_draw(fabric, state, held_out, run, log)
    log.sync()
    return True


def price_of_discriminator(config: Config) -> float:
    """How many times as long a step with the discriminator takes, by its arithmetic; 1 where nobody needs to know."""
    if not config.gan or config.minutes is not None:
        return 1.0
    return step_flops(config, adversarial=True) / step_flops(config, adversarial=False)


@contextmanager
def going_on(log: RunLog) -> Iterator[None]:
    """What the disk does not take on the way is tried again later: a line of warning, not the end of the run."""
    try:
        yield
    except OSError as error:
        log.say(f"WARNING: {error}; training goes on, and tries again later")


def preparing(console: Console) -> Callable[[int, int], None]:
    """A report on the decoding of pictures for `prepare`: silent unless it takes a while."""
    reported_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= PREPARE_LINE_EVERY_SEC:
            reported_at = time.monotonic()
            console.print(f"preparing pictures: {done:,} of {total:,} (only once)", highlight=False)

    return report


def set_learning_rates(state: TrainState, config: Config, progress: float) -> None:
    """Move both optimisers along the schedule."""
    factor = learning_rate_factor(progress, config.optimizer.warmup, config.optimizer.decay)
    peaks = {"vae": config.lr, "discriminator": config.optimizer.discriminator_lr}
    for name, optimizer in state.optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = factor * peaks[name]


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


@torch.no_grad()
def update_ema(ema: VAE, vae: VAE, decay: float, step: int) -> None:
    """Move the running average of the weights one step; young runs forget faster. Buffers are copied."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(vae.parameters()), 1 - decay)
    for averaged, current in zip(ema.buffers(), vae.buffers(), strict=True):
        averaged.copy_(current)


def measure_and_draw(
    fabric: Fabric, state: TrainState, held_out: HeldOut, run: Path, log: RunLog, limit: int | None = None
) -> None:
    """Measure the averaged model on test pictures (the ranks share them) and draw (rank 0).

    In the precision of the run. bf16 moves the PSNR in the fourth digit (docs/log.md) and is several times faster.
    """
    for buffer in state.ema.buffers():  # ranks on CPUs have BatchNorm statistics of their own
        from_rank_zero(buffer)
    batches = (x.to(fabric.device) for x in held_out.batches(TEST_BATCH, limit))
    with fabric.autocast():
        measured, judged = measure(state.ema, batches, rank=fabric.global_rank, world=fabric.world_size)
    if not fabric.is_global_zero:
        return
    log.write(
        state.counters | {f"test/{name}": value for name, value in measured.items()} | {"test/verdict": judged.state}
    )
    log.say(
        f"step {state.counters['step']:,}, {measured['num_images']} test pictures: L1 {measured['l1']:.4f}, "
        f"PSNR {measured['psnr']:.2f} dB, Laplacian ratio {measured['laplacian_ratio']:.2f}, "
        f"{measured['active_units']} of {state.ema.latent_dim} entries active"
    )
    log.say(f"latents: {judged.sentence}" if judged.ok else f"WARNING, latents: {judged.sentence}")
    with fabric.autocast():
        draw(state.ema, run, held_out.some(FIGURE_IMAGES))


def save(state: TrainState, run: Path, config: Config, log: RunLog) -> None:
    """Write a checkpoint, and the averaged model where `VAE.from_pretrained` finds it.

    The log comes first: a resumed run must find every record up to its checkpoint. Raises `OSError` on a full disk.
    """
    try:
        log.sync()
        checkpoint.save(state, run, config)
        state.ema.save_pretrained(run)
    except OSError as error:
        at = f"step {int(state.counters['step']):,} of {run}"
        raise OSError(f"could not save {at}: {error}; make room there") from error


def build_objective(config: Config, memory: MomentsMemory | None = None) -> Objective:
    """The loss that a config names, with its weights; `memory` is that of the run, see `TrainState`."""
    weights = config.weights
    likelihood = {"l1": weights.l1, "realism": weights.realism, "features": weights.features}
    if config.objective == "global":
        moments = config.moments
        return GlobalELBO(weights.kl_global, weights.kl_individual, **likelihood, moments=moments, memory=memory)
    return StandardELBO(weights.kl_standard * (weights.beta if config.objective == "beta" else 1.0), **likelihood)


def build_state(fabric: Fabric, config: Config) -> TrainState:
    """Networks and optimisers from the seed. The VAE comes first: with or without a discriminator, it starts alike."""
    torch.manual_seed(config.seed)
    settings = config.optimizer
    fused = fabric.device.type in ("cpu", "cuda")
    synchronise = fabric.world_size > 1 and fabric.device.type == "cuda"

    vae = build_vae(config).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(vae).requires_grad_(False).to(fabric.device)
    weights = (vae.parameters(), config.lr, (settings.beta1, settings.beta2), ADAM_EPSILON, settings.weight_decay)
    optimizer: Optimizer
    if settings.kind == "muon":
        dtype = torch.bfloat16 if resolve_precision(config) == "bf16" else torch.float32
        on_device = fabric.device.type == "cuda"  # a CPU has nobody to wait for
        optimizer = Muon(*weights, momentum=settings.momentum, fused=on_device, dtype=dtype)
    else:
        optimizer = AdamW(*weights, fused=fused)
    if synchronise:
        synchronise_batch_norm(vae)
    if config.compile != "no":
        vae.encoder.compile(mode=config.compile)
        vae.decoder.compile(mode=config.compile)
    wrapped, wrapped_optimizer = fabric.setup(vae, optimizer)
    state = TrainState(wrapped, wrapped_optimizer, ema, UsualNorm().to(fabric.device))
    if config.moments_memory:
        state.memory = MomentsMemory(config.moments_memory, config.latent_dim).to(fabric.device)
    if config.gan:
        discriminator = build_discriminator(config).to(memory_format=torch.channels_last)
        optimizer = AdamW(
            discriminator.parameters(),
            settings.discriminator_lr,
            (settings.discriminator_beta1, settings.beta2),
            ADAM_EPSILON,
            weight_decay=0.0,
            fused=fused,
        )
        if synchronise:
            synchronise_batch_norm(discriminator)
        state.discriminator, state.discriminator_optimizer = fabric.setup(discriminator, optimizer)
    return state


def summary(fabric: Fabric, config: Config, state: TrainState, prepared: Prepared, num_train: int, run: Path) -> str:
    """What is about to happen, in three lines, and a fourth where ranks do not compute what one process would."""
    height, width = config.image_size
    parameters = sum(p.numel() for p in state.ema.parameters()) / 1e6
    length = f"{config.minutes:g} min" if config.minutes is not None else f"{config.images:,} images"
    skipped = f", {len(prepared.skipped)} unreadable (see pictures.json)" if prepared.skipped else ""
    own_share = fabric.world_size > 1 and fabric.device.type != "cuda" and has_batch_norm(config)
    note = "\nBatchNorm: each process normalises its own share of the batch" if own_share else ""
    return (
        f"{len(prepared):,} pictures at {height}x{width}: {num_train:,} to train, "
        f"{len(prepared) - num_train:,} to test{skipped}\n"
        f"preset {config.preset}, objective {config.objective}{' + PatchGAN' if config.gan else ''}: "
        f"{parameters:.1f} M parameters, {config.latent_dim} latent entries, batch {config.batch}, {length}\n"
        f"{fabric.world_size} x {fabric.device.type} in {resolve_precision(config)}; the run goes to {run}{note}"
    )


def has_batch_norm(config: Config) -> bool:
    """Whether a network has live BatchNorm, which mixes the images of a batch."""
    return "batch" in (config.network.norm, config.discriminator.norm if config.gan else None)


def check_finite(state: TrainState, run: Path) -> None:
    """Stop where the loss broke, and say what is left."""
    try:
        step.check_finite(state)
    except NonFiniteLoss as error:
        newest = checkpoint.latest(run)
        kept = f"the last good checkpoint is {newest}" if newest else "no checkpoint had been saved yet"
        raise NonFiniteLoss(
            f"{error}; stopped before the update, {kept}. Try a lower --lr, or --precision fp32"
        ) from error
