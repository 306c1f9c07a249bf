"""Draw the figures of a run from its model and test pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vaekit.data.loader import HeldOut
from vaekit.models.vae import VAE
from vaekit.reports.figures import draw_all
from vaekit.runs.folder import (
    FIGURE_IMAGES,
    FIGURES_FOLDER,
    config_of,
    held_out_of,
    mark_as_output,
    place_of_other,
    title_of,
)
from vaekit.runs.log import read_records
from vaekit.system.devices import float32_products
from vaekit.system.ranks import check_one_process


def draw_run(
    run: str | Path,
    images: str | Path | None = None,
    out: str | Path | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> list[Path]:
    """Draw the figures of a finished run again, from its own test pictures or from those of another folder.

    Returns the paths of the PNGs in the folder `out`, by default `run`/figures, for other pictures
    `run/figures-<folder>`; of those, the ones it trained on are left out, which `say` hears. Raises `ValueError` if
    the folder holds no finished run, or the pictures are gone.
    """
    check_one_process("figures")
    run = Path(run)
    vae = VAE.from_pretrained(run)
    config = config_of(run, vae)
    prepared, test = held_out_of(run, config, images, say)
    folder = run / FIGURES_FOLDER if out is None else Path(out)
    if out is not None:
        mark_as_output(folder)
    elif images is not None:
        folder = place_of_other(run / f"{FIGURES_FOLDER}-{title_of(prepared)}", prepared.place)
    x = HeldOut(prepared.images, test).some(FIGURE_IMAGES)
    with float32_products():
        return draw_all(vae, x, read_records(run), folder, seed=config.seed)


def draw_figures(vae: VAE, run: Path, x: Tensor, seed: int) -> list[Path]:
    """Draw every figure of a run from its VAE, test pictures x (N, C, H, W) in [-1, 1] and its log."""
    return draw_all(vae, x, read_records(run), run / FIGURES_FOLDER, seed=seed)
