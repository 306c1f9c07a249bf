"""How good a model is after each minute of training from nothing: vaekit, the standard VAE, and the author's set-up.

    python benchmarks/time_to_quality.py celeba/ --runs runs/time [--minutes 15] [--chart time.png] [--json time.json]

Each model is trained by `vaekit train`, alone on the machine; while it trains, the averaged model of every minute's
checkpoint is kept. All of them are measured after the training, on reconstructions of the test pictures from sampled z.
What is there already is not trained or measured again; `--every 3` measures every third minute.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import json as json_module
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import torch
import tyro
from torch import Tensor

from common import show
from vaekit.commands.evaluate import in_precision_of
from vaekit.config.settings import Config
from vaekit.data.loader import HeldOut
from vaekit.measures.distances import frechet_distance
from vaekit.measures.features import load_extractor
from vaekit.measures.quick import BATCH, evaluate, reconstruct
from vaekit.measures.sets import collect
from vaekit.models.vae import CONFIG_FILE, build_vae
from vaekit.reports.mosaic import new_figure, render, save_png
from vaekit.runs.checkpoint import FOLDER, STATE_FILE
from vaekit.runs.folder import held_out_of, read_run_config
from vaekit.runs.resume import finished
from vaekit.system.files import read_tensors

MODELS = {
    "vaekit train": [],
    "standard VAE": ["--objective", "standard", "--no-gan"],
    "the author's set-up": ["--preset", "released"],
}
MEASURES = {"psnr": "PSNR, dB", "laplacian_ratio": "Laplacian ratio", "fd": "FD-EffNet", "near_dirac": "std < 0.05"}
DRAWN = ("psnr", "laplacian_ratio", "fd")
WEIGHTS = "ema.safetensors"


def keep_every_checkpoint(run: Path, points: Path, over: threading.Event) -> None:
    """Copy the averaged weights and the counters of each checkpoint that appears, until the run is over."""
    waiting = True
    while waiting:
        waiting = not over.wait(1.0)
        for checkpoint in sorted((run / FOLDER).glob("[0-9]*")):
            point = points / checkpoint.name
            if not point.exists():
                point.mkdir(parents=True)
                for name in (WEIGHTS, STATE_FILE):
                    shutil.copy(checkpoint / name, point / name)


def train(pictures: Path, run: Path, minutes: float, size: int, settings: list[str]) -> None:
    """One run of `vaekit train`, unless it is there."""
    if (run / CONFIG_FILE).exists() and finished(run, read_run_config(run)):
        return
    points = points_of(run)
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(points, ignore_errors=True)
    command = [sys.executable, "-m", "vaekit", "train", pictures, "--size", size, "--minutes", minutes, *settings]
    over = threading.Event()
    keeper = threading.Thread(target=keep_every_checkpoint, args=(run, points, over))
    keeper.start()
    try:
        options = ["--out", run, "--draws", 1, "--save-every-minutes", 1]
        subprocess.run([str(part) for part in (*command, *options)], check=True)
    finally:
        over.set()
        keeper.join()


class Judge:
    """Measures points on the pictures that no run has trained on; their features are computed once, when needed."""

    def __init__(self, run: Path) -> None:
        prepared, indices = held_out_of(run, read_run_config(run))
        self.held_out = HeldOut(prepared.images, indices)
        self.extractor = load_extractor("efficientnet-lite0")

    @cached_property
    def real(self) -> Tensor:
        """The features of the pictures themselves, (N, F)."""
        return self.features(self.held_out.batches(BATCH))

    def features(self, batches: Iterable[Tensor]) -> Tensor:
        """The features of as many pictures as are held out."""
        features = collect(batches, len(self.held_out.indices), self.extractor).features
        assert features is not None
        return features

    @torch.no_grad()
    def measured(self, point: Path, config: Config) -> dict[str, float]:
        """The measures of a point of a run, and its time."""
        vae = build_vae(config).eval().to(memory_format=torch.channels_last)
        vae.load_state_dict(read_tensors(point / WEIGHTS)[0])
        counters = json_module.loads((point / STATE_FILE).read_text())
        with in_precision_of(config):
            numbers = evaluate(vae, self.held_out.batches(BATCH))
            x_hats = (x_hat for _, _, x_hat, _ in reconstruct(vae, self.held_out.batches(BATCH), seed=0))
            numbers["fd"] = frechet_distance(self.real, self.features(x_hats))
        time = {"minutes": counters["elapsed_sec"] / 60, "images": counters["images_seen"]}
        return time | {name: numbers[name] for name in MEASURES}


def points_of(run: Path) -> Path:
    """The folder beside a run that keeps the averaged model of every minute."""
    return run.with_name(run.name + "-points")


def measure(run: Path, every: int, judge: Judge) -> list[dict[str, float]]:
    """The last point of a run and every `every`-th one before it, in the order of time; each is measured once."""
    config = read_run_config(run)
    rows = []
    for point in sorted(points_of(run).iterdir())[::-1][::every][::-1]:
        result = point / "measured.json"
        if not result.exists():
            result.write_text(json_module.dumps(judge.measured(point, config)) + "\n")
        rows.append(json_module.loads(result.read_text()))
    return rows


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A panel a measure, a line a model."""
    figure = new_figure(3.6 * len(DRAWN), 2.8, layout="constrained")
    for ax, measure in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        for name, rows in curves.items():
            ax.plot([row["minutes"] for row in rows], [row[measure] for row in rows], "o-", markersize=3, label=name)
        ax.set_xlabel("minutes")
        ax.set_title(MEASURES[measure])
    ax.legend(frameon=False)
    save_png(render(figure), path)


def main(
    pictures: tyro.conf.Positional[Path],
    runs: Path,
    minutes: float = 15.0,
    size: int = 64,
    models: tuple[str, ...] = tuple(MODELS),
    every: int = 1,
    chart: Path | None = None,
    json: Path | None = None,
) -> None:
    folders = {name: runs / name.replace(" ", "-").replace("'", "") for name in models}
    for name, run in folders.items():
        train(pictures, run, minutes, size, MODELS[name])
    judge = Judge(folders[models[0]])
    curves = {name: measure(run, every, judge) for name, run in folders.items()}
    digits = {"minutes": ".1f", "images": ",.0f", "psnr": ".2f", "laplacian_ratio": ".2f", "fd": ".1f"}
    for name, rows in curves.items():
        show(name, rows, digits | {"near_dirac": ".1%"}, json)
    if chart is not None:
        draw(curves, chart)


if __name__ == "__main__":
    tyro.cli(main)
