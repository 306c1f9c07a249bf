"""The speedrun: minutes of training to PSNR 25 dB and FD-EffNet 30 on test pictures, from nothing, on this machine.

    python benchmarks/speedrun.py celeba/ --runs runs/speedrun [--settings objective=hierarchical images=18000]

Each seed is one `vaekit train` of a fixed length, alone on the machine; without `--settings` that of the last record.
Its final model is measured on all test pictures, reconstructed from sampled z. What is there already is not trained
again. docs/speedrun.md has the rules and the records.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import subprocess
import sys
from pathlib import Path

import torch
import tyro

from common import show
from time_to_quality import Judge
from vaekit.commands.evaluate import in_precision_of
from vaekit.measures.distances import frechet_distance
from vaekit.measures.full import few_images
from vaekit.measures.quick import BATCH, evaluate, reconstruct
from vaekit.models.vae import VAE
from vaekit.runs.folder import read_run_config
from vaekit.runs.log import last_counters

SIZE, PSNR, FD = 64, 25.0, 30.0  # the task
TASK = {"size", "channels", "split", "split_by", "fit", "colour_profiles", "depth", "levels", "init_from", "seed"}
# Settings of the last record.
RECORD = ("objective=hierarchical", "images=20000", "weights.features=16000", "weights.realism=600")
MEASURES = ("psnr", "fd", "laplacian_ratio", "near_dirac")
DIGITS = {"seed": "d", "minutes": ".1f", "images": ",.0f", "near_dirac": ".2%"}
DIGITS |= {"psnr": ".2f", "fd": ".1f", "laplacian_ratio": ".2f"}


def train(pictures: Path, run: Path, seed: int, settings: tuple[str, ...]) -> None:
    """One run of `vaekit train`, which goes on where it stopped, and is over at once where it is there."""
    options = {"size": SIZE, "seed": seed, "draws": 1, "prior": "gaussian"}
    chosen = dict(each.split("=", 1) for each in settings)
    if fixed := TASK & {name.replace("-", "_") for name in chosen}:
        sys.exit(f"{', '.join(sorted(fixed))}: what the task itself says; leave it as it is")
    options |= chosen
    command = [sys.executable, "-m", "vaekit", "train", pictures, "--out", run, "--resume"]
    for name, value in options.items():
        command += [f"--{name}", value]
    status = subprocess.run([str(part) for part in command], check=False).returncode
    if status:
        sys.exit(f"{run}: no training; other settings want another --runs" if status == 2 else status)


@torch.no_grad()
def measured(run: Path, judge: Judge) -> dict[str, float]:
    """What the task asks of the final model of a run, and its time."""
    vae, config = VAE.from_pretrained(run), read_run_config(run)
    with in_precision_of(config):
        numbers = evaluate(vae, judge.held_out.batches(BATCH))
        x_hats = (x_hat for _, _, x_hat, _ in reconstruct(vae, judge.held_out.batches(BATCH), seed=0))
        numbers["fd"] = frechet_distance(judge.real, judge.features(x_hats))
    counters = last_counters(run)
    time = {"seed": config.seed, "minutes": counters["elapsed_sec"] / 60, "images": counters["images_seen"]}
    return time | {name: numbers[name] for name in MEASURES}


def main(
    pictures: tyro.conf.Positional[Path],
    runs: Path = Path("runs/speedrun"),
    seeds: int = 3,
    settings: tuple[str, ...] = RECORD,
    json: Path | None = None,
) -> None:
    folders = [runs / f"seed-{seed}" for seed in range(seeds)]
    for seed, run in enumerate(folders):
        train(pictures, run, seed, settings)
    judge = Judge(folders[0])
    rows = [measured(run, judge) for run in folders]
    show(f"Speedrun: {' '.join(settings)}", rows, DIGITS, json)
    for warning in few_images(len(judge.held_out.indices)):
        print(warning)
    missed = {
        f"{PSNR:g} dB": sum(not row["psnr"] >= PSNR for row in rows),
        f"FD-EffNet {FD:g}": sum(not row["fd"] <= FD for row in rows),
    }
    longest = max(row["minutes"] for row in rows)
    for task, seeds_missed in missed.items():
        print(f"{seeds_missed} of {seeds} miss {task}")
    if not any(missed.values()):
        print(f"a record of {longest:.1f} min, if it is less than that of docs/speedrun.md")


if __name__ == "__main__":
    tyro.cli(main)
