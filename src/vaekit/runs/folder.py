"""The folder of a run: its config, where its pictures are, and which of them it has not trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from vaekit.config.settings import Config
from vaekit.data.cache import Prepared, prepare_as
from vaekit.data.loader import split
from vaekit.data.sources.arrays import FROM_PYTHON
from vaekit.data.sources.base import Source
from vaekit.data.sources.datasets import HUB, parted
from vaekit.data.sources.folder import OUTPUT_MARK
from vaekit.data.sources.naming import Pictures as Given
from vaekit.data.sources.naming import source_of
from vaekit.data.view import View
from vaekit.models.vae import CONFIG_FILE, VAE
from vaekit.system.files import bytes_of, remove_unfinished, replacing, write_json, write_text

PICTURES_FILE = "pictures.json"
TRAINED_ON_FILE = "trained_on.npy"
FIGURES_FOLDER = "figures"
FIGURE_IMAGES = 400  # the paper's fig. 6 shows 400 test images


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a run came from, as kept in its folder."""

    folder: str  # or the place of another source, see `naming.source_of`
    fingerprint: str
    num_images: int
    skipped: list[tuple[str, str]]
    crc32: int | None = None  # of the pixels; runs of before have none
    names_sha256: str | None = None  # of the names, which decide what is trained on; runs of before have none
    passed_over: Mapping[str, int] = field(default_factory=dict)  # other files, by kind

    def matches(self, prepared: Prepared) -> bool:
        """Whether `prepared` holds these pictures, split alike: the same files, or their pixels by the same names."""
        same_names = self.names_sha256 in (None, prepared.names_sha256) and self.num_images == len(prepared)
        return same_names and (prepared.fingerprint == self.fingerprint or prepared.crc32 == self.crc32)


def mark_as_output(folder: Path) -> None:
    """Make a folder for what vaekit writes, and mark it: its pictures are never taken for pictures to learn from."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / OUTPUT_MARK).exists():
        write_text("made by vaekit, which does not look for pictures here\n", folder / OUTPUT_MARK)


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds a run."""
    return all((Path(folder) / name).is_file() for name in (CONFIG_FILE, PICTURES_FILE))


def check_apart(out: Path, pictures: Path) -> None:
    """Raise `ValueError` if results would be written around the pictures: their figures would be taken for some."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give the folder that the results are to go to")
    in_a_folder = pictures.parts[:1] not in ((FROM_PYTHON,), (HUB.partition("/")[0],))
    if in_a_folder and pictures.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"the pictures are in {out}, where the results would be written; give another --out")


def title_of(prepared: Prepared) -> str:
    """A name for what is made of pictures: the last part of their place."""
    path = Path(prepared.place)
    return (path.stem if path.is_file() else path.name).replace(":", "-")


def place_of_other(place: Path, pictures: str) -> Path:
    """A marked folder for what is made of the pictures of another folder; one of the same name has its own place."""
    mark = f"made by vaekit from {pictures}\n"
    if (place / OUTPUT_MARK).is_file() and (place / OUTPUT_MARK).read_text(encoding="utf-8") != mark:
        place = place.with_name(f"{place.name}-{short_hash(pictures)}")
    place.mkdir(parents=True, exist_ok=True)
    write_text(mark, place / OUTPUT_MARK)
    return place


def short_hash(name: Path | str) -> str:
    """Eight digits that tell a folder, or a label, from others that would have its name."""
    return hashlib.sha256(bytes_of(str(name))).hexdigest()[:8]


def default_run(config: Config, source: Source, prefix: str = "") -> Path:
    """runs/<prefix><pictures>-<preset>-<size>."""
    height, width = config.image_size
    size = str(height) if height == width else f"{height}x{width}"
    return Path("runs") / f"{prefix}{source.title}-{config.preset}-{size}"


def read_run_config(run: Path) -> Config:
    """The config of a run. Raises `ValueError` if the folder holds no run."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"no run in {run}: {CONFIG_FILE} is missing; name the pictures to start one there")
    try:
        return Config.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_of(run: Path, vae: VAE) -> Config:
    """The settings that the model of a run was made with. Raises `ValueError` for a model with networks of its own."""
    if vae.config_json is None:
        raise ValueError(f"the model in {run} has networks of its own and no settings; measure and draw it from Python")
    return Config.from_json(vae.config_json)


def read_pictures(run: Path) -> Pictures:
    """Where the pictures of a run came from. Raises `ValueError` if the run does not say."""
    path = run / PICTURES_FILE
    if not path.is_file():
        raise ValueError(f"no {PICTURES_FILE} in {run}; name the folder of pictures")
    try:
        return Pictures(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say where the pictures are ({error}); name their folder") from error


def write_run(run: Path, config: Config | None, prepared: Prepared, trained: np.ndarray) -> None:
    """Write to the folder of a run its config, where its pictures came from, and those of the places `trained`.

    `config` is None for a resumed run, which has one: changed settings are written with its next checkpoint.
    """
    mark_as_output(run)
    for place in (run, run / FIGURES_FOLDER):
        remove_unfinished(place)
    if config is not None:
        write_text(config.to_json() + "\n", run / CONFIG_FILE)
    skipped = list(prepared.skipped)
    identity = (prepared.fingerprint, len(prepared), skipped, prepared.crc32, prepared.names_sha256)
    pictures = Pictures(prepared.place, *identity, passed_over=dict(prepared.passed_over))
    write_json(asdict(pictures), run / PICTURES_FILE)
    if config is not None or not (run / TRAINED_ON_FILE).exists():
        with replacing(run / TRAINED_ON_FILE) as unfinished, unfinished.open("wb") as file:
            np.save(file, np.unique(prepared.checksums[trained]))


def held_out_of(
    run: Path, config: Config, images: Given | None = None, say: Callable[[str], object] = lambda line: None
) -> tuple[Prepared, np.ndarray]:
    """The pictures to measure a run with, and which of them it has not trained on.

    `images` are what `naming.source_of` takes, None for the run's own. Of other pictures those that the run trained on
    are known one by one, and left out with a line. Raises `ValueError` if its own are gone or have changed, or none is
    left.
    """
    prepared = own_pictures(run, config) if images is None else prepared_for(config, source_of(images))
    if (run / PICTURES_FILE).is_file() and read_pictures(run).matches(prepared):
        return prepared, split(prepared.names, config.split, config.split_by)[1]
    seen = np.isin(prepared.checksums, trained_checksums(run, prepared, say))
    if seen.all():
        raise ValueError(f"{run} trained on all {len(prepared)} pictures in {prepared.place}; name a folder of others")
    if seen.any():
        are, them = ("is", "it") if seen.sum() == 1 else ("are", "them")
        say(f"{seen.sum():,} of the {len(prepared):,} pictures {are} left out: {run} trained on {them}")
    return prepared, np.flatnonzero(~seen)


def trained_checksums(run: Path, prepared: Prepared, say: Callable[[str], object]) -> np.ndarray:
    """The `Prepared.checksums` of what a run trained on; empty where a run of before kept none.

    Raises `ValueError` if such a run may have trained on `prepared`, which are in its folder.
    """
    if (run / TRAINED_ON_FILE).is_file():
        try:
            return np.load(run / TRAINED_ON_FILE, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{run / TRAINED_ON_FILE} is damaged: {error}") from error
    if (run / PICTURES_FILE).is_file() and read_pictures(run).folder == prepared.place:
        raise changed(run, prepared.place)
    say(
        f"WARNING: {run} does not say what it trained on; if these are some of those pictures, the numbers are too good"
    )
    return np.array([], np.uint64)


def changed(run: Path, folder: str) -> ValueError:
    """The error for pictures of a run that are no longer as they were."""
    return ValueError(
        f"the pictures in {folder} are no longer those of {run}: it is not known which of them are its test pictures; "
        "bring them back as they were, or, to measure and draw, name a folder: what it trained on is left out"
    )


def trained_on(run: Path, config: Config, at_hand: Prepared | None = None) -> tuple[Prepared, np.ndarray]:
    """The run's own pictures, and which of them it trained on.

    `at_hand` is used if its pictures are the same, in any folder. Raises `ValueError` if they are gone or have changed.
    """
    if at_hand is None or not read_pictures(run).matches(at_hand):
        at_hand = own_pictures(run, config)
    return at_hand, split(at_hand.names, config.split, config.split_by)[0]


def prepared_for(config: Config, source: Source) -> Prepared:
    """The pictures of a source, as a model of these settings takes them."""
    return prepare_as(source, view_of(config))


def view_of(config: Config) -> View:
    """How the pictures of a run come out, as its config says."""
    height, width = config.image_size
    return View(height, width, config.channels, config.colour_profiles, config.fit, config.depth, config.levels)


def own_pictures(run: Path, config: Config) -> Prepared:
    """The pictures of a run. Raises `ValueError` if they are gone or have changed: its train part is then unknown."""
    pictures = read_pictures(run)
    if is_gone(pictures.folder):
        raise ValueError(f"the pictures of {run} are no longer in {pictures.folder}; name their folder")
    try:
        prepared = prepared_for(config, source_of(pictures.folder))
    except ValueError as error:
        raise ValueError(f"the pictures of {run} cannot be read: {error}") from error
    if not pictures.matches(prepared):
        raise changed(run, pictures.folder)
    return prepared


def is_gone(place: str) -> bool:
    """Whether pictures that were in a folder or a file of this machine are no longer there."""
    path = Path(place if Path(place).exists() else parted(place)[0])
    return path.is_absolute() and not any(mark in place for mark in "*?[{") and not path.exists()
