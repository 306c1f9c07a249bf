"""Peak memory of a training step with and without checkpointed activations, each in a process of its own.

    python benchmarks/memory.py [--run paper] [--json memory.json]

Two steps each, since the optimisers' state is there from the second on; in the precision that training would choose.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import dataclasses
import time
from pathlib import Path

import torch
import tyro

from common import in_fresh_process, show
from vaekit import preset
from vaekit.commands.bench import peak_memory_gib
from vaekit.config.settings import Config
from vaekit.objectives.build import build_objective
from vaekit.system.devices import launch, resolve_precision
from vaekit.training.state import build_state, fabric_of
from vaekit.training.step import train_step

RUNS = {
    "paper": preset("paper"),
    "fast": preset("fast", size=128, discriminator=dataclasses.replace(preset("fast").discriminator, start=0.0)),
}


def measure(config: Config) -> dict[str, float]:
    """Peak memory of two steps with the discriminator, and the seconds of the second."""
    config = config.resolved()
    fabric = fabric_of(config)
    launch(fabric)
    state, objective = build_state(fabric, config), build_objective(config)
    x = (torch.rand(config.batch, *config.image_shape) * 2 - 1).contiguous(memory_format=torch.channels_last)
    eps = torch.randn(config.batch, config.latent_dim)
    for _ in range(2):
        started_at = time.perf_counter()
        train_step(fabric, state, objective, x, eps, adversarial=True, clip=config.optimizer.clip)
    return {"peak memory, GiB": peak_memory_gib(fabric.device), "s a step": time.perf_counter() - started_at}


def main(run: str | None = None, json: Path | None = None) -> None:
    """Measure all runs, or the one that is named."""
    rows = []
    for name in [run] if run else RUNS:
        for again in (False, True):
            config = dataclasses.replace(RUNS[name], checkpoint_activations=again)
            row = {
                "run": f"{name}, {config.size}x{config.size}, batch {config.batch}",
                "precision": resolve_precision(config.device, config.precision),
                "--checkpoint-activations": "yes" if again else "no",
            }
            rows.append(row | in_fresh_process(measure, config, ours=True))
    show("memory", rows, {"peak memory, GiB": ".1f", "s a step": ".1f"}, json)


if __name__ == "__main__":
    tyro.cli(main)
