"""The subcommands that look at pictures, prepare them and make some."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vaekit.system.process import own_process, progress


@dataclass(frozen=True)
class Prepare:
    """Decode pictures once, into the cache that training reads, or into shards to train on anywhere."""

    pictures: tyro.conf.Positional[str]
    """What is given to train: a folder, a list, shards, a data set."""
    out: tyro.conf.Positional[Path | None] = None
    """Folder for tar shards with a manifest, which train takes in place of the pictures; by default the cache alone."""
    size: int | tuple[int, int] = 64
    """Side of the square pictures in pixels, or height and width, as given to train."""
    channels: int = 3
    """3: colour, 1: grey, or bands, as given to train."""
    colour_profiles: bool = True
    """Bring colours to sRGB, as given to train."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How pictures of another shape are fitted, as given to train."""
    depth: Literal[8, 16] = 8
    """Bits of a value, as given to train."""
    levels: tuple[float, float] | None = None
    """Values that become black and white, as given to train."""
    strict: tyro.conf.FlagCreatePairsOff[bool] = False
    """Refuse where a picture cannot be read."""

    def run(self) -> None:
        from vaekit.commands.prepare import about_files, about_skipped, check_all_read, pack_pictures, prepare_pictures
        from vaekit.data.view import View

        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        view = View(height, width, self.channels, self.colour_profiles, self.fit, self.depth, self.levels)
        prepared = prepare_pictures(self.pictures, view)
        for line in (*about_skipped(prepared), *about_files(prepared)):
            progress(line)
        if self.strict:
            check_all_read(prepared)
        place = prepared.path if self.out is None else pack_pictures(prepared, view, self.out)
        print(f"{len(prepared):,} pictures at {height}x{width} are in {place}")  # noqa: T201


@dataclass(frozen=True)
class Shapes:
    """Pictures of coloured shapes with known factors: evaluate then says how disentangled the latents are."""

    out: tyro.conf.Positional[Path]
    """Empty folder for them."""
    count: int = 6000
    """How many."""
    size: int = 64
    """Side in pixels."""
    seed: int = 0
    """Seeds the factors."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.shapes import make_shapes

        print(make_shapes(self.out, self.count, self.size, self.seed))  # noqa: T201


@dataclass(frozen=True)
class Data:
    """What a folder of pictures holds: sizes, kinds, duplicates, what cannot be read. Nothing is trained."""

    pictures: tyro.conf.Positional[str]
    """Folder of pictures, searched recursively, or elpv for the data of the extra "demo"."""
    out: Path | None = None
    """A .png for a contact sheet."""
    channels: int = 3
    """3: colour, 1: grey, or bands, as given to train."""
    levels: tuple[float, float] | None = None
    """Values that become black and white, as given to train."""

    def run(self) -> None:
        own_process("auto")
        from vaekit.commands.data import look_at

        look_at(self.pictures, self.out, print, self.channels, self.levels)


DataCommand = Data | Prepare | Shapes
DATA_COMMANDS = {"data": Data, "prepare": Prepare, "shapes": Shapes}
