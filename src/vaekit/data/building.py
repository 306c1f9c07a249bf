"""Build an entry of the cache: pictures are decoded in parallel and written in order; a killed build is resumed."""

import hashlib
import io
import json
import os
import shutil
import time
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vaekit.data.decoding import UnreadablePicture, decode
from vaekit.data.sources.base import Listing, Source
from vaekit.data.view import View
from vaekit.system.files import printable, replacing
from vaekit.system.locks import held

PIXELS_FILE, INDEX_FILE, DONE_FILE = "images.npy", "index.json", "done.json"
SAVE_EVERY_FILES = 256  # what a killed build loses at most, while fewer than four times as many were skipped
KEEP_UNFINISHED_SEC = 7 * 24 * 3600
SCRATCH_PREFIX, LOCKS_FOLDER = ".building-", ".locks"
CURE = "set VAEKIT_CACHE to a folder on a disk of this machine that you can write to"

Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Request:
    """The pictures of a source, as they are to come out."""

    source: Source
    listing: Listing
    view: View

    @property
    def num_bytes(self) -> int:
        return len(self.listing.names) * self.view.image_bytes

    def fingerprint(self) -> str:
        view, listing = self.view, self.listing
        # The 1 must stay: runs recognise their pictures by a fingerprint that was made with it.
        identity = [1, self.source.place, view.channels, view.height, view.width, listing.identity]
        return hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()

    def decode(self, name: str) -> np.ndarray | UnreadablePicture:
        path = Path(name)
        try:
            return decode(self.source.read(name), path, self.view)
        except UnreadablePicture as error:
            return error
        except ValueError as error:  # of a source whose file is damaged
            return UnreadablePicture(path, str(error))

    def npy_header(self, num_images: int) -> bytes:
        """Return the header of images.npy; numpy pads it to one length for every `num_images`."""
        view = self.view
        shape = (num_images, view.channels, view.height, view.width)
        header = io.BytesIO()
        kind = "|u1" if view.depth == 8 else "<u2"
        np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": shape})
        return header.getvalue()


def locked(entry: Path, wait: bool = True) -> AbstractContextManager[bool]:
    """Hold the lock of an entry, once it is free; without `wait`, yield False at once if another process holds it."""
    locks = entry.parent / LOCKS_FOLDER
    if not locks.is_dir():
        locks.mkdir(exist_ok=True)
        locks.chmod(entry.parent.stat().st_mode & 0o777)  # who may write to the cache may lock it, sticky or not
    return held(locks / entry.name, wait, CURE)


def scratch(entry: Path) -> Path:
    """Where an entry is built."""
    return entry.with_name(f"{SCRATCH_PREFIX}{entry.name}")


def build(entry: Path, request: Request, workers: int, progress: Progress | None) -> None:
    """Write the entry, whose lock we hold, beside its place and move it there, whole or not at all."""
    remove_leftovers(entry)
    built = scratch(entry)
    built.mkdir(exist_ok=True)
    try:
        index = write_pixels(built, request, workers, progress)
        with open(built / INDEX_FILE, "wb", buffering=0) as file:
            write_bytes(file, json.dumps(index).encode(), request)
        (built / DONE_FILE).unlink(missing_ok=True)
        remove(entry)  # if it is there, it is damaged
        built.rename(entry)
    except Exception:  # not KeyboardInterrupt: like a kill, it keeps what is done
        remove(built)
        raise


def remove_leftovers(entry: Path) -> None:
    """Remove the folders of killed builds that no process has resumed for a week; their locks are free."""
    ours = (path for path in entry.parent.glob(f"{SCRATCH_PREFIX}*/") if os.access(path, os.W_OK))
    for leftover in ours:
        entry_of_it = leftover.with_name(leftover.name.removeprefix(SCRATCH_PREFIX))
        with suppress(FileNotFoundError), locked(entry_of_it, wait=False) as is_dead:  # another process may finish it
            if is_dead and time.time() - leftover.stat().st_mtime > KEEP_UNFINISHED_SEC:
                remove(leftover)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@dataclass
class Done:
    """How far a build has come: files decoded, in the order of the request, those skipped, checksum of the pixels."""

    files: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    crc32: int = 0

    @classmethod
    def read(cls, built: Path) -> "Done":
        path = built / DONE_FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def save(self, pixels: FileIO, request: Request) -> None:
        """Write the state of the build beside the pixels, after those are on the disk."""
        os.fsync(pixels.fileno())
        with (
            replacing(Path(pixels.name).with_name(DONE_FILE)) as unfinished,
            open(unfinished, "wb", buffering=0) as file,
        ):
            write_bytes(file, json.dumps(vars(self)).encode(), request)
            os.fsync(file.fileno())

    def add(self, name: str, picture: np.ndarray | UnreadablePicture, pixels: FileIO, request: Request) -> None:
        """Append one picture to the pixels, or note why not."""
        if isinstance(picture, UnreadablePicture):
            self.skipped.append((name, picture.reason))
        else:
            self.crc32 = zlib.crc32(picture.data, self.crc32)
            write_bytes(pixels, picture.data, request)
        self.files += 1


def write_pixels(built: Path, request: Request, workers: int, progress: Progress | None) -> dict[str, Any]:
    """Write the pictures, from where an earlier builder was killed, and return the index.

    No memory map is used: with one, a full disk raises no OSError but kills the process.
    """
    done = Done.read(built)
    saved = done.files
    with open_pixels(built, done, request) as file:
        with decoding_threads(workers) as pool:
            left = request.listing.names[done.files :]
            pictures = map_in_order(pool, request.decode, left, ahead=4 * workers)
            for name, picture in zip(left, pictures, strict=True):
                done.add(name, picture, file, request)
                if done.files - saved >= max(SAVE_EVERY_FILES, len(done.skipped) // 4):  # whose names it writes again
                    done.save(file, request)
                    saved = done.files
                if progress is not None:
                    progress(done.files, len(request.listing.names))
        unreadable = {name for name, _ in done.skipped}
        names = [name for name in request.listing.names if name not in unreadable]
        if not names:
            reasons = "; ".join(f"{printable(name)}: {printable(reason)}" for name, reason in done.skipped[:3])
            raise ValueError(f"none of the {done.files} pictures in {request.source.place} can be read ({reasons})")
        file.seek(0)
        write_bytes(file, request.npy_header(len(names)), request)  # now that the skipped ones are known
        os.fsync(file.fileno())  # else a power cut could leave a whole-looking file of zeros
    return {
        "folder": str(request.source.folder),
        "names": names,
        "skipped": done.skipped,
        "channels": request.view.channels,
        "height": request.view.height,
        "width": request.view.width,
        "crc32": done.crc32,
    }


@contextmanager
def open_pixels(built: Path, done: Done, request: Request) -> Iterator[FileIO]:
    """The file of pixels, cut to what is done, at its end. Raises OSError if the disk cannot hold the rest."""
    header = request.npy_header(len(request.listing.names))
    num_bytes = len(header) + (done.files - len(done.skipped)) * request.view.image_bytes
    path = built / PIXELS_FILE
    path.touch()
    with open(path, "r+b", buffering=0) as file:
        file.truncate(num_bytes)
        if request.num_bytes - num_bytes > shutil.disk_usage(built).free:
            raise does_not_fit(built.parent, request, "the disk is too full")
        write_bytes(file, header, request)
        file.seek(num_bytes)
        yield file


def write_bytes(file: FileIO, data: bytes | memoryview, request: Request) -> None:
    left = memoryview(data).cast("B")
    try:
        while left:
            left = left[file.write(left) :]  # an unbuffered write_bytes may stop half-way
    except OSError as error:
        raise does_not_fit(Path(file.name).parent, request, error.strerror) from error


def does_not_fit(folder: Path, request: Request, reason: str | None) -> OSError:
    needed, free = request.num_bytes / 2**20, shutil.disk_usage(folder).free / 2**20
    return OSError(
        f"cannot write the prepared pictures to {folder} ({reason}): they take {needed:,.1f} MiB and "
        f"{free:,.1f} MiB are free; make room, or set VAEKIT_CACHE to a folder on a larger disk"
    )


@contextmanager
def decoding_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads, since Pillow decodes and resizes outside the GIL."""
    # `decode_picture` silences warnings itself, but Python keeps the filters for the whole process: in threads, one
    # call may undo the filters of another. Silenced here too, warnings stay silent in any order of the calls.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(workers) as pool:
            yield pool


def map_in_order(
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
