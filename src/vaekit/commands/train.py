"""Train a VAE on a folder of pictures: pictures, ranks, state and log are gathered here, and handed to the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from vaekit.config.settings import Config
from vaekit.data.cache import Prepared, prepare
from vaekit.data.loader import HeldOut, Stream, split
from vaekit.data.sources.folder import resolve_source
from vaekit.measures.quick import measure
from vaekit.models.vae import VAE
from vaekit.runs.checkpoint import load_checkpoint
from vaekit.runs.folder import FIGURE_IMAGES, default_run, write_run
from vaekit.runs.log import RunLog
from vaekit.runs.progress import fraction_done
from vaekit.runs.resume import check_free, check_resumable, check_same_pictures, resume_command
from vaekit.system.devices import Fabric, launch, resolve_precision
from vaekit.system.ranks import from_rank_zero
from vaekit.training.loop import train_loop
from vaekit.training.state import TrainState, build_state, fabric_of

TEST_BATCH = 25
PREPARE_LINE_EVERY_SEC = 5.0


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
    training diverges, and `OSError` if the finished run cannot be written; before its end that is only a warning.
    """
    config = config.resolved()
    run = Path(out) if out is not None else default_run(config, images)
    folder = resolve_source(str(images))
    newest, problems = check_resumable(run, config, change_settings) if resume else (None, [])
    if not resume:
        check_free(run)

    fabric = fabric_of(config)
    # Before the ranks connect: collectives have a time limit, which a rank could exceed waiting for the pictures.
    prepared = prepare(folder, *config.image_size, config.channels, progress=preparing(Console(stderr=True)))
    if resume:
        check_same_pictures(run, prepared)
    pictures = split_pictures(prepared, config)

    launch(fabric)
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    state = build_state(fabric, config)
    if newest is not None:
        load_checkpoint(state, newest)
    if problems:
        tell(console, f"WARNING: {'; '.join(problems)}; going on from {newest}")
    if fabric.is_global_zero:
        write_run(run, None if resume else config, folder, prepared)
    tell(console, summary(fabric, config, state, pictures, run))

    resumed, over = int(state.counters["step"]), fraction_done(config, state.counters) >= 1
    with RunLog(run, resumed, console, enabled=fabric.is_global_zero, measure_again=over) as log:
        inspect = partial(measure_and_draw, fabric, config, state, pictures.held_out, run, log)
        finished = train_loop(fabric, config, state, pictures.stream, run, log, inspect)
    stopped = f"stopped and saved; go on with: {resume_command(run)}"
    tell(console, f"done: model and figures are in {run}" if finished else stopped)
    return state.ema.eval()


def tell(console: Console, text: str) -> None:
    """Print text as it is."""
    console.print(text, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class TrainingPictures:
    """The pictures of a run: those it learns from, and those it is measured on."""

    prepared: Prepared
    train_indices: np.ndarray
    test_indices: np.ndarray
    stream: Stream
    held_out: HeldOut


def split_pictures(prepared: Prepared, config: Config) -> TrainingPictures:
    """The pictures of a run, to learn from and to measure on. Raises `ValueError` if there are too few of them."""
    train_indices, test_indices = split(prepared.names, config.split)
    if min(len(train_indices), len(test_indices)) < 2:
        raise ValueError(
            f"{len(train_indices)} of {len(prepared)} pictures to train on and {len(test_indices)} to test on: "
            f"variances need two or more of each; add some to {prepared.folder}, or move --split"
        )
    stream = Stream(prepared.images, train_indices, config.seed, config.flip)
    return TrainingPictures(prepared, train_indices, test_indices, stream, HeldOut(prepared.images, test_indices))


def preparing(console: Console) -> Callable[[int, int], None]:
    """A report on the decoding of pictures for `prepare`: silent unless it takes a while."""
    reported_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= PREPARE_LINE_EVERY_SEC:
            reported_at = time.monotonic()
            console.print(f"preparing pictures: {done:,} of {total:,} (only once)", highlight=False)

    return report


def summary(fabric: Fabric, config: Config, state: TrainState, pictures: TrainingPictures, run: Path) -> str:
    """What is about to happen, in three lines, and a fourth where ranks do not compute what one process would."""
    height, width = config.image_size
    parameters = sum(p.numel() for p in state.ema.parameters()) / 1e6
    length = f"{config.minutes:g} min" if config.minutes is not None else f"{config.images:,} images"
    prepared = pictures.prepared
    skipped = f", {len(prepared.skipped)} unreadable (see pictures.json)" if prepared.skipped else ""
    own_share = fabric.world_size > 1 and fabric.device.type != "cuda" and has_batch_norm(config)
    note = "\nBatchNorm: each process normalises its own share of the batch" if own_share else ""
    precision = resolve_precision(config.device, config.precision)
    return (
        f"{len(prepared):,} pictures at {height}x{width}: {len(pictures.train_indices):,} to train, "
        f"{len(pictures.test_indices):,} to test{skipped}\n"
        f"preset {config.preset}, objective {config.objective}{' + PatchGAN' if config.gan else ''}: "
        f"{parameters:.1f} M parameters, {config.latent_dim} latent entries, batch {config.batch}, {length}\n"
        f"{fabric.world_size} x {fabric.device.type} in {precision}; the run goes to {run}{note}"
    )


def has_batch_norm(config: Config) -> bool:
    """Whether a network has live BatchNorm, which mixes the images of a batch."""
    return "batch" in (config.network.norm, config.discriminator.norm if config.gan else None)


def measure_and_draw(
    fabric: Fabric, config: Config, state: TrainState, held_out: HeldOut, run: Path, log: RunLog, at_end: bool
) -> None:
    """Measure the averaged model on test pictures (the ranks share them) and draw its figures (rank 0).

    Before the end of the run only some of the test pictures are used. The model runs in the precision of the run: bf16
    moves the PSNR in the fourth digit (docs/log.md) and is several times faster.
    """
    for buffer in state.ema.buffers():  # ranks on CPUs have BatchNorm statistics of their own
        from_rank_zero(buffer)
    batches = (x.to(fabric.device) for x in held_out.batches(TEST_BATCH, None if at_end else FIGURE_IMAGES))
    with fabric.autocast():
        measured, judged = measure(
            state.ema, batches, objective=config.objective, rank=fabric.global_rank, world=fabric.world_size
        )
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
    from vaekit.commands.draw import draw_figures  # here, since matplotlib would delay the first step

    with fabric.autocast():
        draw_figures(state.ema, run, held_out.some(FIGURE_IMAGES), config.seed)
