"""The training step of the preset `released` beside the same layers and step in Keras 3 on TensorFlow, on the CPU.

vaekit leaves out what a strided 1x1 convolution would throw away (`networks.resnetv2`), so it has less to compute; the
GFLOP/s are those of what each side does compute. The Keras side is `keras_step.py`, run by a Python of its own:

    python -m venv keras && keras/bin/pip install tensorflow-cpu keras
    python benchmarks/equal_layers.py --keras-python keras/bin/python
"""

import dataclasses
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import tyro

from common import in_fresh_process, median_sec, show

KERAS_STEP = Path(__file__).with_name("keras_step.py")
WARM_UP = 10  # steps: the first ones make the optimisers' state, trace, compile, and allocate memory


@dataclass(frozen=True)
class EqualLayers:
    """Images a second of a step on the VAE and one on the discriminator; each runner in a fresh process, in turn."""

    keras_python: Path
    """Python that has tensorflow-cpu and keras."""
    size: int = 64
    """Side of the pictures in pixels: 64 makes four stages."""
    batch: int = 10
    """Images of a step."""
    precisions: tuple[str, ...] = ("fp32", "bf16")
    """fp32, and bf16: mixed precision on both sides."""
    xla: bool = False
    """Compile the Keras step with XLA too, which is slower here and takes long."""
    compile: bool = False
    """Compile the step of vaekit too (`--compile default`), which takes a minute a process the first time."""
    steps: int = 10
    """Steps that are timed in each process."""
    repeats: int = 3
    """Processes of each runner; the table has medians."""
    threads: int = len(os.sched_getaffinity(0))
    """Threads of either side."""
    json: Path | None = None
    """Write the tables here too."""


def vaekit_step(settings: EqualLayers, compiler: str, precision: str) -> dict[str, Any]:
    """Median seconds of a step, FLOPs of a step as done and as the layers say, and numbers of trainable weights."""
    import torch

    from vaekit import preset
    from vaekit.objectives.build import build_objective
    from vaekit.training.flops import step_flops
    from vaekit.training.state import build_state, fabric_of
    from vaekit.training.step import check_finite, train_step

    torch.set_num_threads(settings.threads)
    shape = {"size": settings.size, "batch": settings.batch}
    config = preset("released", **shape, device="cpu", precision=precision, compile=compiler)
    fabric = fabric_of(config)
    state, objective = build_state(fabric, config), build_objective(config)
    x = (torch.rand(settings.batch, *config.image_shape) * 2 - 1).contiguous(memory_format=torch.channels_last)
    eps = torch.randn(settings.batch, config.latent_dim)

    def step() -> None:
        train_step(fabric, state, objective, x, eps, adversarial=True, clip=config.optimizer.clip)
        check_finite(state)

    whole = dataclasses.replace(config, network=dataclasses.replace(config.network, norm="batch"))  # leaves nothing out
    return {
        "step, s": median_sec(step, settings.steps, WARM_UP),
        "flop": settings.batch * step_flops(config, adversarial=True),
        "flop of the layers": settings.batch * step_flops(whole, adversarial=True),
        "vae": sum(p.numel() for p in state.vae.parameters()),
        "discriminator": sum(p.numel() for p in state.discriminator.parameters()),
    }


def keras_step(settings: EqualLayers, precision: str, options: tuple[str, ...] = ()) -> dict[str, Any]:
    """The same of Keras, without the FLOPs."""
    names = ("size", "batch", "steps", "threads")
    numbers = [part for name in names for part in (f"--{name}", str(getattr(settings, name)))]
    command = [settings.keras_python, KERAS_STEP, *numbers, "--warm-up", str(WARM_UP), "--precision", precision]
    environment = os.environ | {"PYTHONPATH": "", "OMP_NUM_THREADS": str(settings.threads)}
    finished = subprocess.run([*command, *options], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(finished.stdout.splitlines()[-1])


def matmul_gflops(threads: int) -> float:
    """GFLOP a second of this machine in a product of two bf16 matrices."""
    import torch

    from vaekit.commands.bench import matmul_gflops as rate

    torch.set_num_threads(threads)
    return rate(torch.device("cpu"), torch.bfloat16)


def compare(settings: EqualLayers) -> list[dict[str, Any]]:
    """One row for each runner and precision, with medians over processes.

    All runners take turns, so that changes in the speed of the machine over time affect all of them alike.

    Raises if the layers are not equal.
    """
    kinds: dict[str, Callable[[str], dict[str, Any]]] = {
        "vaekit": partial(in_fresh_process, vaekit_step, settings, "no", ours=True),
        "Keras": partial(keras_step, settings),
    }
    if settings.compile:
        kinds["vaekit, compiled"] = partial(in_fresh_process, vaekit_step, settings, "default", ours=True)
    if settings.xla:
        kinds["Keras, XLA"] = partial(keras_step, settings, options=("--xla",))
    runners = list(product(settings.precisions, kinds))
    results: dict[tuple[str, str], list[dict[str, Any]]] = {runner: [] for runner in runners}
    for _ in range(settings.repeats):
        for precision, kind in runners:
            results[precision, kind].append(kinds[kind](precision))
    weights = {(result["vae"], result["discriminator"]) for several in results.values() for result in several}
    assert len(weights) == 1, f"other layers: {weights}"
    seconds = {runner: statistics.median(r["step, s"] for r in several) for runner, several in results.items()}
    best = min(sec for (_, kind), sec in seconds.items() if kind.startswith("vaekit"))
    rows = []
    for (precision, kind), sec in seconds.items():
        ours = results[precision, "vaekit"][0]
        flop = ours["flop" if kind.startswith("vaekit") else "flop of the layers"]
        faster = {"vaekit is faster": sec / seconds[precision, "vaekit"], "vaekit's best is faster": sec / best}
        rate = {"img/s": settings.batch / sec, "GFLOP/s": flop / sec / 1e9}
        rows.append({"precision": precision, "": kind} | rate | faster)
    return rows


def main(settings: EqualLayers) -> None:
    rows = compare(settings)
    matmul = statistics.median(in_fresh_process(matmul_gflops, settings.threads) for _ in range(settings.repeats))
    for row in rows:
        row["of the bf16 matmul"] = row["GFLOP/s"] / matmul
    title = (
        f"released at {settings.size}, batch {settings.batch}, {settings.threads} threads; {matmul:.0f} GFLOP/s matmul"
    )
    digits = {"img/s": ".2f", "vaekit is faster": ".2f", "vaekit's best is faster": ".2f", "GFLOP/s": ".0f"}
    digits["of the bf16 matmul"] = ".0%"
    show(title, rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(EqualLayers))
