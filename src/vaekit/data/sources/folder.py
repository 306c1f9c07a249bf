"""A folder as a source of pictures: its files, in the order of their paths."""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vaekit.data.bands import DICOM, is_picture
from vaekit.data.formats import readable_formats
from vaekit.data.magic import HEAD_BYTES, kind_of
from vaekit.data.sources.base import Listing

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
NO_PICTURES_IN = ("@eaDir", "__MACOSX")  # folders of thumbnails and the like
LEFTOVERS = (".thm", ".bak", ".orig", "_original", "~")  # pictures that are there a second time
MOST_KINDS = 6  # that are told
LABELS_FILE = "labels.csv"  # what `data.labels` looks for
OUTPUT_MARK = ".vaekit"  # lies in the folders that vaekit writes
READS_DICOM = importlib.util.find_spec("pydicom") is not None
ARRAY = ".npy"
ELPV = "elpv"  # 2,624 grey photographs of solar cells, from the package elpv-dataset


@dataclass(frozen=True)
class Folder:
    """The pictures below a folder, in the order of their paths. They are known by names, sizes and times."""

    folder: Path
    called: str = ""  # where that is not its name

    @property
    def place(self) -> str:
        """The path of the folder."""
        return str(self.folder)

    @property
    def title(self) -> str:
        """The name of the folder."""
        return self.called or self.folder.name

    def list_pictures(self) -> Listing:
        """See `find_pictures`, which says what is raised."""
        found = find_pictures(self.folder)
        names = tuple(path.relative_to(self.folder).as_posix() for path in found.pictures)
        return Listing(names, identity_of(self.folder, names), found.passed_over)

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.folder / name).read_bytes()


def identity_of(folder: Path, names: Iterable[str]) -> list[tuple[str, int, int]]:
    """Name, size and time of some files: what changes if one of them does."""
    statuses = ((name, os.stat(folder / name)) for name in names)
    return [(name, status.st_size, status.st_mtime_ns) for name, status in statuses]


def solar_cells() -> Path:
    """The folder of the solar cells of PyPI's elpv-dataset. Raises `ValueError` if it is not installed."""
    package = importlib.util.find_spec("elpv_dataset")  # found, not imported: only its files are wanted
    if package is None or package.origin is None:
        raise ValueError(f'the source {ELPV!r} needs the package elpv-dataset; run: pip install "vaekit[demo]"')
    return Path(package.origin).parent / "data" / "images"


@dataclass(frozen=True)
class Found:
    """The pictures below a folder, in the order of their relative paths, and how many other files of which kind."""

    pictures: list[Path]
    passed_over: Mapping[str, int] = field(default_factory=dict)


def find_pictures(folder: Path) -> Found:
    """Every picture below a folder, and what else was there.

    Files that are called like pictures are some; of others the first bytes decide. Hidden files and folders are left
    out, and folders below that vaekit wrote: a run among its own pictures must not learn from its figures. Links to
    folders are followed, but each real folder is read once, so a loop of links ends. Raises ValueError if the folder
    does not exist, is a file, cannot be read or holds no picture.
    """
    if not folder.exists():
        raise ValueError(f"there is no folder {folder}; give the path of a folder of pictures")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder that holds the pictures")
    if holds_results(folder):
        raise ValueError(f"{folder} holds results of vaekit, whose pictures are figures; give a folder of pictures")
    pictures: list[Path] = []
    arrays: list[Path] = []
    others: Counter[str] = Counter()
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        if Path(parent) != folder and is_output(files):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NO_PICTURES_IN)
        for path in (Path(parent, name) for name in files if not name.startswith(".") and name != LABELS_FILE):
            other = what_else(path)
            if other is None:
                pictures.append(path)
            elif other == ARRAY and looks_like_picture(path):
                arrays.append(path)
            else:
                others[other] += 1
    if pictures and arrays:  # masks, features: what lies beside pictures is about them
        others[ARRAY] += len(arrays)
    pictures = pictures or arrays
    if not pictures:
        there = f": {kinds(in_order(others))}" if others else ""
        raise ValueError(f"{folder} holds no picture{there}; the files read are {', '.join(SUFFIXES)} and their like")
    pictures.sort(key=Path.as_posix)  # all below one folder: the order of the relative paths too
    return Found(pictures, in_order(others))


def in_order(others: Mapping[str, int]) -> dict[str, int]:
    """The most frequent kinds first."""
    return dict(sorted(others.items(), key=lambda item: (-item[1], item[0])))


def what_else(path: Path) -> str | None:
    """What kind of file this is, in a word or two, if it is no picture that can be read here."""
    if not path.is_file():
        return "broken link" if path.is_symlink() else "special file"
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return "unreadable file"
    kind = kind_of(head)
    if kind == DICOM and READS_DICOM:
        return None
    if kind in readable_formats() and not (suffix and kind == "TIFF") and not suffix.endswith(LEFTOVERS):
        return None  # but for what cameras call by their own names: their raw files begin as TIFFs
    if not suffix:
        return "file without a suffix"
    return suffix if re.fullmatch(r"\.(?=.*[a-z])[a-z0-9]{1,5}", suffix) else "other file"


def looks_like_picture(path: Path) -> bool:
    """Whether a .npy file holds an array of the shape of a picture."""
    try:
        with path.open("rb") as file:
            return is_picture(file.read(HEAD_BYTES))
    except OSError:
        return False


def holds_picture(folder: Path) -> bool:
    """Whether a file anywhere below a folder is called like a picture; stops at the first one."""
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def kinds(others: Mapping[str, int]) -> str:
    """Counts of other files for people: `9 .heic, 2 broken links`."""

    def counted(kind: str, count: int) -> str:
        noun, _, rest = kind.partition(" without")
        many = "" if kind.startswith(".") or count == 1 else "s"
        return f"{count:,} {noun}{many}" + (f" without{rest}" if rest else "")

    shown = list(others.items())[:MOST_KINDS]
    rest = sum(others.values()) - sum(count for _, count in shown)
    return ", ".join([counted(kind, count) for kind, count in shown] + [f"{rest:,} more"] * (rest > 0))


def holds_results(folder: Path) -> bool:
    """Whether a folder holds a run, what is left of one, or a comparison; samples alone are pictures."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return is_output(names) and bool(names & {"config.json", "checkpoints", "figures", "report.json"})


def is_output(files: Collection[str]) -> bool:
    """Whether a folder with these files was written by vaekit; runs of before have no mark."""
    return OUTPUT_MARK in files or {"config.json", "pictures.json"} <= set(files)


def refuse(error: OSError) -> None:
    raise ValueError(f"cannot read the folder {error.filename}: {error.strerror}; allow it or move it elsewhere")
