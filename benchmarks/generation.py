"""New pictures from several models: how far those of each prior are from test pictures, and what the decoder costs.

    python benchmarks/generation.py celeba/ --runs runs/map --images 30000 \
        --models total+gan total+gan:network.latent_dim=128

Models are named as in `vaekit compare`. Each is trained by `vaekit train` with its prior, and measured by
`vaekit evaluate`; what is there already is not trained or measured again. Beside the rows of `evaluate`: the middle of
two test pictures' latents, on the straight line and through the flow.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
import tyro

from common import show
from vaekit.commands.evaluate import evaluate_run, in_precision_of
from vaekit.commands.train import train
from vaekit.config.presets import folder_name, model_config, preset
from vaekit.config.priors import PRIORS
from vaekit.data.loader import HeldOut
from vaekit.measures.distances import frechet_distance
from vaekit.measures.features import load_extractor
from vaekit.measures.quick import BATCH
from vaekit.measures.sets import collect
from vaekit.models.batches import decode_batches, encode_batches
from vaekit.models.vae import VAE
from vaekit.reports.figures import through_noise
from vaekit.runs.folder import config_of, held_out_of
from vaekit.runs.resume import finished
from vaekit.system.process import own_process

MODELS = ("total+gan", "total+gan:network.latent_dim=128")
ROWS = (*PRIORS, "posteriors", "train")
KEPT = ("fd_effnet", "sd_effnet", "precision", "recall", "copied_pixels")


@dataclasses.dataclass(frozen=True)
class Generation:
    """FD-EffNet of new pictures by model and prior."""

    pictures: tyro.conf.Positional[str]
    """Folder of pictures."""
    runs: Path
    """Folder for the runs."""
    models: tuple[str, ...] = MODELS
    """As in `vaekit compare`."""
    preset: str = "fast"
    """Settings that all have in common."""
    size: int = 64
    """Side of the pictures in pixels."""
    images: int = 30_000
    """Length of each training."""
    minutes: float | None = None
    """Its length in minutes instead."""
    midpoints: bool = True
    """Measure the middle between two test pictures too."""
    json: Path | None = None
    """Write the tables here too."""


def measure(settings: Generation, model: str) -> dict[str, Any]:
    """Train and measure one model: its reconstructions, and new pictures of each prior."""
    config = preset(settings.preset, size=settings.size, images=settings.images, minutes=settings.minutes)
    config = model_config(config, model)
    run = settings.runs / folder_name(model)
    if not finished(run, config):
        train(config, settings.pictures, run, resume=True)
    result = evaluate_run(run, reuse=True, say=print)
    reconstruction = result.reconstruction["sampled"]
    measured = {
        "psnr": reconstruction["psnr"],
        "rate": result.latents["rate"],
        "reconstructions": reconstruction["fd_effnet"],
        "rows": {name: {key: result.generation[name].get(key, math.nan) for key in KEPT} for name in result.generation},
    }
    return measured | (midpoints(run) if settings.midpoints else {})


@torch.no_grad()
def midpoints(run: Path) -> dict[str, float]:
    """FD-EffNet of the middle between each test picture and the next, on the straight line and through the flow."""
    vae = VAE.from_pretrained(run)
    config = config_of(run, vae)
    prepared, test = held_out_of(run, config)
    extractor = load_extractor("efficientnet-lite0")
    real = collect(HeldOut(prepared.images, test).batches(BATCH), len(test), extractor).features
    with in_precision_of(config):
        z = encode_batches(vae, HeldOut(prepared.images, test).batches(BATCH)).sample(
            generator=torch.Generator().manual_seed(config.seed)
        )
        other = z.roll(1, 0)
        ways = {"midpoints": (z + other) / 2}
        if hasattr(vae.prior, "noise_of"):
            ways["midpoints through the flow"] = through_noise(vae.prior, z, other, torch.tensor([0.5]))[:, 0]
        drawn = {way: collect(decode_batches(vae, middle, BATCH), len(z), extractor) for way, middle in ways.items()}
    return {way: frechet_distance(real, pictures.features) for way, pictures in drawn.items()}


def main(settings: Generation) -> None:
    own_process("auto")
    measured = {model: measure(settings, model) for model in settings.models}
    title = f"FD-EffNet after {settings.minutes or settings.images:,} {'minutes' if settings.minutes else 'images'}"
    rows = []
    for model, found in measured.items():
        row = {"model": model} | {name: found[name] for name in ("psnr", "rate", "reconstructions")}
        row |= {name: found["rows"].get(name, {}).get("fd_effnet", math.nan) for name in ROWS}
        row |= {name: value for name, value in found.items() if name.startswith("midpoints")}
        rows.append(row)
    show(title, rows, dict.fromkeys(rows[0].keys() - {"model"}, ".1f"), settings.json)
    for model, found in measured.items():
        rows = [{"z": name, **values} for name, values in found["rows"].items()]
        digits = {"fd_effnet": ".1f", "sd_effnet": ".1f", "precision": ".3f", "recall": ".3f", "copied_pixels": ".1%"}
        show(f"{model}: new pictures", rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(Generation))
