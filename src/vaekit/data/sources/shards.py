"""Tar files of pictures as WebDataset has them, on this machine or at any address that fsspec knows, as a source.

Local shards are read where they lie, each picture by its place in the tar; those of other machines are fetched into the
cache first. Nothing is unpacked. Files of one picture share their name up to the first dot: `0001.jpg`, `0001.cls`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, product
from pathlib import Path, PurePosixPath
from typing import Any

from vaekit.data.bands import is_picture
from vaekit.data.cache import default_cache_dir
from vaekit.data.formats import readable_formats
from vaekit.data.magic import HEAD_BYTES, kind_of
from vaekit.data.sources.arrays import clean
from vaekit.data.sources.base import Listing
from vaekit.data.sources.folder import ARRAY, NO_PICTURES_IN, holds_picture, in_order, kinds
from vaekit.data.sources.folder import SUFFIXES as PICTURES
from vaekit.system.files import bytes_of, in_one_line

SUFFIX = ".tar"
CLASS = ".cls"  # beside a picture: the name or the number of its class
LONGEST_CLASS = 200  # bytes
BLOCK = 512  # bytes, of tar; one of zeros ends it
FETCHED_AT_ONCE = 4  # shards
NOT_FROM_THE_MIDDLE = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Member:
    """Where the bytes of a picture are."""

    shard: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Shards:
    """The pictures in one or more tar files: a path or an address, with * or {000..012}, or a folder of them."""

    place: str
    members: dict[str, Member] = field(default_factory=dict, compare=False, repr=False)

    @property
    def title(self) -> str:
        """The name of the first shard, or of the folder, without what differs between shards."""
        name = self.place.rstrip("/").rpartition("/")[2].partition(SUFFIX)[0]
        return re.sub(r"[-_.]*([*?\[{].*)?$", "", name) or "shards"

    @property
    def folder(self) -> Path:
        """The folder of local shards; that of their copies for others."""
        if is_address(self.place):
            return default_copies() / hashlib.sha256(bytes_of(self.place)).hexdigest()[:16]
        path = Path(self.place)
        return path if path.is_dir() else path.parent

    @cached_property
    def shards(self) -> list[tuple[Path, list[Any]]]:
        """The files on this machine in the order of their names, and what each is known by."""
        if is_address(self.place):
            return fetched(self.place, self.folder)
        named = {pattern: local(pattern) for pattern in spelled_out(self.place)}
        paths = [path for found in named.values() for path in found]
        missing = [pattern for pattern, found in named.items() if not found]
        if not paths:
            raise ValueError(f"there is no shard {self.place}; give a path of tar files, such as photos-*.tar")
        if missing:
            raise ValueError(f"{len(missing):,} of the shards {self.place} are not there, the first is {missing[0]}")
        return [(path, [path.name, path.stat().st_size, path.stat().st_mtime_ns]) for path in paths]

    def list_pictures(self) -> Listing:
        """Every picture of every shard, read from the headers of the tars.

        With a class beside each of them, names begin with that class, as those in class folders do. Raises
        `ValueError` for shards that are not there or no tars, and without pictures.
        """
        found: dict[str, tuple[Member, str]] = {}
        others: Counter[str] = Counter()
        for path, _ in self.shards:
            held = held_by(path)
            others.update(held.others)
            for name, member in held.pictures:
                found[unlike(found, name, path.stem)] = member, held.classes.get(key_of(name), "")
        if not found:
            there = f": {kinds(in_order(others))}" if others else ""
            raise ValueError(f"no picture in the shards {self.place}{there}")
        named: dict[str, Member] = {}
        of_all = all(label for _, label in found.values())
        for name, (member, label) in found.items():
            named[unlike(named, f"{label}/{name.replace('/', '_')}" if of_all else name, "more")] = member
        self.members.clear()
        self.members.update(named)
        return Listing(tuple(named), [identity for _, identity in self.shards], in_order(others))

    def read(self, name: str) -> bytes:
        """The bytes of a picture. Raises `ValueError` if the shard ends before it does."""
        member = self.members[name]
        with member.shard.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
        if len(data) < member.size:
            raise ValueError(f"the shard {member.shard.name} is cut short")
        return data


@dataclass
class Held:
    """What a tar holds: its pictures, the classes by key, and how many other files of which kind."""

    pictures: list[tuple[str, Member]] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


def held_by(path: Path) -> Held:
    """What a tar holds, from its headers. Raises `ValueError` for what is no tar.

    Files of one key are about one picture: beside `0001.jpg`, neither `0001.json` nor `0001.npy` nor `0001.mask.png`
    is another one, and none of them is counted.
    """
    held, rest, end = Held(), list[tuple[str, str]](), 0
    by_key: dict[str, list[tuple[str, Member]]] = {}
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as data:
            for header in tar:
                end = header.offset_data + -(-header.size // BLOCK) * BLOCK
                name = re.sub(r"^(\./)+", "", header.name)
                parts = PurePosixPath(name).parts
                if header.isdir() or any(part.startswith("._") or part in NO_PICTURES_IN for part in parts):
                    continue
                data.seek(header.offset_data)
                if not header.isreg() or header.issparse():
                    rest.append((key_of(name), "special file"))
                elif name.startswith("/") or ".." in parts:
                    rest.append(("", "unsafe name"))
                elif name.endswith(CLASS) and header.size <= LONGEST_CLASS:
                    held.classes[key_of(name)] = clean(data.read(header.size).decode("utf-8", "replace"))
                elif (other := what_else(name, data.read(HEAD_BYTES))) is None:
                    member = Member(path, header.offset_data, header.size)
                    by_key.setdefault(key_of(name), []).append((name, member))
                else:
                    rest.append((key_of(name), other))
            data.seek(end)
            if data.read(BLOCK) != bytes(BLOCK):
                raise ValueError(f"{path} is cut short: what ends a tar file is missing")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no tar file, or a damaged one: {error}") from error
    held.pictures = [one for several in by_key.values() for one in own_of(several)]
    held.others = Counter(kind for key, kind in rest if key not in by_key)
    return held


def what_else(name: str, head: bytes) -> str | None:
    """What kind of file this is, if it is no picture."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PICTURES or kind_of(head) in readable_formats() or (suffix == ARRAY and is_picture(head)):
        return None
    return suffix or "file without a suffix"


def own_of(several: list[tuple[str, Member]]) -> list[tuple[str, Member]]:
    """Of the files of one key that could be pictures those that are: the plain ones, and no array beside another."""
    plain = [one for one in several if one[0].rpartition("/")[2].count(".") <= 1] or several
    return [one for one in plain if not one[0].endswith(ARRAY)] or plain


def unlike(taken: Collection[str], name: str, mark: str) -> str:
    """A name that is not taken yet: itself, or in a folder called `mark`, or in one with a number."""
    for i in count():
        chosen = name if not i else f"{mark}/{name}" if i == 1 else f"{mark}-{i}/{name}"
        if chosen not in taken:
            return chosen
    raise AssertionError


def key_of(name: str) -> str:
    """What the files of one picture share: the name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def is_address(place: str) -> bool:
    """Whether a place is not on this machine: s3://..., https://..."""
    return "://" in place


def names_shards(place: str) -> bool:
    """Whether a place names tar files; raises `ValueError` for compressed ones, which are read from the front alone."""
    if place.endswith(NOT_FROM_THE_MIDDLE):
        raise ValueError(
            f"{place} is compressed; pictures are small already: unpack it to .tar, which is read in place"
        )
    return place.endswith(SUFFIX)


def holds_shards(folder: Path) -> bool:
    """Whether a folder holds tar files, and no picture anywhere below."""
    return folder.is_dir() and any(folder.glob(f"*{SUFFIX}")) and not holds_picture(folder)


def spelled_out(pattern: str) -> list[str]:
    """A pattern with braces as the patterns that it stands for: a-{00..02}.tar, {a,b}.tar."""
    pieces = re.split(r"(\{[^{}]*\})", pattern)
    choices: list[Sequence[str]] = []
    for piece in pieces:
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece)
        if span:
            first, last = span.groups()
            choices.append([f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)])
        elif piece.startswith("{") and "," in piece:
            choices.append(piece[1:-1].split(","))
        else:
            choices.append([piece])
    return ["".join(chosen) for chosen in product(*choices)]


def local(pattern: str) -> list[Path]:
    """The files of this machine that a pattern names, sorted; a folder stands for its tar files."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(path.glob(f"*{SUFFIX}"))
    if path.exists() or not any(mark in path.name for mark in "*?["):
        return [path] if path.is_file() else []
    return sorted(path.parent.glob(path.name))


def fetched(place: str, folder: Path) -> list[tuple[Path, list[Any]]]:
    """Copies of the shards at an address, and what each is known by; those that are there already stay."""
    try:
        import fsspec
    except ImportError as error:
        raise ValueError(f'the shards {place} need fsspec; run: pip install "vaekit[hub]"') from error
    try:
        opened = [(fsspec.core.url_to_fs(pattern)) for pattern in spelled_out(place)]
        remote = [
            (fs, path) for fs, pattern in opened for path in (fs.glob(pattern) if has_glob(pattern) else [pattern])
        ]
        sizes = [int(fs.size(path) or 0) for fs, path in remote]
    except Exception as error:  # each kind of address has errors of its own
        raise ValueError(f"cannot reach {place}: {in_one_line(error)}") from error
    if not remote:
        raise ValueError(f"there is no shard {place}")
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(one: tuple[Any, str], size: int) -> Path:
        fs, path = one
        marked = hashlib.sha256(path.encode()).hexdigest()[:8]  # two places may have shards of one name
        copy = folder / f"{marked}-{path.rpartition('/')[2]}"
        if not copy.exists() or copy.stat().st_size != size:
            unfinished = copy.with_name(f".{copy.name}.{os.getpid()}.unfinished")
            try:
                fs.get_file(path, str(unfinished))
                unfinished.replace(copy)
            except Exception as error:
                raise ValueError(f"cannot fetch {path}: {in_one_line(error)}") from error
            finally:
                unfinished.unlink(missing_ok=True)
        return copy

    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
        copies = list(pool.map(fetch, remote, sizes))
    return [(copy, [copy.name, size]) for copy, size in zip(copies, sizes, strict=True)]


def has_glob(pattern: str) -> bool:
    """Whether a pattern has to be looked up."""
    return any(mark in pattern for mark in "*?[")


def default_copies() -> Path:
    """Where copies of shards of other machines are kept."""
    return default_cache_dir() / "shards"
