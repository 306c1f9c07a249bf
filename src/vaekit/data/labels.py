"""Classes of N pictures, from the names of their folders or from a CSV."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from vaekit.data.sources.folder import LABELS_FILE
from vaekit.data.tables import Table, check_all_there, read_table
from vaekit.system.files import bytes_of

LABEL_COLUMNS = ("label", "labels", "class", "classes", "target", "category", "species", "diagnosis")
NO_LABELS = ("", "index", "split", "partition", "set", "subset", "fold", "width", "height", "age")
SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation")  # folders that are no classes
ZEROS, ONES = ("0", "0.0", "-1"), ("1", "1.0")


@dataclass(frozen=True, eq=False)
class Labels:
    """The class of each of N pictures.

    `classes` are the names in order, `indices` int (N,) point into them, `source` says where they come from, and
    `ordered` that the classes are numbers, or the two sides of a number, from low to high.
    """

    classes: tuple[str, ...]
    indices: np.ndarray
    source: str
    ordered: bool = False

    @classmethod
    def of(cls, names: Sequence[str], source: str = "a list") -> Labels:
        """Labels from the name of each picture's class; numbers are sorted as numbers, anything else as text."""
        ordered = all(map(is_number, set(names)))
        classes = sorted(set(names), key=float) if ordered else sorted(set(names))
        place = {name: i for i, name in enumerate(classes)}
        return cls(tuple(classes), np.array([place[name] for name in names], int), source, ordered)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: np.ndarray | slice) -> Labels:
        """The labels of some pictures; the classes stay all of them, so that parts fit together."""
        return Labels(self.classes, self.indices[chosen], self.source, self.ordered)

    @property
    def crc32(self) -> int:
        """A checksum of the classes and of the class of each picture."""
        return zlib.crc32(self.indices.astype("<i8").tobytes(), zlib.crc32(bytes_of("\n".join(self.classes))))

    @property
    def counts(self) -> dict[str, int]:
        """Pictures of each class, in the order of `classes`; some may have none."""
        counts = np.bincount(self.indices, minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    @property
    def normal(self) -> str:
        """The class taken for the normal one: the lower of two that are ordered, else the most frequent."""
        if self.ordered and len(self.classes) == 2:
            return self.classes[0]
        return max(self.classes, key=self.counts.__getitem__)

    @property
    def probabilities(self) -> bool:
        """Whether the classes are numbers from 0 to 1 with at least one strictly between."""
        if not all(is_number(name) for name in self.classes):
            return False
        values = [float(name) for name in self.classes]
        return min(values) >= 0 and max(values) <= 1 and any(0 < value < 1 for value in values)

    def at_least(self, threshold: float) -> Labels:
        """Two classes out of numbers: for a threshold of 0.5, "below 0.5" and "0.5 or more".

        Raises `ValueError` if the classes are no numbers.
        """
        if not all(is_number(name) for name in self.classes):
            raise ValueError(f"the classes {', '.join(self.classes[:3])} are not all numbers; only numbers can be cut")
        above = np.array([float(name) >= threshold for name in self.classes])
        sides = f"below {threshold:g}", f"{threshold:g} or more"
        return Labels(sides, above[self.indices].astype(int), self.source, ordered=True)

    def decided(self) -> Labels:
        """Probabilities of one thing cut at 0.5 into no and yes; any other labels as they are."""
        return self.at_least(0.5) if self.probabilities else self


def find_labels(
    folder: Path, names: Sequence[str], labels: Path | None = None, column: str | None = None
) -> Labels | None:
    """Return the classes of the pictures `names`, N paths relative to `folder`, or None if they are not written down.

    The first of these that there is:
    - the table `labels`, lines of picture and label, see `read_labels`;
    - class folders: every picture lies in one of two or more folders directly below `folder` (or below train/, test/
      and the like), and there are at least twice as many pictures as folders;
    - `labels.csv` in the folder, or beside it in the parent folder if that one names any of the pictures.

    Raises `ValueError` as `read_labels` does.
    """
    folder = folder.resolve()
    if labels is not None:
        return read_labels(labels, folder, names, column)
    by_folder = class_folders(names) if column is None else None
    if by_folder is not None:
        return by_folder
    path = labels_file(folder, names)
    if path is None and column is not None:
        raise ValueError(f"no table with the column {column!r}: give one with --labels, or a labels.csv")
    return None if path is None else read_labels(path, folder, names, column)


def class_folders(names: Sequence[str]) -> Labels | None:
    """The classes of pictures by the folders that they lie in; None if those are no classes, see `find_labels`."""
    parents = [own_folder(name) for name in names if "/" in name]
    is_classes = len(parents) == len(names) and 2 <= len(set(parents)) <= len(names) / 2
    is_classes = is_classes and not any(parent.lower() in SPLITS for parent in parents)
    return Labels.of(parents, "class folders") if is_classes else None


def own_folder(name: str) -> str:
    """The folder at the top of a picture's path, or the one below that if the top only parts train from test."""
    top, *rest = name.split("/")
    return rest[0] if top.lower() in SPLITS and len(rest) > 1 else top


def labels_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The labels.csv of pictures, in their folder or beside it; None if there is none, or only one about others."""
    inside, beside = folder / LABELS_FILE, folder.parent / LABELS_FILE
    if inside.is_file():
        return inside
    if not beside.is_file():
        return None
    table = read_table(beside, folder, names)
    return beside if table.rows and table.exact else None  # names that only end alike may be of another folder


def read_labels(path: Path, folder: Path, names: Sequence[str], column: str | None = None) -> Labels:
    """Read the classes of the pictures `names`, N paths relative to `folder`, from a table; see `tables.read_table`.

    The labels are in the `column` of that name, else in one called label, class, target, category or the like, else,
    if all columns hold zeros and ones of which each row has a single one, they are the names of the columns; else in
    the first column that is no number of the row and no train-or-test. `Labels.source` says which was taken.

    Raises `ValueError` as `read_table` does, for a picture without label, a single class, or more classes than half the
    pictures, which look like a measurement and not like a class.
    """
    table = read_table(path, folder, names)
    hot = one_hot(table) if column is None else None
    if hot is not None:
        found, source = hot, f"{path}, one column a class"
    else:
        place = table.column(column) if column is not None else label_column(table)
        found = table.cells(place) if table.columns else {}
        source = f"{path}, column {table.columns[place]}" if table.has_header and len(table.columns) > 1 else str(path)
    check_all_there(found, table, names)
    labels = Labels.of(one_spelling([found[i] for i in range(len(names))]), source)
    if len(labels.classes) < 2:
        raise ValueError(f"{path.name} gives every picture the label {found[0]!r}; two classes or more are needed")
    if len(labels.classes) > len(names) / 2:
        raise ValueError(
            f"{path.name} has {len(labels.classes):,} different labels for {len(names):,} pictures: it looks like "
            "a measurement, not a class; give a few classes"
        )
    return labels


def one_spelling(labels: Sequence[str]) -> list[str]:
    """Numbers as each is spelled most briefly, if all are numbers: 1 and 1.0 are one class."""
    if not all(map(is_number, set(labels))):
        return list(labels)
    shortest = {Decimal(label): label for label in sorted(set(labels), key=len, reverse=True)}
    return [shortest[Decimal(label)] for label in labels]


def label_column(table: Table) -> int:
    """The column that holds the labels, where nobody has said which."""
    lowered = [name.lower() for name in table.columns]
    if not table.has_header:
        return 0
    for name in LABEL_COLUMNS:
        if name in lowered:
            return lowered.index(name)
    return next(iter(columns_about(table)), 0)


def columns_about(table: Table) -> list[int]:
    """The columns that may say something of the pictures: no numbers of rows, no train-or-test."""
    lowered = [name.lower() for name in table.columns]
    return [i for i, name in enumerate(lowered) if name not in NO_LABELS and not name.startswith("unnamed")]


def one_hot(table: Table) -> dict[int, str] | None:
    """The class of each picture where each has a column of its own; None for another kind of table."""
    lowered = [name.lower() for name in table.columns]
    columns = columns_about(table)
    if not table.has_header or len(columns) < 2 or any(name in LABEL_COLUMNS for name in lowered):
        return None
    found: dict[int, str] = {}
    for place, rows in table.rows.items():
        for row in rows:
            ones = [i for i in columns if row[i] in ONES]
            if len(ones) != 1 or not all(row[i] in (*ZEROS, *ONES) for i in columns):
                return None
            if found.setdefault(place, table.columns[ones[0]]) != table.columns[ones[0]]:
                return None
    return found or None


def is_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False
