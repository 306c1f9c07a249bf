"""A finished model for other programs, and for other people."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from vaekit.commands.towards import directions_of
from vaekit.data.loader import HeldOut
from vaekit.export.archive import export_archives
from vaekit.export.card import model_card
from vaekit.export.explorer import check_page, export_page
from vaekit.export.onnx import export_onnx
from vaekit.models.vae import VAE
from vaekit.runs.folder import FIGURES_FOLDER, config_of, held_out_of, is_run
from vaekit.runs.prior import prior_of
from vaekit.system.files import write_text
from vaekit.system.hub import check_name, uploaded
from vaekit.system.ranks import check_one_process

JUDGED_BY = 200  # pictures
CARD_FILE = "README.md"
NEW = {"samples.png": "New pictures, drawn from the prior of the model"}
OWN = {"reconstructions.png": "Test pictures, what the model makes of them from a sampled latent, and from the mean"}


def export_run(
    run: str | Path,
    onnx: str | Path | None = None,
    say: Callable[[str], object] = lambda line: None,
    *,
    precision: str = "fp32",
    web: str | Path | None = None,
    pt2: str | Path | None = None,
    hub: str | None = None,
    public: bool = False,
    licence: str | None = None,
    show_pictures: bool = False,
) -> Path | str:
    """Write the model of a run as ONNX, as a page or for torch alone into a folder, or upload it to the Hub as `hub`.

    `precision` is that of the ONNX files: fp32, fp16 or int8. Returns the folder, or the address; see
    `export.onnx.export_onnx`, `export.explorer.export_page`, `export.archive.export_archives` and `write_for_sharing`.
    Raises `ValueError` for a folder without a model, missing packages, results that are not those of torch, and a Hub
    that cannot be reached.
    """
    check_one_process("export")
    if [onnx, web, pt2, hub].count(None) != 3:
        raise ValueError("export to what? give --onnx FOLDER, --web FOLDER, --pt2 FOLDER or --hub user/name")
    if precision != "fp32" and onnx is None:
        raise ValueError(f"--precision {precision} is of --onnx FOLDER")
    if web is not None:
        folder = page_of(run, Path(web), show_pictures, say)
        say(f"to look at it: python3 -m http.server --bind 127.0.0.1 --directory {folder}")
        return folder
    if hub is not None:
        check_name(hub)
    vae = VAE.from_pretrained(run)
    if onnx is not None:
        export_onnx(vae, Path(onnx), say, precision, lambda: judged_by(Path(run), vae))
        return Path(onnx)
    if pt2 is not None:
        return export_archives(vae, Path(pt2), say)
    assert hub is not None
    with tempfile.TemporaryDirectory() as place:
        written = write_for_sharing(Path(run), vae, Path(place), hub, licence, show_pictures)
        say(f"uploading {', '.join(sorted(path.name for path in written))}")
        return uploaded(Path(place), hub, private=not public, replaced=[*NEW, *OWN])


def judged_by(run: Path, vae: VAE) -> tuple[Tensor, str]:
    """Pictures that a loss of precision is judged by, and what they are: test pictures, else draws of the prior."""
    if is_run(run):
        with suppress(ValueError):
            prepared, test = held_out_of(run, config_of(run, vae))
            x = HeldOut(prepared.images, test).some(JUDGED_BY)
            return x, f"{len(x)} test pictures"
    x = vae.sample(JUDGED_BY, torch.Generator().manual_seed(1)).clamp(-1, 1)
    return x, f"{len(x)} pictures drawn from the prior"


def page_of(run: str | Path, folder: Path, show_pictures: bool, say: Callable[[str], object]) -> Path:
    """Write the page of a run into a folder; the Gaussian of its latents is fitted first, if it has none yet."""
    vae = VAE.from_pretrained(run)
    check_page(vae, folder)
    say("writing the page, half a minute")
    labels: dict[str, Tensor] = {}
    if is_run(run):
        try:
            prior_of(Path(run), vae, "gaussian", say=say)
            labels = directions_of(Path(run), vae, say)
        except ValueError as error:
            say(f"the page has no sliders of labels, and may have none of directions: {error}")
    return export_page(run, vae, folder, show_pictures, labels, say)


def write_for_sharing(
    run: Path, vae: VAE, folder: Path, name: str, licence: str | None, show_pictures: bool
) -> list[Path]:
    """Write what is shared of a run: weights, settings, a model card, new pictures, and priors but those that copy.

    With `show_pictures` also reconstructions, which show test pictures beside them. Returns the files.
    """
    vae = vae.to_share()
    vae.save_pretrained(folder)
    figures = {}
    for file, shows in (NEW | (OWN if show_pictures else {})).items():
        if (run / FIGURES_FOLDER / file).is_file():
            shutil.copyfile(run / FIGURES_FOLDER / file, folder / file)
            figures[file] = shows
    write_text(model_card(run, vae, name, licence, figures), folder / CARD_FILE)
    return [path for path in folder.iterdir() if path.is_file()]
