"""Decode a folder of pictures into the cache, before any training, and tell what was found there."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.progress import Progress

from vaekit.data.cache import Prepared, prepare
from vaekit.data.formats import readable_formats
from vaekit.data.loader import evenly
from vaekit.data.sources.folder import kinds, resolve_source
from vaekit.runs.prior import labels_of
from vaekit.system.files import printable
from vaekit.system.process import silence_libtiff

LOOKED_AT, DARK = 256, 32  # pictures, and the level below which all of them are suspect
PHONES = {".heic": "HEIF", ".heif": "HEIF", ".jxl": "JXL"}  # suffixes, and what reads them


def prepare_pictures(pictures: str, height: int, width: int, channels: int, colour_profiles: bool = True) -> Prepared:
    """Decode the source `pictures` at this size with a progress bar, or find it in the cache; see `cache.prepare`."""
    silence_libtiff()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing pictures", total=None)
        return prepare(
            resolve_source(pictures),
            height,
            width,
            channels,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            colour_profiles=colour_profiles,
        )


def about_skipped(prepared: Prepared) -> list[str]:
    """Which pictures could not be read, and why, a line each."""
    return [f"skipped {printable(name)}: {printable(reason)}" for name, reason in prepared.skipped]


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
    if some.max() <= DARK:
        lines.append(
            f"WARNING: nothing in these pictures is lighter than {some.max()} of 255; are they 10- or 12-bit values in "
            "files of 16 bits? Scale them first"
        )
    return lines
