"""Decode every picture once, into one memory-mapped file of pixels that later runs open without decoding."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from vaekit.data.building import CURE, INDEX_FILE, PIXELS_FILE, Progress, Request, build, locked
from vaekit.data.formats import extra_readers
from vaekit.data.sources.base import Source
from vaekit.data.sources.folder import Folder
from vaekit.data.view import View
from vaekit.system.files import bytes_of, replacing
from vaekit.system.processors import processors

CHECKSUMS_FILE = "checksums.npy"
FORMAT_VERSION = 3  # raise it when the same files give other pixels: entries are made anew, fingerprints stay


@dataclass(frozen=True, eq=False)
class Prepared:
    """Pictures of one source, decoded and of one size, in its order.

    `images` is uint8 or uint16 (N, C, H, W), memory-mapped and read-only; `names` are the N paths relative to `folder`,
    or what another source calls its pictures; `place` names the source; `skipped` holds (name, reason) of the files
    that could not be decoded; `path` is the entry in the cache and `crc32` the checksum of its pixels. `passed_over`:
    how many other files were in the folder, by kind.
    """

    folder: Path
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    images: np.memmap
    path: Path
    crc32: int
    passed_over: Mapping[str, int] = field(default_factory=dict)
    place: str = ""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Name the pictures: a hash of the files (names, sizes, times) and of the height, width and channels."""
        return self.path.name.partition("-")[0]

    @property
    def names_sha256(self) -> str:
        """Hash of the names in their order, which decide what is trained on (`loader.split`)."""
        return hashlib.sha256(bytes_of("\n".join(self.names))).hexdigest()

    @cached_property
    def checksums(self) -> np.ndarray:
        """A number for the pixels of each picture, uint64 (N,), by which it is known again; kept in the entry."""
        path = self.path / CHECKSUMS_FILE
        with suppress(OSError, ValueError, EOFError):
            kept = np.load(path, allow_pickle=False)
            if kept.shape == (len(self),):
                return kept
        images = np.asarray(self.images)
        digests = [hashlib.blake2b(image.data, digest_size=8).digest() for image in images]
        found = np.frombuffer(b"".join(digests), dtype="<u8")
        with suppress(OSError), replacing(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, found)
        return found

    def verify(self) -> bool:
        """Read all pixels and say whether they are still those that were written."""
        crc32 = 0
        for start in range(0, len(self), 256):
            crc32 = zlib.crc32(self.images[start : start + 256].data, crc32)
        return crc32 == self.crc32


def prepare(
    source: Source | Path,
    height: int,
    width: int,
    channels: int,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **how: Any,
) -> Prepared:
    """What `prepare_as` returns for `View(height, width, channels, **how)`."""
    return prepare_as(source, View(height, width, channels, **how), cache_dir, workers, progress)


def prepare_as(
    source: Source | Path,
    view: View,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Return the pictures of a source, or below a folder, as one array of pixels, decoded now or found in the cache.

    The cache is `cache_dir`, else the folder that VAEKIT_CACHE names, else the user's cache folder; a file added,
    removed or changed makes a new entry.
    `workers` threads decode (default: one a processor); `progress(done, total)` is called after every file.

    Raises ValueError for a folder without readable pictures or a size that makes no sense, OSError if the
    system refuses to read a file or the disk cannot hold the pixels; then nothing half-written is left behind. A build
    that is killed or interrupted leaves what it has done, and the next one goes on from there.

    Processes that ask for the same pictures at the same time, of one run or of several, decode them once: one holds a
    lock, the others wait and then find the entry. The lock is released when its process ends, so if that process is
    killed, the next one takes over.
    """
    view.checked()
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; give 1 or more, or leave it out for one a processor")
    source = Folder(source.resolve()) if isinstance(source, Path) else source
    request = Request(source, source.list_pictures(), view)
    kind = "".join(f"-{name}" for name in extra_readers()) + view.kind
    entry = (cache_dir or default_cache_dir()) / f"{request.fingerprint()}-{FORMAT_VERSION}{kind}"
    prepared = open_entry(entry)
    if prepared is None and not request.listing.names:
        raise ValueError(f"the pictures that were given from Python are no longer in {entry.parent}; give them again")
    if prepared is None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(entry)
        except OSError as error:
            raise OSError(f"no place for prepared pictures: {error}; {CURE}") from error
        with lock:
            prepared = open_entry(entry)  # made while we waited
            if prepared is None:
                build(entry, request, workers or processors(), progress)
                prepared = open_entry(entry)
                assert prepared is not None, entry
                _ = prepared.checksums  # now that the pixels are in memory
    return replace(prepared, place=source.place, passed_over=request.listing.passed_over)


def default_cache_dir() -> Path:
    """Return the folder that VAEKIT_CACHE names, else the user's cache folder."""
    return Path(os.environ.get("VAEKIT_CACHE") or platformdirs.user_cache_dir("vaekit"))


def open_entry(entry: Path) -> Prepared | None:
    """Open an entry; None if it is missing, cut short or not as we write it."""
    try:
        index = json.loads((entry / INDEX_FILE).read_text(encoding="utf-8"))
        images = np.lib.format.open_memmap(entry / PIXELS_FILE, mode="r")
        prepared = Prepared(
            folder=Path(index["folder"]),
            names=tuple(index["names"]),
            skipped=tuple((name, reason) for name, reason in index["skipped"]),
            images=images,
            path=entry,
            crc32=index["crc32"],
        )
        shape = (len(prepared), index["channels"], index["height"], index["width"])
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        return None
    whole = (entry / PIXELS_FILE).stat().st_size == images.offset + images.nbytes
    return prepared if whole and images.shape == shape and images.dtype in (np.uint8, np.uint16) else None
