"""Peak memory of a training step with and without checkpointed activations, each in a process of its own.

python benchmarks/memory.py [--json memory.json]
"""

import dataclasses
from pathlib import Path

import tyro

from common import in_fresh_process, show
from vaekit import bench, preset

RUNS = {
    "paper, 256x256, batch 20": preset("paper"),
    "fast, 128x128, batch 32": preset(
        "fast", size=128, discriminator=dataclasses.replace(preset("fast").discriminator, start=0.0)
    ),
}


def main(json: Path | None = None) -> None:
    rows = []
    for name, config in RUNS.items():
        for again in (False, True):
            result = in_fresh_process(bench, dataclasses.replace(config, checkpoint_activations=again), 0.0)
            rows.append(
                {
                    "run": name,
                    "--checkpoint-activations": "yes" if again else "no",
                    "peak memory, GiB": result["peak_memory_gib"],
                    "s a step": config.batch / result["images_per_sec_adversarial"],
                }
            )
    show("memory", rows, {"peak memory, GiB": ".1f", "s a step": ".2f"}, json)


if __name__ == "__main__":
    tyro.cli(main)
