"""How fast this machine trains a config, before a run of hours or days is started."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from vaekit.config.settings import Config
from vaekit.data.loader import Stream
from vaekit.objectives.build import build_objective
from vaekit.runs.log import duration
from vaekit.system.devices import Fabric, float32_products, launch, own_generators, own_threads, resolve_precision
from vaekit.system.ranks import check_one_process
from vaekit.training.flops import step_flops
from vaekit.training.loop import next_step
from vaekit.training.state import build_state, fabric_of
from vaekit.training.step import check_finite

WARM_UP = 2  # steps: the first ones allocate memory, and compile where asked to
MATMUL = 2048  # side of the square matrices whose product gives the machine's own rate
NUM_PICTURES = 512
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def bench(config: Config, seconds: float = 10.0) -> dict[str, float | str]:
    """Time the training step of `config` on random pictures, without and with the discriminator, for `seconds` each.

    Returns images_per_sec and images_per_sec_adversarial from the median step, and gflop_per_image of both (the same
    numbers twice where a run has one kind of step), matmul_gflops (rate of a 2048 x 2048 product in the same
    precision), matmul_fraction (share of it that the slower kind of step reaches), peak_memory_gib (of the device; on
    a CPU of this whole process, imports included) and expected_hours of the whole run. One process; raises as `train`.
    """
    check_one_process("bench")
    if config.devices > 1:
        raise ValueError("bench times one device; leave out --devices")
    config = config.resolved()
    with own_threads(config.threads), own_generators(), float32_products(config.precision == "tf32"):
        fabric = fabric_of(config)
        launch(fabric)
        return bench_on(fabric, config, seconds)


def bench_on(fabric: Fabric, config: Config, seconds: float) -> dict[str, float | str]:
    """What `bench` returns, on devices that are launched."""
    precision = resolve_precision(config.device, config.precision)
    state = build_state(fabric, config)
    objective = build_objective(config, state.beside)
    random = np.random.default_rng(config.seed)
    pictures = random.integers(0, 256, (NUM_PICTURES, *config.image_shape), dtype=np.uint8)
    stream = Stream(pictures, np.arange(NUM_PICTURES), config.seed, config.flip)

    def step(adversarial: bool) -> None:
        next_step(fabric, config, state, objective, stream, adversarial)
        state.counters["step"] += 1
        state.counters["images_seen"] += config.batch
        check_finite(state)  # waits for the device

    kinds = [False] * (not config.gan or config.discriminator_start > 0) + [True] * config.gan
    rates = [config.batch / median_sec(lambda kind=kind: step(kind), seconds) for kind in kinds]  # type: ignore[misc]
    gflops = [step_flops(config, kind) / 1e9 for kind in kinds]
    matmul = matmul_gflops(fabric.device, DTYPES[precision])
    return {
        "device": fabric.device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "images_per_sec": rates[0],
        "images_per_sec_adversarial": rates[-1],
        "gflop_per_image": gflops[0],
        "gflop_per_image_adversarial": gflops[-1],
        "matmul_gflops": matmul,
        "matmul_fraction": rates[-1] * gflops[-1] / matmul,
        "peak_memory_gib": peak_memory_gib(fabric.device),
        "expected_hours": expected_hours(config, rates[0], rates[-1]),
    }


def median_sec(work: Callable[[], None], seconds: float) -> float:
    """Median time of one piece of work, repeated for `seconds`, three times at least, after warming up."""
    for _ in range(WARM_UP):
        work()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        started_at = time.perf_counter()
        work()
        times.append(time.perf_counter() - started_at)
    return statistics.median(times)


def expected_hours(config: Config, rate: float, rate_adversarial: float) -> float:
    """Length of a run from its images a second without and with the discriminator."""
    if config.minutes is not None:
        return config.minutes / 60
    alone = config.discriminator_start if config.gan else 1.0
    return config.images * (alone / rate + (1 - alone) / rate_adversarial) / 3600


def matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate that this device reaches in a plain product of two matrices of side 2048, GFLOP/s."""
    a, b = torch.randn(2, MATMUL, MATMUL, device=device).to(dtype)

    def multiply() -> None:
        torch.mm(a, b)
        wait_for(device)

    return 2 * MATMUL**3 / median_sec(multiply, 1.0) / 1e9


def peak_memory_gib(device: torch.device) -> float:
    """Most memory held so far: on a GPU by its tensors, on a CPU by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def readable_bench(config: Config, result: dict[str, float | str]) -> str:
    """The result in three lines for people."""
    height, width = config.image_size
    rate, slow, hours = (float(result[n]) for n in ("images_per_sec", "images_per_sec_adversarial", "expected_hours"))
    both = config.gan and config.discriminator_start > 0
    speed = f"{rate:.3g} img/s without the discriminator, {slow:.3g} with it" if both else f"{rate:.3g} img/s"
    length = f"{config.minutes:g} min" if config.minutes is not None else f"{config.images:,} images"
    peak = float(result["peak_memory_gib"])
    memory = "not known here" if math.isnan(peak) else f"{peak:.1f} GiB"
    return (
        f"{config.preset} at {height}x{width}, batch {config.batch}: {speed} "
        f"({result['device']}, {result['precision']})\n"
        f"the whole run of {length} takes about {duration(3600 * hours)}; "
        f"peak memory {memory}\n"
        f"{result['gflop_per_image_adversarial']:.3g} GFLOP an image: {result['matmul_fraction']:.0%} of the rate of a "
        f"matrix product here ({result['matmul_gflops']:,.0f} GFLOP/s, {result['threads']} threads)"
    )
