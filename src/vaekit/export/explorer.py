"""A model as a page: a folder that any web server can show, and that computes in the browser alone."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.data.loader import HeldOut
from vaekit.data.sources.folder import OUTPUT_MARK
from vaekit.data.view import USUAL_CHANNELS
from vaekit.export.card import EVALUATION_FILE, evaluation_of
from vaekit.export.onnx import GAUSSIAN, MANIFEST, STEP, check_packages, export_onnx
from vaekit.models.batches import encode_batches
from vaekit.models.kept import WEIGHTS_FILE, Kept, best_of, weights_sha256
from vaekit.models.vae import VAE
from vaekit.priors.base import StandardNormal
from vaekit.priors.conditions import Classes
from vaekit.priors.flow import NAME as FLOW
from vaekit.priors.flow import STEPS, FlowPrior
from vaekit.priors.gaussian import GaussianPrior
from vaekit.priors.mixture import GaussianMixturePrior
from vaekit.reports.evaluation import evaluation_tables, latent_lines
from vaekit.runs.folder import FIGURE_IMAGES, config_of, held_out_of, is_run, mark_as_output
from vaekit.system.files import replacing, write_json

PAGE = Path(__file__).parent / "page"  # what is the same for every model
RUNTIME = "ort"  # of it, what `make web` brings
MODEL = "model"  # what is of this model
UNFINISHED = "model.unfinished"  # while it is written
LAST_OF_RUNTIME = "VERSION"  # the file that is written last
ABOUT = "page.json"  # there; written last, so that a page that has it is whole
LATENTS, DIRECTIONS = "latents.npy", "directions.npy"
MOST_DIRECTIONS = 36
# The priors that the page can draw from, and how it does.
KINDS = {"normal": "normal", "gaussian": "gaussian", "gaussian-mixture": "mixture", "flow": "flow"}
ABOUT_KIND = {
    "directions": "one of the directions that latents vary most in, in standard deviations",
    "labels": "from the mean of pictures without this label to that of those with it",
}
NO_LABELS: Mapping[str, Tensor] = MappingProxyType({})

Say = Callable[[str], object]


def export_page(
    run: str | Path,
    vae: VAE,
    folder: Path,
    show_pictures: bool = False,
    labels: Mapping[str, Tensor] = NO_LABELS,
    say: Say = lambda line: None,
) -> Path:
    """Write the page of a run into a folder: index.html, what it computes with, and the model as ONNX.

    With `show_pictures` the latents of test pictures are in it, from which those can be drawn again; without, as many
    draws of the prior. `labels` are directions (d,) by name, a slider each. Returns the folder. Raises `ValueError` for
    pictures that are neither grey nor RGB, a folder that holds something else, and a vaekit that was built without what
    the page computes with.
    """
    check_page(vae, folder)
    mark_as_output(folder)
    write_what_is_always_there(folder)
    model = folder / UNFINISHED
    shutil.rmtree(model, ignore_errors=True)  # of an export that was interrupted
    export_onnx(vae, model, say)
    offered = {name: kept for name, kept in of_page(vae).items() if show_pictures or not kept.copies}
    for name in (GAUSSIAN, MANIFEST, *(() if FLOW in offered else (STEP,))):  # which the page does not read
        (model / name).unlink(missing_ok=True)
    for name, kept in offered.items():
        for tensor, values in tensors_of(kept.prior).items():
            write_array(values, model / f"{name}-{tensor}.npy")
    directions = {("directions", f"direction {i + 1}"): v for i, v in enumerate(principal(vae.priors.get("gaussian")))}
    directions |= {("labels", name): vector for name, vector in labels.items()}
    if directions:
        write_array(torch.stack([*directions.values()]), model / DIRECTIONS)
    z, latents_of = latents_shown(run, vae, show_pictures, say)
    write_array(z, model / LATENTS)
    about = about_model(run, vae, [*directions]) | {"latents_of": latents_of}
    write_json(about | {"priors": [about_prior(name, kept) for name, kept in offered.items()]}, model / ABOUT)
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    model.rename(folder / MODEL)
    return folder


def write_what_is_always_there(folder: Path) -> None:
    """Write what is the same for every model."""
    check_built()
    try:
        shutil.copytree(PAGE, folder, dirs_exist_ok=True, copy_function=copy_if_other)
    except shutil.Error as error:  # which lists every file
        _, target, reason = error.args[0][0]
        raise OSError(f"cannot write {target}: {reason}") from error


def copy_if_other(source: str, target: str) -> None:
    """Copy a file, unless it is there."""
    if not (Path(target).is_file() and filecmp.cmp(source, target)):
        shutil.copy2(source, target)


def check_built() -> None:
    """Raise `ValueError` for a vaekit that was built without what the page computes with."""
    if not (PAGE / RUNTIME / LAST_OF_RUNTIME).is_file():
        raise ValueError(
            "this vaekit was built without what the page computes with; in a clone, make web brings it (with npm)"
        )


def check_page(vae: VAE, folder: Path) -> None:
    """Raise `ValueError` where a page of this model cannot be written, or not there."""
    check_built()
    check_packages()
    if vae.image_shape[0] not in USUAL_CHANNELS:
        raise ValueError(f"browsers show grey and colour pictures, and those of this model have {vae.image_shape[0]}")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder for the page")
    if is_run(folder) or (folder.is_dir() and any(folder.iterdir()) and not (folder / OUTPUT_MARK).is_file()):
        raise ValueError(f"{folder} holds other files than a page; give an empty folder, or one that is not there")


def write_array(values: Tensor, path: Path) -> None:
    """Write a tensor as 32-bit floats."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, np.ascontiguousarray(values.float().numpy()))


def tensors_of(prior: Any) -> dict[str, Tensor]:
    """What a prior draws with beside networks, by name."""
    if isinstance(prior, FlowPrior):
        return prior.gaussian.tensors()
    if isinstance(prior, GaussianPrior):
        return {"mean": prior.mean, "root": prior.root}
    if isinstance(prior, GaussianMixturePrior):
        return {"weights": prior.weights, "mean": prior.mean, "scale": prior.scale}
    assert isinstance(prior, StandardNormal), f"the page cannot draw from {prior}"
    return {}


def of_page(vae: VAE) -> dict[str, Kept]:
    """The priors of a model that the page can draw from; not those that only its weights are, nor codes."""
    return {name: kept for name, kept in vae.kept.items() if name in KINDS}


def about_prior(name: str, kept: Kept) -> dict[str, Any]:
    """What the page is told of a prior."""
    short = PRIORS[name].short + (" (repeats train pictures)" if kept.copies else "")
    about: dict[str, Any] = {"name": name, "kind": KINDS[name], "short": short}
    prior = kept.prior
    if isinstance(prior, FlowPrior):
        known = prior.conditions
        shares = known.shares.tolist() if isinstance(known, Classes) else None
        told = {"names": known.names, "unknown": known.unknown(1)[0].tolist(), "shares": shares}
        about |= {"steps": STEPS, "conditions": told if known.num_rows else None}
    return about


def latents_shown(run: str | Path, vae: VAE, show_pictures: bool, say: Say) -> tuple[Tensor, str]:
    """The latents (N, d) of the page's joint histogram, and what they are."""
    if show_pictures and is_run(run):
        try:
            config = config_of(Path(run), vae)
            prepared, test = held_out_of(Path(run), config, say=say)
            x = HeldOut(prepared.images, test).some(FIGURE_IMAGES)
            z = encode_batches(vae, x.split(50)).sample(generator=torch.Generator().manual_seed(config.seed))
            return z, f"{len(z)} test pictures, a draw of the posterior of each"
        except ValueError as error:
            say(f"the page has no latents of pictures: {error}")
    z = vae.draw(FIGURE_IMAGES, torch.Generator().manual_seed(0))
    return z, f"{len(z)} draws from the prior ({PRIORS[vae.prior_name].short})"


def principal(gaussian: Any) -> Tensor:
    """The directions that latents vary most in, a standard deviation long, (up to 36, d); none without the Gaussian."""
    if not isinstance(gaussian, GaussianPrior):
        return torch.zeros(0, 0)
    std, vectors = torch.linalg.eigh(gaussian.root.double())  # of which the square is the covariance
    longest = (vectors * std).T.flip(0)[:MOST_DIRECTIONS]
    return longest.float()


def about_model(run: str | Path, vae: VAE, directions: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What page.json says of the model, the entries of its latents, what was measured."""
    config = Config.from_json(vae.config_json) if vae.config_json is not None else None
    measured = evaluation_of(Path(run))
    tables = evaluation_tables(measured) if measured else []
    words: dict[str, Any] = {"verdict": None, "weak": False, "lines": [], "numbers": []}
    if measured:
        verdict, *lines = latent_lines(measured.latents)
        words = {
            "verdict": verdict,
            "weak": not measured.verdict["ok"],
            "lines": [*lines, *measured.verdict["warnings"]],
        }
        words["numbers"] = [{"title": t.title, "headings": t.columns, "rows": t.rows} for t in tables]
    return {
        "title": Path(run).resolve().name,
        "summary": summary_of(vae, config),
        "version": version("vaekit"),
        "made_of": made_of(Path(run)),
        "weights_sha256": weights_sha256(vae.state_dict()),
        "image_shape": vae.image_shape,
        "latent_dim": vae.latent_dim,
        "fit": config.fit if config else "crop",
        "colour_profiles": config.colour_profiles if config else True,
        "why_no_files": why_no_files(config),
        "entries": about_entries(vae, measured.latents["entries"]["kl"] if measured else None),
        "directions": [{"kind": kind, "title": title, "about": ABOUT_KIND[kind]} for kind, title in directions],
        "prior": best_of(of_page(vae)),
        "words": words,
    }


def summary_of(vae: VAE, config: Config | None) -> str:
    """The model in one line."""
    channels, height, width = vae.image_shape
    millions = sum(p.numel() for p in vae.parameters()) / 1e6
    parts = [
        f"{height}x{width}, {'grey' if channels == 1 else 'colour'}",
        f"{vae.latent_dim} entries",
        f"{millions:.1f} M parameters",
    ]
    if config:
        parts.append(f"objective {config.objective}{' with PatchGAN' if config.gan else ''}")
    return " · ".join(parts)


def why_no_files(config: Config | None) -> str:
    """Why files cannot be given to the page; empty where they can."""
    if config and (config.depth != 8 or config.levels is not None):
        return (
            "this model takes numbers as the files have them (depth or levels), and a browser gives colours of 8 bits"
        )
    return ""


def about_entries(vae: VAE, kl: list[float] | None) -> dict[str, Any]:
    """The entries in the order of what they matter, with their spread: by KL where it was measured, else by spread."""
    gaussian = vae.priors.get("gaussian")
    spread = gaussian.std if isinstance(gaussian, GaussianPrior) else torch.ones(vae.latent_dim)
    kl = kl if kl and None not in kl else None  # infinite ones, of points, are null in JSON
    weight = torch.tensor(kl) if kl else spread
    order = weight.argsort(descending=True, stable=True).tolist()
    return {"order": order, "kl": kl, "spread": spread.tolist()}


def made_of(run: Path) -> dict[str, Any]:
    """The files of a run that a page shows, with their sizes and times."""
    names = [WEIGHTS_FILE, EVALUATION_FILE, *(row.fitted.file for row in PRIORS.values() if row.fitted is not None)]
    found = {name: (run / name).stat() for name in names if (run / name).is_file()}
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found.items()}


def is_of(folder: Path, run: Path) -> bool:
    """Whether a folder holds the page of a run as it is now, written by this version."""
    try:
        about = json.loads((folder / MODEL / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(about.get("made_of") == made_of(run) and about.get("version") == version("vaekit"))
