"""The folder of a run: what is in it, whether it can take a run, and drawing from it again."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from vaekit.config.settings import Config, changes
from vaekit.data.cache import Prepared, prepare
from vaekit.data.loader import HeldOut, split
from vaekit.data.sources.folder import resolve_source
from vaekit.models.vae import CONFIG_FILE, VAE, WEIGHTS_FILE
from vaekit.runs import checkpoint
from vaekit.runs.log import read_records
from vaekit.runs.progress import fraction_done
from vaekit.system.files import remove_unfinished, write_text

PICTURES_FILE = "pictures.json"
FIGURES_FOLDER = "figures"
FIGURE_IMAGES = 400  # the paper's fig. 6 shows 400 test images
SHAPES = "the weights of its checkpoints would not fit"
UNCHANGEABLE = {  # settings that a run cannot change on its way, by how their names begin, and why
    "preset": "it is only the name of a set of settings; change those",
    "size": SHAPES,
    "channels": SHAPES,
    "network.": SHAPES,
    "discriminator.channels": SHAPES,
    "discriminator.kernel": SHAPES,
    "discriminator.norm": SHAPES,
    "optimizer.kind": "its checkpoints hold what the other optimiser remembers",
    "moments_memory": "its checkpoints do not remember that many steps",
    "split": "test pictures would be some that it has trained on",
}


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a run came from, as kept in its folder."""

    folder: str
    fingerprint: str
    num_images: int
    skipped: list[tuple[str, str]]
    crc32: int | None = None  # of the pixels; runs of before have none

    def are(self, prepared: Prepared) -> bool:
        """Whether they are these ones: the same files, or the same pixels in other files."""
        return prepared.fingerprint == self.fingerprint or prepared.crc32 == self.crc32


def default_run(config: Config, images: str | Path, prefix: str = "") -> Path:
    """runs/<prefix><pictures>-<preset>-<size>."""
    height, width = config.image_size
    size = str(height) if height == width else f"{height}x{width}"
    return Path("runs") / f"{prefix}{Path(images).resolve().name}-{config.preset}-{size}"


def check_free(run: Path) -> None:
    """Raise `ValueError` if `run` holds a run that saved something."""
    if checkpoint.all_checkpoints(run) or (run / WEIGHTS_FILE).exists():
        raise ValueError(f"{run} already holds a run; add --resume to go on with it, or give another --out")


def resume_command(run: Path) -> str:
    """What to type to go on with a run."""
    return f"vaekit train --resume --out {shlex.quote(str(run))}"


def check_resumable(run: Path, config: Config, change_settings: bool = False) -> tuple[Path, list[str]]:
    """The newest checkpoint of `run` that can be used, and what is wrong with those after it.

    Raises `ValueError` if there is none, or if the settings are not its own and may not or cannot be changed.
    """
    saved = read_config(run)
    check_settings(run, saved, config, change_settings)
    if not checkpoint.all_checkpoints(run):
        raise ValueError(f"{run} ended before its first checkpoint; leave out --resume to start it anew")
    newest, problems = checkpoint.newest_usable(run, saved, config)
    if newest is None:
        raise ValueError(f"no checkpoint to go on from: {'; '.join(problems)}; start anew with another --out")
    return newest, problems


def check_settings(run: Path, saved: Config, config: Config, change_settings: bool = False) -> None:
    """Raise `ValueError` if settings that decide what is computed differ from those of the run, by name.

    With `change_settings` only for those that cannot change on the way: the others count from here on.
    """
    changed = changes(saved, config)
    if changed and not change_settings:
        listed = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise ValueError(
            f"{run} began with other settings: {listed}; leave these out to go on as it began, "
            "or have them from here on with --resume --change-settings"
        )
    for name, (old, new) in changed.items():
        reasons = [reason for start, reason in UNCHANGEABLE.items() if name.startswith(start)]
        if name == "gan" and new:
            reasons = ["its checkpoints hold no discriminator"]
        if reasons:
            raise ValueError(f"{run} cannot change {name} from {old!r} to {new!r}: {reasons[0]}")


def finished(run: Path, config: Config) -> bool:
    """Whether `run` holds a run with these settings that came to its end. Raises `ValueError` for other settings."""
    if not checkpoint.all_checkpoints(run):
        return False
    check_settings(run, read_config(run), config)
    newest, _ = checkpoint.newest_usable(run, config)
    return newest is not None and fraction_done(config, checkpoint.counters(newest)) >= 1


def check_same_pictures(run: Path, prepared: Prepared) -> None:
    """Raise `ValueError` if `run` began with other pictures than `prepared`.

    Nobody would know which of those it has trained on. The same pixels in the same order are the same pictures,
    wherever they lie.
    """
    before = read_pictures(run)
    if not before.are(prepared):
        raise ValueError(
            f"{run} began with other pictures than the {len(prepared)} now in {prepared.folder}: with "
            f"{before.num_images} in {before.folder} as they were; bring those back, or give another --out"
        )


def read_config(run: Path) -> Config:
    """The config of a run. Raises `ValueError` if the folder holds no run."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"no run in {run}: {CONFIG_FILE} is missing; leave out --resume to start one")
    try:
        return Config.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_pictures(run: Path) -> Pictures:
    """Where the pictures of a run came from. Raises `ValueError` if the run does not say."""
    path = run / PICTURES_FILE
    if not path.is_file():
        raise ValueError(f"no {PICTURES_FILE} in {run}; name the folder of pictures")
    try:
        return Pictures(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say where the pictures are ({error}); name their folder") from error


def write_run(run: Path, config: Config | None, folder: Path, prepared: Prepared) -> None:
    """Open the folder of a run: its config, and where its pictures came from.

    A run that goes on has a config, None here: changed settings become its own with its next checkpoint.
    """
    run.mkdir(parents=True, exist_ok=True)
    for place in (run, run / FIGURES_FOLDER):
        remove_unfinished(place)
    if config is not None:
        write_text(config.to_json() + "\n", run / CONFIG_FILE)
    skipped = list(prepared.skipped)
    pictures = Pictures(str(folder.resolve()), prepared.fingerprint, len(prepared), skipped, prepared.crc32)
    write_text(json.dumps(asdict(pictures), indent=2) + "\n", run / PICTURES_FILE)


def draw_run(run: str | Path, images: str | Path | None = None) -> list[Path]:
    """Draw the figures of a finished run again, from its own test pictures or from those of another folder.

    Of another folder all pictures are test pictures. Returns the paths of the PNGs in `run`/figures. Raises
    `ValueError` if the folder holds no finished run, or the pictures are gone.
    """
    run = Path(run)
    vae = VAE.from_pretrained(run)
    prepared, test = held_out_of(run, vae.config, images)
    return draw(vae, run, HeldOut(prepared.images, test).some(FIGURE_IMAGES))


def held_out_of(run: Path, config: Config, images: str | Path | None = None) -> tuple[Prepared, np.ndarray]:
    """The pictures to measure a run with, and which of them it has not trained on: all, if they are not its own.

    `images` is their folder, None for the run's own. Raises `ValueError` if those are gone or have changed.
    """
    if images is None:
        prepared = own_pictures(run, config)
    else:
        prepared = prepare(resolve_source(str(images)), *config.image_size, config.channels)
    own = (run / PICTURES_FILE).is_file() and read_pictures(run).are(prepared)
    return prepared, split(prepared.names, config.split)[1] if own else np.arange(len(prepared))


def trained_on(run: Path, config: Config, at_hand: Prepared | None = None) -> tuple[Prepared, np.ndarray]:
    """The run's own pictures, and which of them it trained on.

    Those `at_hand` are taken if it is them, wherever they lie. Raises `ValueError` if they are gone or have changed.
    """
    if at_hand is None or not read_pictures(run).are(at_hand):
        at_hand = own_pictures(run, config)
    return at_hand, split(at_hand.names, config.split)[0]


def own_pictures(run: Path, config: Config) -> Prepared:
    """The pictures of a run. Raises `ValueError` if they are gone or have changed: which ones did it train on?"""
    pictures = read_pictures(run)
    if not Path(pictures.folder).is_dir():
        raise ValueError(f"the pictures of {run} are no longer in {pictures.folder}; name their folder")
    prepared = prepare(resolve_source(pictures.folder), *config.image_size, config.channels)
    if not pictures.are(prepared):
        raise ValueError(
            f"the pictures in {pictures.folder} are no longer those of {run}: nobody knows which of them it "
            "trained on; name a folder of others"
        )
    return prepared


def draw(vae: VAE, run: Path, x: Tensor) -> list[Path]:
    """Draw every figure of a run from its VAE, test pictures x (N, C, H, W) in [-1, 1] and its log."""
    from vaekit.reports import figures  # not before the first step: matplotlib

    return figures.draw_all(vae, x, read_records(run), run / FIGURES_FOLDER, seed=vae.config.seed)
