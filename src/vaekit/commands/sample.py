"""New pictures from a finished run: from the best density of its latents, or from another one by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vaekit.config.presets import folder_name
from vaekit.config.priors import PRIORS
from vaekit.data.reading import save_picture, suffix_for
from vaekit.models.batches import decode_batches
from vaekit.models.vae import VAE
from vaekit.reports.figures import square
from vaekit.reports.mosaic import save_png
from vaekit.runs.folder import FIGURES_FOLDER, mark_as_output, short_hash
from vaekit.runs.prior import prior_of
from vaekit.system.devices import available, float32_products
from vaekit.system.hub import names_repository
from vaekit.system.ranks import check_one_process


def sample_run(
    run: str | Path,
    prior: str | None = None,
    num_images: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    temperature: float = 1.0,
    label: str | Sequence[str] = (),
    guidance: float | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Draw `num_images` new pictures from a finished run and return where they are.

    `prior` is one of the table, by default the best that the run has: "normal" is N(0, I); "gaussian" and
    "gaussian-mixture" are fitted to the latents of the train pictures when they are first asked for, and kept in the
    run; a "flow", or for codes a transformer, "codes", is fitted at the end of a training, or by `fit_prior_run`. A
    `temperature` below 1 gives safer and less varied pictures. A prior that was fitted with labels draws those of a
    `label`, a class or attributes ("smiling", "glasses=0"), and with a `guidance` above 1 more typical ones. Without
    `out` they go into one PNG in the run's figures; with it, one by one into that folder, which must be empty or not
    there. Raises `ValueError` for an
    unknown prior or label, a folder without a model, a prior that is not there and cannot be fitted, and an `out` that
    holds files.
    """
    check_one_process("sample")
    if prior is not None and prior not in PRIORS:
        raise ValueError(f"unknown prior {prior!r}; choose one of {', '.join(PRIORS)}")
    asked = (label,) if isinstance(label, str) else tuple(label)
    if out is not None:
        check_empty(Path(out))
    elif names_repository(run):
        raise ValueError(f"{run} is a name on the Hub; give a folder for the pictures with --out")
    vae = VAE.from_pretrained(run, available("auto"))
    run = Path(run)
    with float32_products():
        name = prior or vae.prior_name
        prior_of(run, vae, name, say=say)
        generator = torch.Generator().manual_seed(seed)
        z = vae.draw(num_images, generator, name, temperature, label=asked or None, guidance=guidance)
        if out is None:
            figure = "-".join(["samples", name, *map(label_name, asked)]) + ".png"
            try:
                return save_png(square(vae, z), run / FIGURES_FOLDER / figure)
            except OSError as error:
                raise OSError(f"{error}; give a folder for single pictures with --out") from error
        mark_as_output(Path(out))
        pictures = (picture for x_hat in decode_batches(vae, z) for picture in x_hat)
        for i, picture in enumerate(pictures):
            save_picture(picture, Path(out) / f"{i:06d}{suffix_for(len(picture))}")
    return Path(out)


def label_name(label: str) -> str:
    """A label as a part of a file's name, different for different labels."""
    plain = folder_name(label)
    return plain if plain == label else f"{plain}-{short_hash(label)}"


def check_empty(out: Path) -> None:
    """Raise `ValueError` if a folder for new pictures holds files: nobody could tell the new from the old."""
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} already holds files; give an empty folder, or one that is not there")
