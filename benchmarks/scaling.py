"""Training in several processes: measured for two on this machine, calculated ("on paper") for many GPUs.

On paper, W GPUs reduce a message of M bytes in a ring, 2 (W - 1) hops of M / W bytes, or up and down a tree, 2 log2(W)
hops of M bytes, whichever is faster, as NCCL does; a hop takes latency + bytes / bandwidth of the slowest link. Nothing
is overlapped with computing, although DistributedDataParallel overlaps most of the gradients: a lower bound. The small
messages are counted, not assumed: the losses run on two ranks here. The gradients are as large as the weights.
"""

import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from common import show, write_pictures

WARM_UP_STEPS = 10
PROCESSES = ((1, 1), (1, 2), (2, 1))  # processes, threads of each


@dataclass(frozen=True)
class Scaling:
    """Images a second of one process against two, and the efficiency of many GPUs on paper."""

    repeats: int = 3
    """Interleaved runs of each kind; 0 leaves the measuring out."""
    batch: int = 32
    """Images of a step over all processes."""
    steps: int = 60
    """Steps of a run."""
    presets: tuple[str, ...] = ("fast", "paper")
    """Networks and losses of the table on paper."""
    gpus: tuple[int, ...] = (8, 64, 512)
    """Numbers of GPUs on paper."""
    step_secs: tuple[float, ...] = (0.1, 1.0, 10.0)
    """Seconds that a GPU computes on its share of a step (weak), or one GPU on all of it (strong): measure yours."""
    gpus_per_machine: int = 8
    """GPUs that NVLink connects."""
    inside_gb_per_sec: float = 300.0
    """Bandwidth between GPUs of one machine, gigabytes a second."""
    inside_latency_us: float = 5.0
    """Latency of a hop between them, microseconds."""
    across_gb_per_sec: float = 12.5
    """Bandwidth between machines, gigabytes a second: 100 Gbit/s."""
    across_latency_us: float = 15.0
    """Latency of a hop between machines, microseconds."""
    json: Path | None = None
    """Write the tables here too."""


def images_per_sec(processes: int, threads: int, pictures: Path, run: Path, settings: Scaling) -> float:
    """Speed of the preset fast at 64x64 with its discriminator, after a warm-up, without figures."""
    command = (
        f"-m vaekit train {pictures} --out {run} --device cpu --devices {processes} --batch {settings.batch} --draws 1 "
        f"--images {settings.batch * settings.steps} --log-every-steps {WARM_UP_STEPS} --discriminator.start 0"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *command.split()], env=environment, check=True, capture_output=True)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    first, *_, last = (record for record in records if "l1" in record)
    return (last["images_seen"] - first["images_seen"]) / (last["elapsed_sec"] - first["elapsed_sec"])


def measure(settings: Scaling) -> None:
    """Print the speed of one process and of two on this machine."""
    speeds: dict[tuple[int, int], list[float]] = {kind: [] for kind in PROCESSES}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VAEKIT_CACHE"] = f"{folder}/cache"
        pictures = write_pictures(Path(folder, "pictures"), 200, 64)
        for repeat in range(settings.repeats):
            for processes, threads in PROCESSES:
                run = Path(folder, f"{processes}-{threads}-{repeat}")
                speeds[processes, threads].append(images_per_sec(processes, threads, pictures, run, settings))
    one = statistics.median(speeds[1, 1])
    rows = [
        {
            "processes": processes,
            "threads of each": threads,
            "images/s, median": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "of one process with one thread": statistics.median(values) / one,
        }
        for (processes, threads), values in speeds.items()
    ]
    digits = dict.fromkeys(("images/s, median", "lowest", "highest"), ".1f") | {"of one process with one thread": ".2f"}
    show(f"fast at 64x64, batch {settings.batch}, {settings.repeats} runs", rows, digits, settings.json)


def count_messages(preset_name: str, rank: int, store: str) -> list[int]:
    """Bytes of every collective of a step's losses, forwards and backwards, as one of two ranks sees them."""
    import torch
    import torch.distributed as dist

    from vaekit import Posterior, discriminator_loss, preset, vae_loss
    from vaekit.objectives.build import build_objective
    from vaekit.objectives.likelihood import feature_distance
    from vaekit.system.ranks import agree

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    sizes = []

    def counting(collective: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
            sizes.append(tensor.numel() * tensor.element_size())
            return collective(tensor, *arguments, **settings)

        return counted

    dist.all_reduce, dist.broadcast = counting(dist.all_reduce), counting(dist.broadcast)
    config = preset(preset_name)
    mean, logvar = torch.randn(2, 4, config.latent_dim, requires_grad=True).unbind()
    x, logits = torch.randn(4, 3, 8, 8), torch.randn(4, 1, 1, 1, requires_grad=True)
    x_hat = x.clone().requires_grad_()
    posterior = Posterior(mean, logvar)
    objective = build_objective(config)
    features = feature_distance([x], [x_hat]) if objective.weights["features"] > 0 else None
    vae_loss(objective, x, x_hat, posterior, posterior.sample(), logits, features).total.backward()
    discriminator_loss(logits, logits).total.backward()
    agree(0.0, False)  # on the clock and on whether to stop, once a step
    dist.destroy_process_group()
    return sizes


def messages(preset_name: str) -> list[int]:
    """Bytes of the small messages of a step, by running its losses on two ranks."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(2) as pool:
        counted = pool.starmap(count_messages, [(preset_name, rank, f"{folder}/store") for rank in range(2)])
    assert counted[0] == counted[1], "the ranks must agree"
    return counted[0]


def gradient_bytes(preset_name: str) -> list[int]:
    """Bytes of the gradients of the VAE and of the discriminator, float32."""
    from vaekit import build_discriminator, build_vae, preset

    config = preset(preset_name)
    networks = build_vae(config), build_discriminator(config)
    return [4 * sum(p.numel() for p in network.parameters()) for network in networks]


def ring(num_bytes: float, gpus: int, latency: float, bandwidth: float) -> float:
    """Seconds of an all-reduce in a ring."""
    return 2 * (gpus - 1) * (latency + num_bytes / gpus / bandwidth)


def tree(num_bytes: float, gpus: int, latency: float, bandwidth: float) -> float:
    """Seconds of a reduction up a binary tree and a broadcast down."""
    return 2 * math.log2(gpus) * (latency + num_bytes / bandwidth)


def on_paper(settings: Scaling, preset_name: str, large: list[int], small: list[int]) -> None:
    """Print the efficiency with the batch growing with the GPUs (weak), and with it kept (strong).

    `large` and `small` are the bytes of the gradients and of the other messages of a step.
    """
    rows = []
    for gpus in settings.gpus:
        inside = gpus <= settings.gpus_per_machine
        latency = 1e-6 * (settings.inside_latency_us if inside else settings.across_latency_us)
        bandwidth = 1e9 * (settings.inside_gb_per_sec if inside else settings.across_gb_per_sec)
        link = latency, bandwidth
        gradients, messages = (
            sum(min(ring(size, gpus, *link), tree(size, gpus, *link)) for size in sizes) for sizes in (large, small)
        )
        by_ring = sum(ring(size, gpus, *link) for size in small)
        for step in settings.step_secs:
            rows.append(
                {
                    "GPUs": gpus,
                    "step, s": step,
                    "gradients, ms": 1e3 * gradients,
                    "small messages, ms": 1e3 * messages,
                    "by rings alone, ms": 1e3 * by_ring,
                    "weak": step / (step + gradients + messages),
                    "strong": step / (step + gpus * (gradients + messages)),
                }
            )
    digits = dict.fromkeys(("gradients, ms", "small messages, ms", "by rings alone, ms"), ".2f")
    digits |= dict.fromkeys(("weak", "strong"), ".0%")
    show(f"{preset_name}, on paper", rows, digits, settings.json)


def main(settings: Scaling) -> None:
    if settings.repeats:
        measure(settings)
    for preset_name in settings.presets:
        large, small = gradient_bytes(preset_name), messages(preset_name)
        gradients = " and ".join(f"{size / 2**20:.1f}" for size in large)
        others = ", ".join(f"{count} of {size:,} bytes" for size, count in sorted(Counter(small).items()))
        print(f"{preset_name}: gradients of {gradients} MiB, {others}\n")
        on_paper(settings, preset_name, large, small)


if __name__ == "__main__":
    main(tyro.cli(Scaling))
