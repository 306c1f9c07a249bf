"""A folder as a source of pictures: its files, in the order of their paths."""

import importlib.util
import os
from collections.abc import Collection
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
OUTPUT_MARK = ".vaekit"  # lies in the folders that vaekit writes
ELPV = "elpv"  # 2,624 grey photographs of solar cells, from the package elpv-dataset


def resolve_source(name: str) -> Path:
    """Return the folder that a source names: a path, or `elpv`, the solar cells of PyPI's elpv-dataset.

    A folder called `elpv` in the current directory takes precedence over the package. Raises ValueError if the package
    is needed and not installed; that a path exists is checked by `find_pictures`.
    """
    if name != ELPV or Path(name).is_dir():
        return Path(os.path.expanduser(name))
    package = importlib.util.find_spec("elpv_dataset")  # found, not imported: only its files are wanted
    if package is None or package.origin is None:
        raise ValueError(f'the source {ELPV!r} needs the package elpv-dataset; run: pip install "vaekit[demo]"')
    return Path(package.origin).parent / "data" / "images"


def find_pictures(folder: Path) -> list[Path]:
    """Return every picture below a folder, in the order of the paths relative to it.

    Hidden files and folders are left out, and folders below that vaekit wrote: a run among its own pictures must not
    learn from its figures. Links to folders are followed, but each real folder is read once,
    so a loop of links ends. Raises ValueError if the folder does not exist, is a file, cannot be read or
    holds no picture.
    """
    if not folder.exists():
        raise ValueError(f"there is no folder {folder}; give the path of a folder of pictures")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder that holds the pictures")
    if holds_results(folder):
        raise ValueError(f"{folder} holds results of vaekit, whose pictures are figures; give a folder of pictures")
    pictures = []
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
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        candidates = (Path(parent, name) for name in files if not name.startswith("."))
        pictures += [path for path in candidates if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not pictures:
        raise ValueError(f"{folder} holds no picture; the files read are those ending in {', '.join(SUFFIXES)}")
    return sorted(pictures, key=Path.as_posix)  # all below one folder: the order of the relative paths too


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
