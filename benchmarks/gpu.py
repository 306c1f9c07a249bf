"""Speed, share of the card's own rate and memory of the presets on a CUDA device, with every way to make them faster.

python benchmarks/gpu.py --seconds 1.5
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import argparse

import torch

from common import Table
from vaekit import bench, preset

PRODUCT = 8192  # side of the bf16 matrices whose product gives the card's own rate
CASES = [
    ("fast", {"size": 64, "batch": 16}),
    ("fast", {"size": 64, "batch": 16, "compile": "reduce-overhead"}),
    ("fast", {"size": 64, "batch": 256}),
    ("fast", {"size": 64, "batch": 256, "compile": "default"}),
    ("fast", {"size": 256, "batch": 64}),
    ("fast", {"size": 256, "batch": 64, "compile": "default"}),
    ("paper", {"batch": 20, "precision": "fp32"}),
    ("paper", {"batch": 20, "precision": "tf32"}),
    ("paper", {"batch": 20}),
    ("paper", {"batch": 20, "compile": "default"}),
    ("paper", {"batch": 20, "compile": "reduce-overhead"}),
    ("paper", {"batch": 80}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to time each kind of step")
    seconds = parser.parse_args().seconds
    own = product_tflops()
    rows = [row(name, settings, own, seconds) for name, settings in CASES]
    columns = ("preset", "settings", "img/s", "with discriminator", "TFLOP/s", "of the card's", "GiB", "hours")
    title = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16 product {own:.0f} TFLOP/s"
    print(Table(title, columns, rows).markdown())


def row(name: str, settings: dict, own: float, seconds: float) -> list[str]:
    """One line of the table."""
    torch.compiler.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = bench(preset(name, device="cuda", **settings), seconds)
    rate = result["images_per_sec_adversarial"]
    tflops = rate * result["gflop_per_image_adversarial"] / 1e3
    shown = ", ".join(f"{key} {value}" for key, value in settings.items())
    speeds = [f"{result['images_per_sec']:.0f}", f"{rate:.0f}", f"{tflops:.1f}", f"{tflops / own:.0%}"]
    return [name, shown, *speeds, f"{result['peak_memory_gib']:.1f}", f"{result['expected_hours']:.1f}"]


def product_tflops() -> float:
    """The rate of a plain bf16 product on this card, TFLOP/s."""
    a, b = torch.randn(2, PRODUCT, PRODUCT, device="cuda").bfloat16()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for count in (3, 20):  # the first ones warm up
        start.record()
        for _ in range(count):
            a @ b
        end.record()
    torch.cuda.synchronize()
    return count * 2 * PRODUCT**3 / (start.elapsed_time(end) / 1e3) / 1e12


if __name__ == "__main__":
    main()
