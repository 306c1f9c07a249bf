"""Decode pictures into the cache or into shards, before any training, and tell what was found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from vaekit.data.cache import Prepared, prepare_as
from vaekit.data.formats import readable_formats
from vaekit.data.loader import evenly
from vaekit.data.packing import pack
from vaekit.data.sources.folder import kinds
from vaekit.data.sources.naming import Pictures, source_of
from vaekit.data.view import View
from vaekit.measures.twins import across_split, shift
from vaekit.runs.prior import labels_of
from vaekit.system.files import printable
from vaekit.system.process import silence_libtiff

LINE_EVERY_SEC = 5.0  # while pictures are decoded
LOOKED_AT, DARK = 256, 32  # pictures, and the level below which all of them are suspect
PHONES = {".heic": "HEIF", ".heif": "HEIF", ".jxl": "JXL"}  # suffixes, and what reads them


def prepare_pictures(pictures: Pictures, view: View) -> Prepared:
    """The pictures of a source as in `view`, decoded with a progress bar or found in the cache; see `cache.prepare`."""
    silence_libtiff()
    with progress_bar("preparing pictures") as report:
        return prepare_as(source_of(pictures), view, progress=report)


def pack_pictures(prepared: Prepared, view: View, out: Path) -> Path:
    """Prepared pictures as shards in a folder, with a progress bar; see `packing.pack`."""
    with progress_bar("writing shards") as report:
        return pack(prepared, view, out, report).parent


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal, moved by (done, total); elsewhere nothing."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def preparing(console: Console) -> Callable[[int, int], None]:
    """A report on the decoding of pictures for `prepare`: silent unless it takes a while."""
    reported_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= LINE_EVERY_SEC:
            reported_at = time.monotonic()
            console.print(f"preparing pictures: {done:,} of {total:,} (only once)", highlight=False)

    return report


def about_skipped(prepared: Prepared) -> list[str]:
    """Which pictures could not be read, and why, a line each."""
    return [f"skipped {printable(name)}: {printable(reason)}" for name, reason in prepared.skipped]


def check_all_read(prepared: Prepared) -> None:
    """Raise `ValueError` for the first picture that could not be read."""
    if prepared.skipped:
        first, reason = prepared.skipped[0]
        raise ValueError(
            f"{len(prepared.skipped):,} of the pictures cannot be read, the first is {printable(first)}: "
            f"{printable(reason)}; mend it, or leave out --strict"
        )


def about_files(prepared: Prepared) -> list[str]:
    """What a user must know of files that are no pictures, and of pictures that are too dark to be right."""
    lines = []
    if prepared.passed_over:
        count = sum(prepared.passed_over.values())
        lines.append(f"{count:,} other file{'s' * (count > 1)} passed over: {kinds(prepared.passed_over)}")
    needed = {PHONES[kind] for kind in prepared.passed_over if kind in PHONES}
    if needed - {*readable_formats()}:
        lines.append('phones\' pictures are read after: pip install "vaekit[formats]"')
    labels_of(prepared, np.arange(len(prepared)), lines.append)  # now, and not when the flow is fitted, hours later
    some = prepared.images[evenly(len(prepared), LOOKED_AT)]
    lightest = int(some.max()) // (257 if some.dtype == np.uint16 else 1)
    if lightest <= DARK:
        lines.append(
            f"WARNING: nothing in these pictures is lighter than {lightest} of 255; are they 10- or 12-bit values in "
            "files of 16 bits? Then give --levels 0 1023, or --levels 0 4095"
        )
    return lines


def about_split(prepared: Prepared, train: np.ndarray, test: np.ndarray) -> list[str]:
    """A warning where test pictures are nearly the same as train pictures, which makes test numbers too good."""
    found, of_all = across_split(prepared.images, train, test)
    if not found:
        return []
    (i, j), *_ = found
    some = "" if of_all else ", of those that were compared,"
    are = "picture is" if len(found) == 1 else "pictures are"
    return [
        f"WARNING: {len(found):,} test {are}{some} nearly the same as a train picture, so test numbers are too good "
        f"({printable(prepared.names[i])} and {printable(prepared.names[j])}); vaekit data lists them"
    ]


def about_shift(images: np.ndarray, train: np.ndarray, test: np.ndarray) -> list[str]:
    """A line where the test pictures are other pictures than those to train on, as where files come sorted."""
    spreads = shift(images, train, test)
    if spreads is None:
        return []
    return [
        "the test pictures, the last ones of each folder, are unlike those to train on (their mean is "
        f"{spreads:.2f} of the pictures' spread away): do the files come sorted? vaekit train --split-by hash mixes "
        "them; not if neighbours show the same, which both sides then would"
    ]
