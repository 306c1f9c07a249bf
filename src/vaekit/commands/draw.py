"""Draw the figures of a run from its model and test pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vaekit.data.loader import HeldOut
from vaekit.models.vae import VAE
from vaekit.reports.figures import draw_all
from vaekit.runs.folder import FIGURE_IMAGES, FIGURES_FOLDER, config_of, held_out_of
from vaekit.runs.log import read_records
from vaekit.system.devices import float32_products
from vaekit.system.ranks import check_one_process


def draw_run(
    run: str | Path, images: str | Path | None = None, say: Callable[[str], object] = lambda line: None
) -> list[Path]:
    """Draw the figures of a finished run again, from its own test pictures or from those of another folder.

    Returns the paths of the PNGs in `run`/figures, of other pictures in `run`/figures-<folder>; of those, the ones that
    it trained on are left out, which `say` hears. Raises `ValueError` if the folder holds no finished run, or the
    pictures are gone.
    """
    check_one_process("figures")
    run = Path(run)
    vae = VAE.from_pretrained(run)
    config = config_of(run, vae)
    prepared, test = held_out_of(run, config, images, say)
    folder = FIGURES_FOLDER if images is None else f"{FIGURES_FOLDER}-{prepared.folder.name}"
    with float32_products():
        return draw_figures(vae, run, HeldOut(prepared.images, test).some(FIGURE_IMAGES), config.seed, folder)


def draw_figures(vae: VAE, run: Path, x: Tensor, seed: int, folder: str = FIGURES_FOLDER) -> list[Path]:
    """Draw every figure of a run from its VAE, test pictures x (N, C, H, W) in [-1, 1] and its log."""
    return draw_all(vae, x, read_records(run), run / folder, seed=seed)
