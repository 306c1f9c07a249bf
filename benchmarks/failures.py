"""What the failures of a VAE look like: one training each, the same pictures of all, side by side with numbers.

    python benchmarks/failures.py celeba/ --runs runs/failures [--images 16000] [--figure failures.png] [--json ...]

Each model is trained by `vaekit train` with settings that make one thing go wrong; what is there already is not trained
again. All are measured on the test pictures of the first. "too few pictures" trains on the first of the folder alone.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from common import show
from vaekit.commands.evaluate import in_precision_of
from vaekit.data.loader import HeldOut
from vaekit.measures.quick import BATCH, measure, reconstruct
from vaekit.models.kept import WEIGHTS_FILE
from vaekit.models.vae import VAE
from vaekit.reports.mosaic import Pixels, labelled, save_png, to_rgb
from vaekit.runs.folder import Prepared, held_out_of, read_run_config

FEW, FEW_PICTURES = 125, "too few pictures"  # of which four fifths train
FAILURES = {
    "healthy": "",
    "collapsed to the prior": "--objective beta --weights.beta 60",
    "collapsed to points": "--weights.kl-individual 0.002",
    "no discriminator": "--no-gan",
    "discriminator too strong": "--weights.realism 30000 --weights.features 0",
    "too few entries": "--network.latent-dim 16",
    FEW_PICTURES: "",
    "learning rate too high": "--lr 0.05",
}
SHOWN = 5
DIGITS = {"psnr": ".2f", "psnr of train pictures": ".2f", "laplacian ratio": ".2f", "std < 0.05": ".1%"}


def few_of(prepared: Prepared, path: Path) -> Path:
    """A list of the first pictures of a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{Path(prepared.place, name).resolve()}\n" for name in prepared.names[:FEW]))
    return path


def train(pictures: Path, run: Path, images: int, size: int, settings: str) -> None:
    """One run of `vaekit train`, unless it is there."""
    if (run / WEIGHTS_FILE).exists():
        return
    command = [sys.executable, "-m", "vaekit", "train", pictures, "--size", size, "--images", images, "--out", run]
    options = ["--prior", "gaussian", "--draws", 1, *settings.split()]
    done = subprocess.run([str(part) for part in (*command, *options)], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{run.name}: status {done.returncode}: {done.stderr.strip()[-400:]}")


def judged(name: str, run: Path, prepared: Prepared, held_out: HeldOut, trained: HeldOut) -> dict[str, Any]:
    """The numbers of one model: on the test pictures of all, and on pictures that it trained on."""
    vae = VAE.from_pretrained(run)
    config = read_run_config(run)
    with in_precision_of(config):
        test, verdict = measure(vae, held_out.batches(BATCH), objective=config.objective)
        train = measure(vae, trained.batches(BATCH, 1000))[0]
    return {
        "": name,
        "settings": f"`{FAILURES[name]}`" if FAILURES[name] else "",
        "psnr": test["psnr"],
        "psnr of train pictures": train["psnr"],
        "laplacian ratio": test["laplacian_ratio"],
        "active entries": f"{test['active_units']:.0f} of {vae.latent_dim}",
        "std < 0.05": test["near_dirac"],
        "verdict": verdict.state,
    }


@torch.no_grad()
def drawn(run: Path, held_out: HeldOut) -> Pixels:
    """A row: reconstructions of test pictures from sampled z, and new pictures from the fitted Gaussian, if any is."""
    vae = VAE.from_pretrained(run)
    with in_precision_of(read_run_config(run)):
        x_hat = next(iter(reconstruct(vae, [held_out.some(SHOWN)], seed=0)))[2]
        new = vae.sample(SHOWN, generator=torch.Generator().manual_seed(0))
    return np.concatenate([to_rgb(x_hat), to_rgb(new)])


def main(
    pictures: tyro.conf.Positional[Path],
    runs: Path,
    images: int = 16_000,
    size: int = 64,
    models: tuple[str, ...] = tuple(FAILURES),
    figure: Path | None = None,
    json: Path | None = None,
) -> None:
    folders = {name: runs / name.replace(" ", "-") for name in models}
    first = folders[models[0]]
    train(pictures, first, images, size, FAILURES[models[0]])
    prepared, indices = held_out_of(first, read_run_config(first))
    held_out = HeldOut(prepared.images, indices)
    trained = np.setdiff1d(np.arange(len(prepared)), indices)
    for name, run in folders.items():
        of = few_of(prepared, runs / "few.txt") if name == FEW_PICTURES else pictures
        train(of, run, images, size, FAILURES[name])
    done = {name: run for name, run in folders.items() if (run / WEIGHTS_FILE).exists()}
    rows = [
        judged(
            name,
            run,
            prepared,
            held_out,
            HeldOut(prepared.images, trained[: FEW * 4 // 5] if name == FEW_PICTURES else trained),
        )
        for name, run in done.items()
    ]
    show("Failures", rows, DIGITS, json)
    if figure is not None:
        tiles = np.concatenate([drawn(run, held_out) for run in done.values()])
        save_png(labelled(tiles, list(done), top="reconstructions | new pictures", target=64), figure)


if __name__ == "__main__":
    tyro.cli(main)
