"""Tables of pictures and what is known of them, as people and programs write them."""

from __future__ import annotations

import csv
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaekit.data.sources.folder import SUFFIXES

FILE_COLUMNS = ("file", "filename", "file_name", "path", "image", "image_id", "picture", "name", "id")
ROW_NUMBERS = ("", "index")  # columns of numbers that count the rows
LOOKED_AT = 200  # rows that the column of the pictures is found by


@dataclass(frozen=True)
class Table:
    """The rows of a table that are about pictures, by the place of the picture among their names.

    `columns` are the names of the other columns, `column 2` and so on where the table has no header; a row has a cell
    for each, empty where it was too short. A picture may have several rows.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Mapping[int, list[list[str]]]
    has_header: bool
    example: str  # the cell that names the picture in the first row
    names: Sequence[str]  # of the pictures
    exact: bool  # whether its names are those of the pictures as they are

    def column(self, name: str) -> int:
        """The place of a column. Raises `ValueError` if there is none of that name."""
        lowered = [column.lower() for column in self.columns]
        if name.lower() not in lowered:
            raise ValueError(f"{self.path.name} has no column {name!r}; it has {', '.join(self.columns[:20])}")
        return lowered.index(name.lower())

    def cells(self, column: int) -> dict[int, str]:
        """What a column says, by the place of the picture; empty cells are left out.

        Raises `ValueError` if rows of one picture say different things there.
        """
        found: dict[int, str] = {}
        for place, rows in self.rows.items():
            said = list(dict.fromkeys(row[column] for row in rows if row[column]))
            if len(said) > 1:
                name = self.names[place]
                raise ValueError(f"{self.path.name} gives {name} two labels, {said[0]!r} and {said[1]!r}; keep one")
            if said:
                found[place] = said[0]
        return found


def read_table(path: Path, folder: Path, names: Sequence[str]) -> Table:
    """The table in `path` of the pictures `names`, N paths relative to `folder`.

    Tabs, semicolons, commas or spaces separate the columns: the first of these, in this order, that splits the first
    line. The column of the pictures is the one with the most names of them. A picture is named relative to `folder`,
    else to the table's own folder, else by a file name that no two pictures share; one that no row names so, also by
    the end of a path of elsewhere, with either slash, and without its suffix. Rows about other pictures are left out. A
    first line that is a number alone (CelebA's) is none.

    Raises `ValueError` for a file that is missing, empty or no UTF-8 text.
    """
    raw = read_rows(path)
    if len(raw) > 1 and len(raw[0]) == 1 and raw[0][0].isdigit():
        raw = raw[1:]
    others = raw[1:LOOKED_AT]
    is_head = raw[0][0].lower() not in FILE_COLUMNS and not is_name(raw[0][0])
    if others and is_head and all(len(row) == len(raw[0]) + 1 and row[-1] for row in others):
        raw[0].insert(0, "")  # CelebA's: the first column has no name
    places = places_of(folder.resolve(), names, path.resolve().parent)
    file, exact = file_column(raw, places)
    has_header = place_of(raw[0], file, places, exact) is None and not any(is_name(cell) for cell in raw[0])
    width = max(len(raw[0]), *(len(row) for row in raw[1:LOOKED_AT]), 0) if len(raw) > 1 else len(raw[0])
    heads = raw[0] if has_header else [f"column {i + 1}" for i in range(width)]
    rows: dict[int, list[list[str]]] = {}
    known = {place_of(row, file, places, exact=True) for row in raw[has_header:]}
    for row in raw[has_header:]:
        place = place_of(row, file, places, exact=True)
        if place is None:  # by the end of a path or without a suffix, unless the picture has a row of its own
            place = place_of(row, file, places, exact=False)
            place = None if place in known else place
        if place is None:
            continue
        rows.setdefault(place, []).append([row[i] if i < len(row) else "" for i in range(len(heads)) if i != file])
    first = raw[min(int(has_header), len(raw) - 1)]
    example = first[file] if file < len(first) else first[0]
    columns = tuple(head for i, head in enumerate(heads) if i != file)
    return Table(path, columns, rows, has_header, example, names, exact)


def check_all_there(found: Mapping[int, object], table: Table, names: Sequence[str]) -> None:
    """Raise `ValueError` if a table says nothing of some of the pictures `names`."""
    missing = [name for i, name in enumerate(names) if i not in found]
    if len(missing) == len(names) and not table.rows:
        raise ValueError(
            f"{table.path.name} names none of the {len(names):,} pictures: it has {table.example!r} where a picture is "
            f"called {missing[0]!r}"
        )
    if missing:
        example = missing[0]
        raise ValueError(
            f"{table.path.name} has no label for {len(missing):,} of {len(names):,} pictures, for instance {example}; "
            f"add a line for each, such as {example},LABEL, or move those pictures elsewhere"
        )


def file_column(rows: Sequence[Sequence[str]], places: Mapping[str, int]) -> tuple[int, bool]:
    """The column that names the most pictures, and whether it does so exactly; else one that looks like it.

    Numbers of rows may be names of pictures by chance, so a column that is called so counts where no other one does;
    of several that name as many, one that is called like a file's.
    """
    width = max(map(len, rows[:LOOKED_AT]))
    head = [rows[0][i].lower() if i < len(rows[0]) else "" for i in range(width)]
    last = {i for i, name in enumerate(head) if name in ROW_NUMBERS or name.startswith("unnamed")}
    for exact in (True, False):
        for looked_at in (rows[:LOOKED_AT], rows):
            hits = [len({place_of(row, i, places, exact) for row in looked_at} - {None}) for i in range(width)]
            if max(hits):
                ranks = [(hits[k] > 0 and k not in last, hits[k], head[k] in FILE_COLUMNS, -k) for k in range(width)]
                return ranks.index(max(ranks)), exact
    return next((head.index(name) for name in FILE_COLUMNS if name in head), 0), True


def place_of(row: Sequence[str], file: int, places: Mapping[str, int], exact: bool) -> int | None:
    """The picture that a row is about, by the cell in the column `file`; None if it is about another one."""
    if file >= len(row) or not row[file]:
        return None
    name = posixpath.normpath(row[file])
    if exact:
        return places.get(name)
    parts = row[file].replace("\\", "/").split("/")
    ends = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((places[key] for end in ends for key in (end, f"{end}/", bare(end)) if key in places), None)


def bare(name: str) -> str:
    """The key of a picture's name without its suffix, whatever that is: no picture is called so."""
    return f"{posixpath.splitext(name)[0]}/"


def places_of(folder: Path, names: Sequence[str], table_folder: Path) -> dict[str, int]:
    """The index of each picture in `names`, by every name that a table may use for it."""
    bases = [posixpath.basename(name) for name in names]
    counts, stems = Counter(bases), Counter(bare(base) for base in bases)
    alone = {base: i for i, base in enumerate(bases) if counts[base] == 1}
    without = {bare(base): i for i, base in enumerate(bases) if stems[bare(base)] == 1}
    try:
        way = Path(os.path.relpath(folder, table_folder)).as_posix()
    except ValueError:  # on another drive of Windows: there is no way from one to the other
        way = folder.as_posix()
    beside = {posixpath.normpath(f"{way}/{name}"): i for i, name in enumerate(names)}
    absolute = {f"{folder.as_posix()}/{name}": i for i, name in enumerate(names)}
    return without | alone | absolute | beside | {name: i for i, name in enumerate(names)}  # the last one counts


def is_name(cell: str) -> bool:
    """Whether a cell looks like the name of a picture."""
    return cell.lower().endswith(SUFFIXES)


def read_rows(path: Path) -> list[list[str]]:
    """The cells of a table, stripped, without empty lines. Raises `ValueError` for what is no table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"cannot read the labels {path}: {reason}; give a CSV with lines of picture,label") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the labels {path} are no UTF-8 text; save them as CSV in UTF-8") from error
    lines = [line.strip("\r\n ") for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"the labels {path} are empty; give a CSV with lines of picture,label")
    head = lines[1] if len(lines) > 1 and lines[0].isdigit() else lines[0]  # CelebA's first line is a count
    try:
        delimiter = next((mark for mark in "\t;," if len(split_rows([head], mark)[0]) > 1), " ")
        return split_rows(lines, delimiter)
    except csv.Error as error:
        raise ValueError(f"the labels {path} are no CSV: {error}; give lines of picture,label") from error


def split_rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """The cells of lines."""
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)  # so several spaces part only once
    return [[cell.strip() for cell in row] for row in rows]
