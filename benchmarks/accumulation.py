"""What micro-batches save and cost: peak memory and processor seconds of a step, one thread, a process each."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from common import in_fresh_process, peak_mib, resident_mib, show

WARM_UP = 2  # the first steps make the optimisers' state and are dominated by allocation


@dataclass(frozen=True)
class Accumulation:
    """Memory and time of a training step with the discriminator, whole and in micro-batches."""

    preset: str = "fast"
    """Network and loss."""
    size: int = 128
    """Side of the pictures in pixels."""
    batch: int = 20
    """Images of a step."""
    micro_batches: tuple[int, ...] = (20, 10, 5)
    """Images worked on at once; the first is the reference."""
    steps: int = 8
    """Steps that are timed."""
    json: Path | None = None
    """Write the table here too."""


def measure(preset: str, size: int, batch: int, micro_batch: int, steps: int) -> dict[str, float]:
    """Peak memory above that before the first step, MiB; seconds of a step and of encoding the batch once, medians."""
    import torch

    import vaekit
    from vaekit.objectives.build import build_objective
    from vaekit.training.state import build_state, fabric_of
    from vaekit.training.step import split_batch, train_step

    torch.set_num_threads(1)
    config = vaekit.preset(preset, size=size, batch=batch, micro_batch=micro_batch, device="cpu")
    fabric = fabric_of(config)
    state = build_state(fabric, config)
    objective = build_objective(config)
    x = (torch.rand(batch, *config.image_shape) * 2 - 1).contiguous(memory_format=torch.channels_last)
    eps = torch.randn(batch, config.latent_dim)

    def step() -> None:
        train_step(fabric, state, objective, x, eps, adversarial=True, micro_batch=micro_batch, clip=3.0)

    def encode() -> None:
        with torch.no_grad(), fabric.autocast():
            for chunk in split_batch(batch, micro_batch):
                state.vae.module.encode(x[chunk])

    before = resident_mib()
    timed(step, WARM_UP)
    step_sec = timed(step, steps)
    return {"peak": peak_mib() - before, "step": step_sec, "encode": timed(encode, steps)}


def timed(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call: of the processor, which with one thread do not count what else the machine does."""
    seconds = []
    for _ in range(repeats):
        started_at = time.process_time()
        function()
        seconds.append(time.process_time() - started_at)
    return statistics.median(seconds)


def main(settings: Accumulation) -> None:
    arguments = settings.preset, settings.size, settings.batch
    measured = [
        in_fresh_process(measure, *arguments, micro, settings.steps, ours=True) for micro in settings.micro_batches
    ]
    whole = measured[0]
    rows = [
        {
            "micro-batch": micro,
            "peak, MiB": result["peak"],
            "of the whole": result["peak"] / whole["peak"],
            "step, s": result["step"],
            "slower by": result["step"] / whole["step"] - 1,
            "one encoder pass, s": result["encode"],
            "expected": 0.0 if micro >= settings.batch else result["encode"] / whole["step"],
        }
        for micro, result in zip(settings.micro_batches, measured, strict=True)
    ]
    digits = dict.fromkeys(("of the whole", "slower by", "expected"), ".0%")
    digits |= {"peak, MiB": ",.0f", "step, s": ".3f", "one encoder pass, s": ".3f"}
    title = f"{settings.preset} at {settings.size}x{settings.size}, batch {settings.batch}"
    show(title, rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(Accumulation))
