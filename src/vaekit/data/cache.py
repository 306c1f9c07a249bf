"""Decode every picture once, into one memory-mapped file of pixels that later runs open at once."""

import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import platformdirs

from vaekit.data.sources import UnreadablePicture, find_pictures, read_picture

FORMAT_VERSION = 1  # raise it when the same files would give other pixels: every entry is then made anew
PIXELS_FILE, INDEX_FILE = "images.npy", "index.json"

Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Pictures of one folder, decoded and of one size, in the order of their names.

    `images` is uint8 (N, C, H, W), memory-mapped and read-only; `names` are the N paths relative to `folder`;
    `skipped` holds (name, reason) of the files that could not be decoded; `path` is the entry in the cache
    and `crc32` the checksum of its pixels.
    """

    folder: Path
    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    images: np.memmap
    path: Path
    crc32: int

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Name the entry: a hash of the files (names, sizes, times) and of the height, width and channels."""
        return self.path.name

    def verify(self) -> bool:
        """Read all pixels and say whether they are still those that were written."""
        crc32 = 0
        for start in range(0, len(self), 256):
            crc32 = zlib.crc32(self.images[start : start + 256].data, crc32)
        return crc32 == self.crc32


def prepare(
    folder: Path,
    height: int,
    width: int,
    channels: int,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Return the pictures below a folder as one array of pixels, decoded now or found in the cache.

    Height and width are in pixels, channels is 1 (grey) or 3 (RGB). The cache is `cache_dir`, else the folder
    that VAEKIT_CACHE names, else the user's cache folder; a file added, removed or changed makes a new entry.
    `workers` threads decode (default: one a processor); `progress(done, total)` is called after every file.

    Raises ValueError for a folder without readable pictures or a size that makes no sense, OSError if the
    system refuses to read a file or the disk cannot hold the pixels. Nothing half-written is left behind.
    """
    _check(height, width, channels, workers)
    folder = folder.resolve()
    names = tuple(path.relative_to(folder).as_posix() for path in find_pictures(folder))
    request = _Request(folder, names, channels, height, width)
    entry = (cache_dir or default_cache_dir()) / request.fingerprint()
    prepared = _open(entry)
    if prepared is None:
        _build(entry, request, workers or os.cpu_count() or 1, progress)
        prepared = _open(entry)
        assert prepared is not None, entry
    return prepared


def default_cache_dir() -> Path:
    """Return the folder that VAEKIT_CACHE names, else the user's cache folder."""
    return Path(os.environ.get("VAEKIT_CACHE") or platformdirs.user_cache_dir("vaekit"))


def _check(height: int, width: int, channels: int, workers: int | None) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"the image size is {height} x {width}; give a height and width of 1 pixel or more")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; choose 1 (grey) or 3 (RGB)")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; give 1 or more, or leave it out for one a processor")


@dataclass(frozen=True)
class _Request:
    folder: Path
    names: tuple[str, ...]
    channels: int
    height: int
    width: int

    @property
    def num_bytes(self) -> int:
        return len(self.names) * self.channels * self.height * self.width

    def fingerprint(self) -> str:
        statuses = [os.stat(self.folder / name) for name in self.names]
        files = [(name, s.st_size, s.st_mtime_ns) for name, s in zip(self.names, statuses, strict=True)]
        identity = [FORMAT_VERSION, str(self.folder), self.channels, self.height, self.width, files]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def decode(self, name: str) -> np.ndarray | UnreadablePicture:
        try:
            return read_picture(self.folder / name, self.height, self.width, self.channels)
        except UnreadablePicture as error:
            return error

    def npy_header(self, num_images: int) -> bytes:
        """Return the header of images.npy; numpy pads it to one length for every `num_images`."""
        shape = (num_images, self.channels, self.height, self.width)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return header.getvalue()


def _open(entry: Path) -> Prepared | None:
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
    return prepared if whole and images.shape == shape and images.dtype == np.uint8 else None


def _build(entry: Path, request: _Request, workers: int, progress: Progress | None) -> None:
    """Write the entry in a scratch folder beside it and move it into place, whole or not at all."""
    cache = entry.parent
    cache.mkdir(parents=True, exist_ok=True)
    if request.num_bytes > shutil.disk_usage(cache).free:
        raise _does_not_fit(cache, request, "the disk is too full")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as scratch:
        built = Path(scratch, "built")  # one deeper: the scratch folder itself is closed to other users
        built.mkdir()
        with _decoding(workers) as pool, open(built / PIXELS_FILE, "wb", buffering=0) as file:
            pictures = _in_order(pool, request.decode, request.names, ahead=4 * workers)
            index = _write_pixels(file, request, pictures, progress)
        with open(built / INDEX_FILE, "wb", buffering=0) as file:
            _write(file, json.dumps(index).encode(), request)
        _publish(built, entry, corrupt=Path(scratch, "corrupt"))


def _write_pixels(
    file: FileIO,
    request: _Request,
    pictures: Iterator[np.ndarray | UnreadablePicture],
    progress: Progress | None,
) -> dict[str, Any]:
    """Write the pictures as they come and return the index.

    Not through a memory map: there a full disk is no OSError, it kills the process.
    """
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    crc32 = 0
    _write(file, request.npy_header(len(request.names)), request)
    for done, (name, picture) in enumerate(zip(request.names, pictures, strict=True), start=1):
        if isinstance(picture, UnreadablePicture):
            skipped.append((name, picture.reason))
        else:
            names.append(name)
            crc32 = zlib.crc32(picture.data, crc32)
            _write(file, picture.data, request)
        if progress is not None:
            progress(done, len(request.names))
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise ValueError(f"none of the {len(skipped)} pictures in {request.folder} can be read ({reasons})")
    file.seek(0)
    _write(file, request.npy_header(len(names)), request)  # now that the skipped ones are known
    os.fsync(file.fileno())  # else a power cut could leave a whole-looking file of zeros
    return {
        "folder": str(request.folder),
        "names": names,
        "skipped": skipped,
        "channels": request.channels,
        "height": request.height,
        "width": request.width,
        "crc32": crc32,
    }


def _write(file: FileIO, data: bytes | memoryview, request: _Request) -> None:
    left = memoryview(data).cast("B")
    try:
        while left:
            left = left[file.write(left) :]  # an unbuffered write may stop half-way
    except OSError as error:
        raise _does_not_fit(Path(file.name).parent, request, error.strerror) from error


def _does_not_fit(folder: Path, request: _Request, reason: str | None) -> OSError:
    needed, free = request.num_bytes / 2**20, shutil.disk_usage(folder).free / 2**20
    return OSError(
        f"cannot write the prepared pictures to {folder} ({reason}): they take {needed:,.1f} MiB and "
        f"{free:,.1f} MiB are free; make room, or set VAEKIT_CACHE to a folder on a larger disk"
    )


@contextmanager
def _decoding(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads, since Pillow decodes and resizes outside the GIL."""
    # `read_picture` silences warnings for itself, but in threads one call may undo that of another: Python
    # keeps the filters for the whole process. Silenced out here too, it does not matter who undoes what.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(workers) as pool:
            yield pool


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Map like `pool.map`, with at most `ahead` results waiting in memory."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(pool.submit(function, item))
    while waiting:
        yield waiting.popleft().result()


def _publish(built: Path, entry: Path, corrupt: Path) -> None:
    if entry.exists() and _open(entry) is None:
        entry.rename(corrupt)
    try:
        built.rename(entry)
    except OSError:
        if _open(entry) is None:
            raise
        # Another process finished first; its entry was made from the same files, so it is ours too.
