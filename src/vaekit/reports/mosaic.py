"""Pictures side by side with labels: pixels are tiled and pasted whole, matplotlib only draws the text.

Shapes: N pictures (N, H, W, 3), uint8; canvases are drawn without any global state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vaekit.data.pixels import to_uint8
from vaekit.system.files import replacing

Pixels = np.ndarray  # uint8: one picture (H, W, 3), or several (N, H, W, 3)

INK = "#222222"
DPI = 128  # a power of two: n / DPI inches are exactly n pixels


def to_rgb(x: torch.Tensor) -> Pixels:
    """Images (N, C, H, W) in [-1, 1] as uint8 (N, H, W, 3): the first three channels, or one as grey."""
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    x = x.detach().float().cpu().nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
    return to_uint8(x).permute(0, 2, 3, 1).numpy()


def grid(images: Pixels, columns: int | None = None, pad: int = 2) -> Pixels:
    """Tile uint8 (N, H, W, 3) in reading order, white between; about square unless `columns` is given."""
    n, h, w, _ = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    out = np.full((rows * (h + pad) - pad, columns * (w + pad) - pad, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (h + pad), i % columns * (w + pad)
        out[top : top + h, left : left + w] = image
    return out


def enlarge(images: Pixels, target: int) -> Pixels:
    """Repeat pixels a whole number of times, while a side is at most `target` (never less than once)."""
    factor = max(1, target // max(images.shape[1:3]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def save_png(pixels: Pixels, path: str | Path) -> Path:
    """Write uint8 (H, W, 3) as PNG, creating the folder; a reader sees the old file or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG")
    return path


def new_figure(width: float, height: float, layout: Any = None) -> Figure:
    return Figure((width, height), dpi=DPI, facecolor="white", layout=layout)  # n / DPI is exact: n pixels are n


def render(figure: Figure) -> Pixels:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def text_width(text: str, size: float) -> int:
    figure = new_figure(1, 1)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return math.ceil(figure.text(0, 0, text, fontsize=size).get_window_extent(renderer).width)


def labelled(
    tiles: Pixels,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    top: str = "",
    side: str = "",
    target: int = 160,
) -> Pixels:
    """Tile (rows * columns, H, W, 3), with a label at each row and column and a title along each axis."""
    tiles = enlarge(tiles, target)
    n, h, w, _ = tiles.shape
    pad = 3
    body = grid(tiles, n // len(rows), pad)
    line = int(np.clip(0.19 * w, 18, 30))  # height of a line of text in pixels
    size = 0.6 * line * 72 / DPI  # in points
    names = max(text_width(name, size) for name in rows)
    over_x = max(0, text_width(top, size) - body.shape[1]) // 2  # a title may be longer than its axis
    over_y = max(0, text_width(side, size) - body.shape[0]) // 2
    left = max(over_x, line // 2 + line * bool(side) + (names + line // 2) * bool(names))
    above = max(over_y, line // 4 + line * (bool(top) + bool(columns)))
    width = left + body.shape[1] + max(over_x, line // 2)
    height = above + body.shape[0] + max(over_y, line // 2)
    labels = [
        (left + body.shape[1] / 2, above - line * (bool(columns) + 0.5), top, "center", 0),
        (line * 0.9, above + body.shape[0] / 2, side, "center", 90),
        *((left + i * (w + pad) + w / 2, above - line / 2, name, "center", 0) for i, name in enumerate(columns)),
        *((left - line / 2, above + i * (h + pad) + h / 2, name, "right", 0) for i, name in enumerate(rows)),
    ]
    figure = new_figure(width / DPI, height / DPI)
    for x, y, text, ha, angle in labels:
        at = x / width, 1 - y / height
        figure.text(*at, text, fontsize=size, color=INK, va="center", ha=ha, rotation=angle)
    out = render(figure)
    out[above : above + body.shape[0], left : left + body.shape[1]] = body
    return out
