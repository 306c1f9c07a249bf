"""The factors that N generated pictures were made of, from a table beside them; and such pictures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vaekit.data.tables import check_all_there, read_table
from vaekit.system.files import write_text

FACTORS_FILE = "factors.csv"
# The factors of `write_shapes` and how many values each has; as dSprites', and a colour.
SHAPE_FACTORS = {"shape": 3, "size": 5, "rotation": 8, "x": 8, "y": 8, "colour": 6}
SUPERSAMPLED = 4  # times the side, before it is made smaller
BACKGROUND = (24, 24, 24)
TURN = math.pi / 2 / SHAPE_FACTORS["rotation"]  # a square looks the same after a quarter


@dataclass(frozen=True, eq=False)
class Factors:
    """What N pictures were made of: `values` int (N, K), a column for each of the `names`, counted from zero."""

    names: tuple[str, ...]
    values: np.ndarray


def find_factors(folder: Path, names: Sequence[str]) -> Factors | None:
    """The factors of the pictures `names`, N paths relative to `folder`, from its factors.csv; None without one.

    A column is a factor; its values are numbered in order. Raises `ValueError` if a picture is missing there.
    """
    path = folder.resolve() / FACTORS_FILE
    if not path.is_file():
        return None
    table = read_table(path, folder.resolve(), names)
    check_all_there(table.rows, table, names)
    columns = []
    for i in range(len(table.columns)):
        cells = table.cells(i)
        said = [cells.get(place, "") for place in range(len(names))]
        columns.append(np.unique(said, return_inverse=True)[1])
    return Factors(table.columns, np.stack(columns, 1))


def write_shapes(folder: Path, count: int, size: int = 64, seed: int = 0) -> None:
    """Write `count` pictures of a coloured shape, 00000.png on, and factors.csv, into a folder.

    All values of a factor are as frequent. As dSprites (Matthey et al., 2017), with fewer values, and a colour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    drawn = np.stack([random.integers(values, size=count) for values in SHAPE_FACTORS.values()], 1)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", *SHAPE_FACTORS])
    for i, factors in enumerate(drawn.tolist()):
        name = f"{i:05d}.png"
        drawn_shape(dict(zip(SHAPE_FACTORS, factors, strict=True)), size).save(folder / name)
        table.writerow([name, *factors])
    write_text(text.getvalue(), folder / FACTORS_FILE)


def drawn_shape(factors: dict[str, int], size: int) -> Image.Image:
    """The picture of some factors, RGB, with smooth edges."""
    side = SUPERSAMPLED * size
    picture = Image.new("RGB", (side, side), BACKGROUND)
    share = {name: value / (SHAPE_FACTORS[name] - 1) for name, value in factors.items()}
    centre = [side * (0.25 + 0.5 * share[axis]) for axis in ("x", "y")]
    radius = side * (0.09 + 0.11 * share["size"])
    angle = factors["rotation"] * TURN
    hue = int(255 * factors["colour"] / SHAPE_FACTORS["colour"])
    colour = Image.new("HSV", (1, 1), (hue, 200, 235)).convert("RGB").getpixel((0, 0))
    points = [
        (
            centre[0] + radius * (math.cos(angle) * u - math.sin(angle) * v),
            centre[1] + radius * (math.sin(angle) * u + math.cos(angle) * v),
        )
        for u, v in OUTLINES[factors["shape"]]
    ]
    ImageDraw.Draw(picture).polygon(points, fill=colour)
    return picture.resize((size, size), Image.Resampling.BOX)


def circle(points: int, across: float = 1.0, first: float = 0.0) -> list[tuple[float, float]]:
    """Points around a circle, or an ellipse that is narrower across."""
    angles = [first + 2 * math.pi * i / points for i in range(points)]
    return [(math.cos(a), across * math.sin(a)) for a in angles]


OUTLINES = (circle(4, first=math.pi / 4), circle(40, across=0.5), circle(3))  # square, ellipse, triangle
