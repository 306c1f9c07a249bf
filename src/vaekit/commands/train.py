"""Train a VAE on a folder of pictures: pictures, ranks, state and log are gathered here, and handed to the loop."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from vaekit.commands.prepare import check_all_read, preparing
from vaekit.commands.summary import summary
from vaekit.config.changes import deciding
from vaekit.config.settings import Config
from vaekit.data.cache import Prepared, open_entry, prepare_as
from vaekit.data.loader import HeldOut, Stream, split
from vaekit.data.sources.base import Source
from vaekit.data.sources.naming import Pictures, source_of
from vaekit.measures.quick import MOST_MEASURED, measure
from vaekit.models.vae import VAE
from vaekit.runs.begin import begin_with, leaked
from vaekit.runs.checkpoint import load_checkpoint
from vaekit.runs.folder import FIGURE_IMAGES, check_apart, default_run, is_run, view_of, write_run
from vaekit.runs.lock import claimed
from vaekit.runs.log import MEASURED, RunLog
from vaekit.runs.progress import fraction_done
from vaekit.runs.resume import check_free, check_resumable, check_same_pictures, over, resume_command
from vaekit.runs.watching import Callbacks, OnMeasure, OnStep, tracked
from vaekit.system.devices import Fabric, float32_products, launch, own_generators, own_threads, resolve_precision
from vaekit.system.ranks import (
    check_alike,
    from_first_of_machine,
    is_first_of_machine,
    is_first_process,
    object_from_rank_zero,
)
from vaekit.system.signals import end_as_asked
from vaekit.training.loop import train_loop
from vaekit.training.state import TrainState, build_state, fabric_of

TEST_BATCH = 25


def train(
    config: Config,
    images: Pictures,
    out: str | Path | None = None,
    resume: bool = False,
    change_settings: bool = False,
    *,
    on_step: OnStep | None = None,
    on_measure: OnMeasure | None = None,
) -> VAE:
    """Train a VAE on pictures and return it (the running average of its weights, in evaluation mode).

    `images` are a folder, another source by its path or address, or an array, a tensor or a data set: see `source_of`.
    Writes the folder `out` (default: `runs/<pictures>-<preset>-<size>`): model.safetensors, config.json,
    pictures.json (their folder, and those that could not be read), trained_on.npy (checksums of those it trained on),
    log.jsonl, figures/*.png, tensorboard/ and checkpoints/. With `resume`, goes on from the newest whole checkpoint of
    `out`, or starts the run where there is none yet; with `change_settings` even if `config` has other settings than
    those it began with. A run that is over is not trained again. Random generators of the caller stay as they are.
    `on_step` is called with each record of the log, `on_measure` with what was measured on test pictures and the paths
    of the figures, both in the process of rank 0; what they raise ends the training.

    Ctrl-C and SIGTERM end the training after the current step: it is saved, and `KeyboardInterrupt` or `SystemExit`
    raised. Raises `ValueError` for settings or pictures that cannot work, before anything is written, and for a run
    that another process is training; `NonFiniteLoss` if the training diverges, and `OSError` if the finished run cannot
    be written; before its end that is only a warning.
    """
    config = config.resolved()
    source = source_of(images)
    run = Path(out) if out is not None else default_run(config, source)
    if is_run(source.folder):
        raise ValueError(f"{images} is a run, not pictures; to go on with it: vaekit train --resume {images}")
    check_apart(run, source.folder)
    choose = partial(starting_point, run, config, resume, change_settings)
    start = choose() if is_first_process() else Start()
    with own_threads(config.threads), own_generators(), float32_products(config.precision == "tf32"):
        return train_on(fabric_of(config), config, run, source, start, choose, Callbacks(on_step, on_measure))


def train_on(
    fabric: Fabric,
    config: Config,
    run: Path,
    source: Source,
    start: Start,
    choose: Callable[[], Start],
    callbacks: Callbacks,
) -> VAE:
    """Train on devices that are not launched yet; what `train` returns and raises. `choose` gives `start` again."""
    first = is_first_process()
    look = partial(prepare_as, source, view_of(config), progress=preparing(Console(stderr=True)))
    prepared = look() if is_first_of_machine() and "TORCHELASTIC_RUN_ID" not in os.environ else None
    if prepared is not None and first:
        check_pictures(start, run, prepared, config)  # before other processes are started
        if start.over:
            return finished_model(run, first)
    launch(fabric)
    with claimed(run, first):
        prepared = opened(from_first_of_machine(lambda: place_of(prepared or look())))
        identity = f"{prepared.crc32:08x} {prepared.names_sha256[:8]}"
        check_alike(pictures=identity, settings=json.dumps(deciding(config)))
        check_alike("choose --precision bf16 or fp32", precision=resolve_precision(config.device, config.precision))
        if first:
            start = choose()  # no other process can change the folder from here on
            check_pictures(start, run, prepared, config)
        start = object_from_rank_zero(start)
        if start.over:
            return finished_model(run, first)
        return train_in(fabric, config, run, split_pictures(prepared, config), start, callbacks)


def train_in(
    fabric: Fabric, config: Config, run: Path, pictures: TrainingPictures, start: Start, callbacks: Callbacks
) -> VAE:
    """Train in the folder of a run that no other process writes, from `start`; what `train` returns and raises."""
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    state = build_state(fabric, config)
    if start.newest is not None:
        load_checkpoint(state, start.newest)
    elif config.init_from is not None:
        source, held_out = Path(config.init_from), pictures.prepared.checksums[pictures.test_indices]
        for line in filter(None, (begin_with(source, state.networks), leaked(source, held_out))):
            tell(console, line)
    step = int(state.counters["step"])
    check_alike(step=f"{step:,}")
    if start.problems:
        tell(console, f"WARNING: {'; '.join(start.problems)}; going on from {start.newest}")
    watchers = [callbacks, *tracked(run, config, fabric.is_global_zero, partial(tell, console))]
    if fabric.is_global_zero:
        fresh = config if start.newest is None else None
        write_run(run, fresh, pictures.prepared, pictures.train_indices)
    splits = pictures.prepared, pictures.train_indices, pictures.test_indices
    tell(console, summary(fabric, config, state.ema, *splits, run))

    again = fraction_done(config, state.counters) >= 1
    with RunLog(run, step, console, fabric.is_global_zero, again, watchers) as log:

        def inspect(at_end: bool) -> None:
            if at_end:
                fit_the_prior(config, state, pictures, run, log)
            measure_and_draw(fabric, config, state, pictures.held_out, run, log, at_end)

        stopped_by = train_loop(fabric, config, state, pictures.stream, run, log, inspect)
    if stopped_by:
        tell(console, f"stopped and saved; go on with: {resume_command(run)}")
        end_as_asked(stopped_by)
    tell(console, f"done: model and figures are in {run}")
    return state.ema.eval()


@dataclass(frozen=True)
class Start:
    """Where a run starts: from its newest usable checkpoint, with what is wrong with those after it; or anew.

    `over`: there is nothing left to train, measure or draw.
    """

    newest: Path | None = None
    problems: tuple[str, ...] = ()
    over: bool = False


def starting_point(run: Path, config: Config, resume: bool, change_settings: bool) -> Start:
    """Where the run in a folder starts. Raises `ValueError` if it cannot go on, or the folder is taken."""
    if not resume:
        check_free(run)
        return Start()
    newest, problems = check_resumable(run, config, change_settings)
    return Start(newest, tuple(problems), newest is not None and over(run, config, newest))


def finished_model(run: Path, first: bool) -> VAE:
    """The model of a run that is over; a command that is repeated, by a scheduler for instance, ends well."""
    longer = "to train it longer, add --change-settings and more --minutes or --images"
    tell(Console(stderr=True, quiet=not first), f"{run} is finished; {longer}")
    return VAE.from_pretrained(run)


def check_pictures(start: Start, run: Path, prepared: Prepared, config: Config) -> None:
    """Raise `ValueError` for too few pictures, or others than a run that goes on began with; and for unread ones."""
    if config.strict:
        check_all_read(prepared)
    if start.newest is not None:
        check_same_pictures(run, prepared)
    split_pictures(prepared, config)


def place_of(prepared: Prepared) -> str:
    """What other processes of this machine need to open prepared pictures."""
    return json.dumps([str(prepared.path), prepared.place, dict(prepared.passed_over)])


def opened(place: str) -> Prepared:
    """The prepared pictures at a place in the cache of this machine."""
    entry, source, passed_over = json.loads(place)
    prepared = open_entry(Path(entry))
    if prepared is None:
        raise ValueError(f"the prepared pictures in {entry} are gone; start again, which prepares them anew")
    return dataclasses.replace(prepared, place=source, passed_over=passed_over)


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
    train_indices, test_indices = split(prepared.names, config.split, config.split_by)
    if min(len(train_indices), len(test_indices)) < 2:
        raise ValueError(
            f"{len(train_indices)} of {len(prepared)} pictures to train on and {len(test_indices)} to test on: "
            f"variances need two or more of each; add some to {prepared.place}, or move --split"
        )
    stream = Stream(prepared.images, train_indices, config.seed, config.flip)
    return TrainingPictures(prepared, train_indices, test_indices, stream, HeldOut(prepared.images, test_indices))


def fit_the_prior(config: Config, state: TrainState, pictures: TrainingPictures, run: Path, log: RunLog) -> None:
    """Fit what new pictures are drawn from, to the averaged model of a finished training; all ranks call it."""
    from vaekit.commands.fit_prior import Subject, fit_after_training  # here, since it would delay the first step

    subject = Subject(run, state.ema, config, pictures.prepared, pictures.train_indices, pictures.test_indices)
    with float32_products():
        fit_after_training(subject, state.counters["images_seen"], state.counters["elapsed_sec"], log.say)


def measure_and_draw(
    fabric: Fabric, config: Config, state: TrainState, held_out: HeldOut, run: Path, log: RunLog, at_end: bool
) -> None:
    """Measure the averaged model on test pictures (the ranks share them) and draw its figures (rank 0).

    Before the end of the run only some of the test pictures are used, and at its end at most 10,000. The model runs in
    the precision of the run: bf16 moves the PSNR in the fourth digit (docs/log.md).
    """
    batches = held_out.batches(TEST_BATCH, MOST_MEASURED if at_end else FIGURE_IMAGES)
    with fabric.autocast(), float32_products():
        measured, judged = measure(
            state.ema, batches, objective=config.objective, rank=fabric.global_rank, world=fabric.world_size
        )
    if not fabric.is_global_zero:
        return
    tested: dict[str, float | str] = {f"{MEASURED}{name}": value for name, value in measured.items()}
    record = {**state.counters, **tested, f"{MEASURED}verdict": judged.state}
    log.write(record)
    log.say(
        f"step {state.counters['step']:,}, {measured['num_images']} test pictures: L1 {measured['l1']:.4f}, "
        f"PSNR {measured['psnr']:.2f} dB, Laplacian ratio {measured['laplacian_ratio']:.2f}, "
        f"{measured['active_units']} of {state.ema.latent_dim} entries active"
    )
    log.say(f"latents: {judged.sentence}" if judged.ok else f"WARNING, latents: {judged.sentence}")
    from vaekit.commands.draw import draw_figures  # here, since matplotlib would delay the first step

    with fabric.autocast(), float32_products():
        log.measured(record, draw_figures(state.ema, run, held_out.some(FIGURE_IMAGES), config.seed))
