"""Attributes of N pictures, each of which a picture has or lacks, from a table with a column for each."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaekit.data.labels import (
    LABEL_COLUMNS,
    check_all_there,
    class_folders,
    columns_of,
    labels_file,
    places_of,
    read_rows,
)

STATES = {"0": 0, "1": 1, "-1": 0}  # CelebA writes -1 where others write 0


@dataclass(frozen=True, eq=False)
class Attributes:
    """What N pictures have, 1, or lack, 0: `values` int (N, K), a column for each of the `names`."""

    names: tuple[str, ...]
    values: np.ndarray
    source: str


def find_attributes(folder: Path, names: Sequence[str]) -> Attributes | None:
    """The attributes of the pictures `names`, N paths relative to `folder`; None if their labels are no such table.

    That is a labels.csv, found as `data.labels.find_labels` does, whose first line names two or more columns of zeros
    and ones (or -1 and 1), and none called label, class or target. Its other columns are ignored.

    Raises `ValueError` as `data.labels.read_labels` does.
    """
    folder = folder.resolve()
    path = None if class_folders(names) else labels_file(folder, names)
    return None if path is None else read_attributes(path, folder, names)


def read_attributes(path: Path, folder: Path, names: Sequence[str]) -> Attributes | None:
    """Read the attributes of the pictures `names` from a table; None if it is another kind of table."""
    head, *rows = read_rows(path)
    file, _, first = columns_of([cell.lower() for cell in head])
    if first == 0 or any(cell.lower() in LABEL_COLUMNS for cell in head):
        return None
    places = places_of(folder, names, path.resolve().parent)
    found: dict[int, list[str]] = {}
    for row in rows:
        place = places.get(posixpath.normpath(row[file])) if len(row) == len(head) else None
        if place is not None and found.setdefault(place, row) != row:
            raise ValueError(f"{path.name} has two different lines for {names[place]}; keep one of them")
    columns = [
        i for i, name in enumerate(head) if name and i != file and all(row[i] in STATES for row in found.values())
    ]
    if len(columns) < 2:
        return None
    check_all_there(found, path, names)
    values = np.array([[STATES[found[place][i]] for i in columns] for place in range(len(names))])
    return Attributes(tuple(head[i] for i in columns), values, path.name)
