"""Attributes of N pictures, each of which a picture has or lacks, from a table with a column for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaekit.data.labels import LABEL_COLUMNS, ONES, ZEROS, class_folders, columns_about, labels_file, one_hot
from vaekit.data.tables import check_all_there, read_table

STATES = dict.fromkeys(ZEROS, 0) | dict.fromkeys(ONES, 1)  # CelebA writes -1 where others write 0


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
    table = read_table(path, folder, names)
    if not table.has_header or one_hot(table) or any(name.lower() in LABEL_COLUMNS for name in table.columns):
        return None
    columns = [i for i in columns_about(table) if all(row[i] in STATES for rows in table.rows.values() for row in rows)]
    if len(columns) < 2 or not table.rows:
        return None
    check_all_there(table.rows, table, names)
    twice = [name for name, count in Counter(table.columns[i] for i in columns).items() if count > 1]
    if twice:
        raise ValueError(f"{path.name} has two columns {twice[0]!r}; give each attribute a name of its own")
    values = np.empty((len(names), len(columns)), dtype=int)
    for k, i in enumerate(columns):  # one at a time: the cells of all columns of a million pictures are gigabytes
        said = table.cells(i)
        values[:, k] = [STATES[said[place]] for place in range(len(names))]
    return Attributes(tuple(table.columns[i] for i in columns), values, path.name)
