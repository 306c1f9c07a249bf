"""Files that are whole or absent, their tensors and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a path beside `path` to write to, and move it into place at the end: a reader sees the old file or the new.

    If writing fails, the old file stays and nothing else is left. The new one is on the disk before it gets its name,
    unless it need not outlive a power cut: of many small files, waiting for the disk takes most of the time.
    """
    if path.exists() and not path.is_file():  # a device, a folder: nothing to put a file in the place of
        raise OSError(errno.EINVAL, "it is no file", str(path))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.touch()
    except OSError as error:  # with the name that the user knows
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        mode = unfinished.stat().st_mode  # what this user's files have; some libraries write theirs for the user alone
        yield unfinished
        unfinished.chmod(mode)
        if durable:
            flush(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what `replacing` left in a folder when its process was killed."""
    for unfinished in folder.glob(".*.unfinished"):
        unfinished.unlink()


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and outlive a power cut. Windows has no folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(text: str, path: Path) -> None:
    """Write a text file, the same bytes on every system; a reader sees the old file or the new."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(value: Any, path: Path) -> None:
    """Write a value as readable JSON; a reader sees the old file or the new."""
    write_text(json_text(value, indent=2) + "\n", path)


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON: numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(finite_or_none(value), indent=indent, allow_nan=False)


def printable(text: str) -> str:
    """Text for a terminal: control characters, which names of files may hold, are escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def bytes_of(text: str) -> bytes:
    """A text as bytes, whatever it holds: names of files need be no text."""
    return text.encode(errors="surrogatepass")


def in_one_line(error: Exception) -> str:
    """What an error says, of any package, in one line; its kind if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def safe_name(name: str) -> str:
    """A name with slashes as a path that stays below the folder that it is put in."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts).replace(":", "_") or "_"


def finite_or_none(value: Any) -> Any:
    """The same value with None for every number that is not finite, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite_or_none(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name as safetensors; a reader sees the old file or the new.

    Raises `OSError` if the disk does not take them.
    """
    with replacing(path) as unfinished:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error


def read_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file; None if it is missing, damaged or something else."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; reading it cannot run code.

    Raises `ValueError` if it is missing, damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
