"""New pictures from a finished run: from N(0, I), or from a density fitted to the latents of its train pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vaekit.config.variants import PRIORS
from vaekit.models.vae import VAE
from vaekit.reports.figures import decoded, square
from vaekit.reports.mosaic import save_png
from vaekit.runs.folder import FIGURES_FOLDER, mark_as_output
from vaekit.runs.prior import prior_of
from vaekit.system.devices import available, float32_products
from vaekit.system.ranks import check_one_process


def sample_run(
    run: str | Path,
    prior: str = "normal",
    num_images: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Draw `num_images` new pictures from a finished run and return where they are.

    `prior` is "normal", N(0, I), or "gaussian-mixture", fitted to the latents of the train pictures when it is first
    asked for, and kept in the run. Without `out` they go into one PNG in the run's figures; with it, one by one into
    that folder, which must be empty or not there. Raises `ValueError` for an unknown prior, a folder without a model,
    train pictures that are gone, and an `out` that holds files.
    """
    check_one_process("sample")
    if prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; choose one of {', '.join(PRIORS)}")
    if num_images < 1:
        raise ValueError(f"{num_images} samples; ask for one or more")
    run = Path(run)
    if out is not None:
        check_empty(Path(out))
    vae = VAE.from_pretrained(run, available("auto"))
    with float32_products():
        z = prior_of(run, vae, prior, say=say).sample(num_images, torch.Generator().manual_seed(seed))
        if out is None:
            try:
                return save_png(square(vae, z), run / FIGURES_FOLDER / f"samples-{prior}.png")
            except OSError as error:
                raise OSError(f"{error}; give a folder for single pictures with --out") from error
        mark_as_output(Path(out))
        for i, picture in enumerate(decoded(vae, z)):
            save_png(picture, Path(out) / f"{i:06d}.png")
    return Path(out)


def check_empty(out: Path) -> None:
    """Raise `ValueError` if a folder for new pictures holds files: nobody could tell the new from the old."""
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} already holds files; give an empty folder, or one that is not there")
