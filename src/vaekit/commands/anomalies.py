"""Which pictures are unlike those that a model knows, and where."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from torch import Tensor

from vaekit.commands.encode import OwnNames
from vaekit.commands.sample import check_empty
from vaekit.commands.using import batches_of, load, passed
from vaekit.measures.anomalies import Known, anomaly_scores, error_map, joined, known_of
from vaekit.reports.mosaic import Pixels, grid, labelled, save_png, to_rgb
from vaekit.reports.tables import ANOMALIES
from vaekit.runs.folder import mark_as_output
from vaekit.runs.prior import Say
from vaekit.system.devices import float32_products
from vaekit.system.files import write_text
from vaekit.system.ranks import check_one_process

SCORES_FILE, SHEET_FILE, MAPS_FOLDER = "scores.csv", "highest.png", "maps"
ROWS = ("picture", "reconstruction", "error")
SHOWN = 12  # pictures of the sheet
BRIGHTEST = 0.5  # the error that is drawn white: a quarter of what there is between black and white


def anomalies_run(
    run: str | Path, pictures: Sequence[str | Path], out: str | Path, by: str = "error", say: Say = lambda line: None
) -> Path:
    """Score pictures by how unlike they are to what a model knows, and draw where they differ from what it makes.

    Writes into the empty folder `out`: scores.csv, a row a picture, highest scores of `by` first; maps/, for each
    picture it, its reconstruction and its error side by side, drawn white from 0.5 on, of the 2 between black and
    white; highest.png, the first twelve. See `measures.anomalies.anomaly_scores` for the scores; `evaluate_run` says
    of labelled pictures which of them tells anomalies. Returns `out`. Raises `ValueError` for a folder without a model,
    no pictures, an `out` that holds files and a score that the model does not give.
    """
    check_one_process("anomalies")
    folder = Path(out)
    check_empty(folder)
    vae = load(run)
    if by not in ANOMALIES:
        raise ValueError(f"no score is called {by!r}; choose one of {', '.join(ANOMALIES)}")
    names: list[str] = []
    parts: list[dict[str, Tensor]] = []
    highest: list[tuple[float, Pixels]] = []
    files = OwnNames(".png")
    with float32_products(), batches_of(vae, pictures, say, "scoring") as batches:
        for batch in batches:
            posterior, x_hat = passed(vae, batch.x)
            known = known_of(vae, batch.x, x_hat, posterior)
            scores = anomaly_scores(known)
            if by not in scores:
                raise ValueError(f"this model gives no {by}; choose one of {', '.join(scores)}")
            if not names:
                mark_as_output(folder)  # before the first map: what it holds are no pictures to train on
            tiles = drawn(known)
            for name, three in zip(batch.names, tiles, strict=True):
                save_png(grid(three, len(ROWS)), folder / MAPS_FOLDER / files.of(name))
            highest += zip(scores[by].tolist(), tiles, strict=True)
            highest = sorted(highest, key=lambda found: -found[0])[:SHOWN]
            names += batch.names
            parts.append(scores)
    write_text(table_of(names, joined(parts), by), folder / SCORES_FILE)
    columns = np.stack([tiles for _, tiles in highest], 1).reshape(-1, *highest[0][1].shape[1:])
    headings = [f"{score:.3g}" for score, _ in highest]
    save_png(labelled(columns, ROWS, headings, top=ANOMALIES[by], target=96), folder / SHEET_FILE)
    return folder


def drawn(known: Known) -> Pixels:
    """Of each picture it, its reconstruction and its error, uint8 (B, 3, H, W, 3)."""
    errors = (error_map(known.x, known.x_hat) / BRIGHTEST).clamp(max=1)
    heat = (255 * colormaps["inferno"](errors.numpy())[..., :3]).round().astype(np.uint8)  # black, red, yellow, white
    return np.stack([to_rgb(known.x), to_rgb(known.x_hat), heat], 1)


def table_of(names: Sequence[str], scores: Mapping[str, Tensor], by: str) -> str:
    """The scores as CSV, a row a picture, the highest of `by` first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", *scores])
    columns = [score.tolist() for score in scores.values()]
    for i in scores[by].argsort(descending=True, stable=True).tolist():
        table.writerow([names[i], *(f"{column[i]:.6g}" for column in columns)])
    return text.getvalue()
