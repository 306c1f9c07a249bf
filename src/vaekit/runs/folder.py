"""The folder of a run: its config, where its pictures are, and which of them it has not trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vaekit.config.settings import Config
from vaekit.data.cache import Prepared, prepare
from vaekit.data.loader import split
from vaekit.data.sources.folder import resolve_source
from vaekit.models.vae import CONFIG_FILE, VAE
from vaekit.system.files import remove_unfinished, write_text

PICTURES_FILE = "pictures.json"
FIGURES_FOLDER = "figures"
FIGURE_IMAGES = 400  # the paper's fig. 6 shows 400 test images


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a run came from, as kept in its folder."""

    folder: str
    fingerprint: str
    num_images: int
    skipped: list[tuple[str, str]]
    crc32: int | None = None  # of the pixels; runs of before have none

    def matches(self, prepared: Prepared) -> bool:
        """Whether `prepared` holds these pictures: the same files, or the same pixels in other files."""
        return prepared.fingerprint == self.fingerprint or prepared.crc32 == self.crc32


def default_run(config: Config, images: str | Path, prefix: str = "") -> Path:
    """runs/<prefix><pictures>-<preset>-<size>."""
    height, width = config.image_size
    size = str(height) if height == width else f"{height}x{width}"
    return Path("runs") / f"{prefix}{Path(images).resolve().name}-{config.preset}-{size}"


def read_run_config(run: Path) -> Config:
    """The config of a run. Raises `ValueError` if the folder holds no run."""
    path = run / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"no run in {run}: {CONFIG_FILE} is missing; leave out --resume to start one")
    try:
        return Config.from_json(path.read_text())
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
        return Pictures(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say where the pictures are ({error}); name their folder") from error


def write_run(run: Path, config: Config | None, folder: Path, prepared: Prepared) -> None:
    """Write to the folder of a run its config, and where its pictures came from.

    `config` is None for a resumed run, which has one: changed settings are written with its next checkpoint.
    """
    run.mkdir(parents=True, exist_ok=True)
    for place in (run, run / FIGURES_FOLDER):
        remove_unfinished(place)
    if config is not None:
        write_text(config.to_json() + "\n", run / CONFIG_FILE)
    skipped = list(prepared.skipped)
    pictures = Pictures(str(folder.resolve()), prepared.fingerprint, len(prepared), skipped, prepared.crc32)
    write_text(json.dumps(asdict(pictures), indent=2) + "\n", run / PICTURES_FILE)


def held_out_of(run: Path, config: Config, images: str | Path | None = None) -> tuple[Prepared, np.ndarray]:
    """The pictures to measure a run with, and which of them it has not trained on: all, if they are not its own.

    `images` is their folder, None for the run's own. Raises `ValueError` if those are gone or have changed.
    """
    if images is None:
        prepared = own_pictures(run, config)
    else:
        prepared = prepare(resolve_source(str(images)), *config.image_size, config.channels)
    own = (run / PICTURES_FILE).is_file() and read_pictures(run).matches(prepared)
    return prepared, split(prepared.names, config.split)[1] if own else np.arange(len(prepared))


def trained_on(run: Path, config: Config, at_hand: Prepared | None = None) -> tuple[Prepared, np.ndarray]:
    """The run's own pictures, and which of them it trained on.

    `at_hand` is used if its pictures are the same, in any folder. Raises `ValueError` if they are gone or have changed.
    """
    if at_hand is None or not read_pictures(run).matches(at_hand):
        at_hand = own_pictures(run, config)
    return at_hand, split(at_hand.names, config.split)[0]


def own_pictures(run: Path, config: Config) -> Prepared:
    """The pictures of a run. Raises `ValueError` if they are gone or have changed: its train part is then unknown."""
    pictures = read_pictures(run)
    if not Path(pictures.folder).is_dir():
        raise ValueError(f"the pictures of {run} are no longer in {pictures.folder}; name their folder")
    prepared = prepare(resolve_source(pictures.folder), *config.image_size, config.channels)
    if not pictures.matches(prepared):
        raise ValueError(
            f"the pictures in {pictures.folder} are no longer those of {run}: it is not known which of them it "
            "trained on; name a folder of others"
        )
    return prepared
