"""Decode a folder of pictures into the cache, before any training."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress

from vaekit.data.cache import Prepared, prepare
from vaekit.data.sources.folder import resolve_source


def prepare_pictures(pictures: str, height: int, width: int, channels: int) -> Prepared:
    """Decode the source `pictures` at this size with a progress bar, or find it in the cache; see `cache.prepare`."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing pictures", total=None)
        return prepare(
            resolve_source(pictures),
            height,
            width,
            channels,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
