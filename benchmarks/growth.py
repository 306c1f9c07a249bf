"""Step time against picture size, width, batch and latent_dim, beside the arithmetic floor; where the time goes.

    python benchmarks/growth.py [--seconds 3] [--chart growth.png] [--json growth.json]

The floor is the time that the step's convolutions and matrix products would take at the rate of one large matrix
product on this machine. Each point is a full training step of the preset `fast` with the discriminator.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import dataclasses
from pathlib import Path

import torch
import tyro
from matplotlib.ticker import NullFormatter, ScalarFormatter

from common import in_fresh_process, show
from vaekit import bench, preset
from vaekit.config.settings import Config
from vaekit.objectives.build import build_objective
from vaekit.reports.mosaic import new_figure, render, save_png
from vaekit.system.devices import launch
from vaekit.training.state import build_state, fabric_of
from vaekit.training.step import train_step

MODEL = preset("fast", discriminator=dataclasses.replace(preset("fast").discriminator, start=0.0))
VALUES = {
    "size": (32, 64, 128, 256),
    "width": (16, 32, 64, 128),
    "batch": (8, 16, 32, 64, 128),
    "latent_dim": (64, 256, 1024, 4096),
}
DIGITS = {"ms an image": ".2f", "floor, ms": ".2f", "of the floor's rate": ".0%", "GFLOP an image": ".2f", "GiB": ".1f"}


def changed(name: str, value: int) -> Config:
    """The model with one of its dimensions changed."""
    if name == "width":
        network = dataclasses.replace(MODEL.network, channels=value, max_channels=8 * value)
        return dataclasses.replace(MODEL, network=network)
    if name == "latent_dim":
        return dataclasses.replace(MODEL, network=dataclasses.replace(MODEL.network, latent_dim=value))
    return dataclasses.replace(MODEL, **{name: value})


def point(name: str, value: int, seconds: float) -> dict[str, float]:
    """One row of the table."""
    result = in_fresh_process(bench, changed(name, value), seconds, ours=True)
    return {
        name: value,
        "ms an image": 1e3 / result["images_per_sec_adversarial"],
        "floor, ms": 1e3 * result["gflop_per_image_adversarial"] / result["matmul_gflops"],
        "of the floor's rate": result["matmul_fraction"],
        "GFLOP an image": result["gflop_per_image_adversarial"],
        "GiB": result["peak_memory_gib"],
    }


def draw(tables: dict[str, list[dict[str, float]]], path: Path) -> None:
    """A panel for each dimension: measured time and floor."""
    figure = new_figure(3 * len(tables), 2.8, layout="constrained")
    axes = figure.subplots(1, len(tables), sharey=True)
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        values = [row[name] for row in rows]
        ax.loglog(values, [row["ms an image"] for row in rows], "o-", label="measured")
        ax.loglog(values, [row["floor, ms"] for row in rows], "--", color="#9a9a9a", label="arithmetic floor")
        ax.set_xticks(values, labels=[str(value) for value in values])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.set_xlabel(name)
    axes[0].set_ylabel("ms an image")
    axes[0].legend(frameon=False)
    save_png(render(figure), path)


def profile() -> list[dict[str, str | float]]:
    """The operations that take most of a step, as torch's profiler sees them."""
    fabric = fabric_of(MODEL)
    launch(fabric)
    config = MODEL.resolved()
    state, objective = build_state(fabric, config), build_objective(config)
    x = torch.rand(config.batch, *config.image_shape).to(memory_format=torch.channels_last)
    eps = torch.randn(config.batch, config.latent_dim)
    for _ in range(2):
        train_step(fabric, state, objective, x, eps, adversarial=True, clip=config.optimizer.clip)
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            train_step(fabric, state, objective, x, eps, adversarial=True, clip=config.optimizer.clip)
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [{"operation": event.key, "share": event.self_cpu_time_total / total} for event in events[:10]]


def main(seconds: float = 3.0, chart: Path | None = None, json: Path | None = None) -> None:
    tables = {name: [point(name, value, seconds) for value in values] for name, values in VALUES.items()}
    for name, rows in tables.items():
        show(f"{name} (others as in `fast`)", rows, DIGITS, json)
    show("where a step of `fast` goes", in_fresh_process(profile, ours=True), {"share": ".0%"}, json)
    if chart is not None:
        draw(tables, chart)


if __name__ == "__main__":
    tyro.cli(main)
