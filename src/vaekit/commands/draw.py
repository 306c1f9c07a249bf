"""Draw the figures of a run from its model and test pictures."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vaekit.data.loader import HeldOut
from vaekit.models.vae import VAE
from vaekit.reports.figures import draw_all
from vaekit.runs.folder import FIGURE_IMAGES, FIGURES_FOLDER, config_of, held_out_of
from vaekit.runs.log import read_records


def draw_run(run: str | Path, images: str | Path | None = None) -> list[Path]:
    """Draw the figures of a finished run again, from its own test pictures or from those of another folder.

    Of another folder all pictures are test pictures. Returns the paths of the PNGs in `run`/figures. Raises
    `ValueError` if the folder holds no finished run, or the pictures are gone.
    """
    run = Path(run)
    vae = VAE.from_pretrained(run)
    config = config_of(run, vae)
    prepared, test = held_out_of(run, config, images)
    return draw_figures(vae, run, HeldOut(prepared.images, test).some(FIGURE_IMAGES), config.seed)


def draw_figures(vae: VAE, run: Path, x: Tensor, seed: int) -> list[Path]:
    """Draw every figure of a run from its VAE, test pictures x (N, C, H, W) in [-1, 1] and its log."""
    return draw_all(vae, x, read_records(run), run / FIGURES_FOLDER, seed=seed)
