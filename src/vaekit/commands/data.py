"""What a folder of pictures holds, before anything is trained on it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit.commands.prepare import about_files, about_shift, about_skipped, prepare_pictures
from vaekit.data.building import map_in_order
from vaekit.data.colour import meaning_of
from vaekit.data.decoding import DECODER_ERRORS
from vaekit.data.formats import readable_formats
from vaekit.data.loader import HeldOut, evenly, split
from vaekit.data.packing import MANIFEST_FILE, check_shards
from vaekit.data.sources.base import Source
from vaekit.data.sources.folder import Folder
from vaekit.data.sources.naming import Pictures, source_of
from vaekit.data.view import View
from vaekit.measures.copying import small_of
from vaekit.measures.twins import near
from vaekit.reports.mosaic import grid, save_png, to_rgb
from vaekit.runs.prior import Say
from vaekit.system.files import printable
from vaekit.system.processors import processors
from vaekit.system.ranks import check_one_process

SIDE = 64  # pixels that pictures are looked at in
SPLIT = 0.8  # as trainings have it by default
SHEET = 64  # pictures
AT_ONCE = 256  # pictures in memory
COMPARED = 20_000  # for near-duplicates, at even distances
MOST_PAIRS = 100_000  # of them that are listed: frames of one camera are all alike
DARK, EMPTY = 16, 2.0  # levels: the lightest pixel of a dark picture, the spread of an empty one
USUAL_SIDES = (32, 64, 128, 256, 512)
SHOWN = 5  # examples


@dataclass(frozen=True)
class Header:
    """What a file says of its picture: the shorter side is `side`."""

    width: int
    height: int
    kind: str
    mode: str
    has_profile: bool

    @property
    def side(self) -> int:
        """The shorter side in pixels."""
        return min(self.width, self.height)


@dataclass
class Look:
    """What was found, in lines for people; `twins` are pairs of names of pictures that are the same or nearly so."""

    lines: list[str] = field(default_factory=list)
    twins: list[tuple[str, str]] = field(default_factory=list)
    across: int = 0


def look_at(
    pictures: Pictures,
    out: str | Path | None = None,
    say: Say = lambda line: None,
    channels: int = 3,
    levels: tuple[float, float] | None = None,
) -> Look:
    """Look at a folder of pictures: sizes, kinds, what cannot be read, duplicates, dark and empty ones.

    With `out`, a PNG, some of them at even distances go into a contact sheet. `say` hears every line. Raises
    `ValueError` for a folder without pictures.
    """
    check_one_process("data")
    source = source_of(pictures)
    prepared = prepare_pictures(source, View(SIDE, SIDE, channels, levels=levels))
    look = Look()

    def tell(line: str) -> None:
        look.lines.append(line)
        say(line)

    tell(f"{len(prepared):,} pictures in {printable(prepared.place)}")
    if (source.folder / MANIFEST_FILE).is_file():
        tell(f"{check_shards(source.folder):,} shards, all as their manifest says")
    for line in (*about_skipped(prepared)[:SHOWN], *about_files(prepared)):
        tell(line)
    if len(prepared.skipped) > SHOWN:
        tell(f"and {len(prepared.skipped) - SHOWN:,} more that cannot be read")
    for line in about_headers(list(headers(source, prepared.names))):
        tell(line)
    names, images = prepared.names, prepared.images
    parts = [images[i : i + AT_ONCE] for i in range(0, len(images), AT_ONCE)]
    flat = np.flatnonzero(np.concatenate([part.std(axis=(2, 3)).max(1) < EMPTY for part in parts]))
    dark = np.flatnonzero(np.concatenate([part.max((1, 2, 3)) < DARK for part in parts]))
    for what, found in (("of one colour", flat), ("nearly black", dark)):
        if len(found):
            tell(f"{len(found):,} {what}: {some(names[i] for i in found)}")
    compared = evenly(len(prepared), COMPARED)
    is_test = np.zeros(len(prepared), bool)
    with suppress(ValueError):  # too few to split
        is_test[split(names, SPLIT)[1]] = True
    if is_test.any():
        for line in about_shift(images, np.flatnonzero(~is_test), np.flatnonzero(is_test)):
            tell(line)
    places, look.across = pairs_of(small_of(images, compared), compared, is_test)
    same = prepared.checksums
    exact = sum(same[i] == same[j] for i, j in places)
    more, nearly = "the first " if len(places) == MOST_PAIRS else "", len(places) - exact
    look.twins = [(names[i], names[j]) for i, j in places]
    if places:
        tell(f"{more}{exact:,} pairs of the same pixels and {nearly:,} of nearly the same: {pairs(look.twins)}")
    if look.across:
        tell(f"WARNING: {look.across:,} of them lie on both sides of the split: test numbers will be too good")
    if out is not None:
        chosen = HeldOut(images, evenly(len(prepared), SHEET)).some(SHEET)
        tell(f"a contact sheet is in {save_png(grid(to_rgb(chosen)), out)}")
    return look


def headers(source: Source, names: Iterable[str]) -> Iterator[Header]:
    """What each file says of its picture, without decoding it; those that say nothing are left out."""

    def read(name: str) -> Header | None:
        try:
            raw: Any = source.folder / name if isinstance(source, Folder) else source.read(name)
            if isinstance(raw, np.ndarray):
                return Header(raw.shape[1], raw.shape[0], "arrays", f"{raw[0, 0].size} x {raw.dtype}", False)
            with Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw, formats=readable_formats()) as image:
                return Header(*image.size, image.format or "?", image.mode, bool(meaning_of(image)))
        except DECODER_ERRORS:
            return None

    with ThreadPoolExecutor(processors()) as pool:
        yield from filter(None, map_in_order(pool, read, names, ahead=4 * processors()))


def about_headers(found: list[Header]) -> list[str]:
    """Sizes, kinds and modes, and the size that suits them."""
    if not found:
        return []
    sides = np.array([header.side for header in found])
    low, middle, high = (int(value) for value in np.quantile(sides, (0, 0.5, 1), method="nearest"))
    smallest, largest = min(found, key=lambda h: h.width * h.height), max(found, key=lambda h: h.width * h.height)
    suits = max((side for side in USUAL_SIDES if side <= middle), default=USUAL_SIDES[0])
    lines = [
        f"from {smallest.width}x{smallest.height} to {largest.width}x{largest.height} pixels, shorter sides {low} to "
        f"{high}, half of them {middle} or more: --size {suits} or less",
        f"{counts(header.kind for header in found)}; {counts(header.mode for header in found)}",
    ]
    profiles = sum(header.has_profile for header in found)
    if profiles:
        lines.append(f"{profiles:,} with a colour profile or gamma that is not sRGB's, which are converted")
    return lines


def pairs_of(small: Tensor, places: np.ndarray, is_test: np.ndarray) -> tuple[list[tuple[int, int]], int]:
    """The first pairs of places of small pictures (N, F) that are nearly the same, and how many lie across the split.

    `places` (N,) of the pictures, of which `is_test` says on which side they are.
    """
    found: list[tuple[int, int]] = []
    across, sides = 0, torch.from_numpy(is_test[places])
    for start, same in near(small, small):
        same = same.triu(start + 1)  # each pair once
        across += int((same & (sides != sides[start : start + len(same), None])).sum())
        some = same.nonzero()[: MOST_PAIRS - len(found)]
        found += [(int(places[start + i]), int(places[j])) for i, j in some.tolist()]
    return found, across


def counts(values: Iterable[str]) -> str:
    """`9,000 JPEG, 12 PNG`."""
    return ", ".join(f"{count:,} {value}" for value, count in Counter(values).most_common())


def some(names: Iterable[str]) -> str:
    """The first names, and how many more."""
    listed = [printable(name) for name in names]
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN:,} more" * (len(listed) > SHOWN))


def pairs(twins: list[tuple[str, str]]) -> str:
    """The first pairs of names."""
    return some(f"{one} = {other}" for one, other in twins)
