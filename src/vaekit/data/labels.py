"""Classes of N pictures, from the names of their folders or from a CSV."""

from __future__ import annotations

import csv
import math
import os
import posixpath
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaekit.data.sources.folder import SUFFIXES

LABELS_FILE = "labels.csv"
FILE_COLUMNS = ("file", "filename", "path", "image", "picture", "name")
LABEL_COLUMNS = ("label", "class", "target")


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
        classes = sorted(set(names))
        ordered = all(is_number(name) for name in classes)
        if ordered:
            classes.sort(key=float)
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
        return zlib.crc32(self.indices.astype("<i8").tobytes(), zlib.crc32("\n".join(self.classes).encode()))

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


def find_labels(folder: Path, names: Sequence[str], labels: Path | None = None) -> Labels | None:
    """Return the classes of the pictures `names`, N paths relative to `folder`, or None if they are not written down.

    The first of these that there is:
    - the CSV `labels`, lines of picture and label, see `read_labels`;
    - class folders: every picture lies in one of two or more folders directly below `folder`, and there are at
      least twice as many pictures as folders;
    - `labels.csv` in the folder, or beside it in the parent folder if that one names any of the pictures.

    Raises `ValueError` as `read_labels` does.
    """
    folder = folder.resolve()
    if labels is not None:
        return read_labels(labels, folder, names)
    by_folder = class_folders(names)
    if by_folder is not None:
        return by_folder
    path = labels_file(folder, names)
    return None if path is None else read_labels(path, folder, names)


def class_folders(names: Sequence[str]) -> Labels | None:
    """The classes of pictures by the folders that they lie in; None if those are no classes, see `find_labels`."""
    parents = [name.partition("/")[0] for name in names if "/" in name]
    is_classes = len(parents) == len(names) and 2 <= len(set(parents)) <= len(names) / 2
    return Labels.of(parents, "class folders") if is_classes else None


def labels_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The labels.csv of pictures, in their folder or beside it; None if there is none, or only one about others."""
    inside, beside = folder / LABELS_FILE, folder.parent / LABELS_FILE
    if inside.is_file():
        return inside
    return beside if beside.is_file() and match_names(beside, folder, names) else None


def read_labels(path: Path, folder: Path, names: Sequence[str]) -> Labels:
    """Read the classes of the pictures `names`, N paths relative to `folder`, from a CSV of picture and label.

    Tabs, semicolons, commas or spaces separate the columns: the first of these, in this order, that splits the first
    line. A first line without the name of a picture is the header: its column `label`, `class` or `target` holds the
    label, and `file`, `filename`, `path`, `image`, `picture` or `name` the picture. Otherwise the first column holds
    the picture and the second the label. A picture is named relative to `folder`, else to the CSV's own folder, else by
    a file name that no two pictures share. Lines about other pictures are ignored.

    Raises `ValueError` for a file that is missing, empty or no UTF-8 text, a picture without label or with two, a
    single class, or more classes than half the pictures, which look like a measurement and not like a class.
    """
    found = match_names(path, folder.resolve(), names)
    check_all_there(found, path, names)
    labels = Labels.of([found[i] for i in range(len(names))], str(path))
    if len(labels.classes) < 2:
        raise ValueError(f"{path.name} gives every picture the label {found[0]!r}; two classes or more are needed")
    if len(labels.classes) > len(names) / 2:
        raise ValueError(
            f"{path.name} has {len(labels.classes):,} different labels for {len(names):,} pictures: it looks like "
            "a measurement, not a class; give a few classes"
        )
    return labels


def check_all_there(found: Mapping[int, object], path: Path, names: Sequence[str]) -> None:
    """Raise `ValueError` if a table says nothing of some of the pictures `names`."""
    missing = [name for i, name in enumerate(names) if i not in found]
    if missing:
        example = missing[0]
        raise ValueError(
            f"{path.name} has no label for {len(missing):,} of {len(names):,} pictures, for instance {example}; "
            f"add a line for each, such as {example},LABEL, or move those pictures elsewhere"
        )


def match_names(path: Path, folder: Path, names: Sequence[str]) -> dict[int, str]:
    """The labels in a CSV by the place of their picture among `names`."""
    rows = read_rows(path)
    file, label, first = columns_of([cell.lower() for cell in rows[0]])
    places = places_of(folder, names, path.resolve().parent)
    found: dict[int, str] = {}
    for row in rows[first:]:
        if len(row) <= max(file, label) or not row[label]:
            continue
        place = places.get(posixpath.normpath(row[file]))
        if place is not None and found.setdefault(place, row[label]) != row[label]:
            raise ValueError(
                f"{path.name} gives {names[place]} two labels, {found[place]!r} and {row[label]!r}; keep one of them"
            )
    return found


def read_rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"cannot read the labels {path}: {reason}; give a CSV with lines of picture,label") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the labels {path} are no UTF-8 text; save them as CSV in UTF-8") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"the labels {path} are empty; give a CSV with lines of picture,label")
    try:
        delimiter = next((mark for mark in "\t;," if len(split_rows(lines[:1], mark)[0]) > 1), " ")
        return split_rows(lines, delimiter)
    except csv.Error as error:
        raise ValueError(f"the labels {path} are no CSV: {error}; give lines of picture,label") from error


def split_rows(lines: list[str], delimiter: str) -> list[list[str]]:
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)  # so several spaces part only once
    return [[cell.strip() for cell in row] for row in rows]


def columns_of(head: list[str]) -> tuple[int, int, int]:
    """The column of the picture, that of the label, and the first row that is no header."""
    if any(cell.endswith(SUFFIXES) for cell in head):
        return 0, 1, 0
    label = next((head.index(name) for name in LABEL_COLUMNS if name in head), 1)
    file = next((head.index(name) for name in FILE_COLUMNS if name in head), 0 if label else 1)
    return file, label, 1


def places_of(folder: Path, names: Sequence[str], csv_folder: Path) -> dict[str, int]:
    """The index of each picture in `names`, by every name that a CSV may use for it."""
    bases = [posixpath.basename(name) for name in names]
    counts = Counter(bases)
    bare = {base: i for i, base in enumerate(bases) if counts[base] == 1}
    way = Path(os.path.relpath(folder, csv_folder)).as_posix()
    beside = {posixpath.normpath(f"{way}/{name}"): i for i, name in enumerate(names)}
    absolute = {f"{folder.as_posix()}/{name}": i for i, name in enumerate(names)}
    return bare | absolute | beside | {name: i for i, name in enumerate(names)}  # the last one counts


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
