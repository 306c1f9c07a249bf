"""Pictures a second through EfficientNet-Lite0, the features of `vaekit evaluate`, with and without memory kept."""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import time
from pathlib import Path

import torch
import tyro

from common import in_fresh_process, show
from vaekit.measures.features import load_extractor


def rate(threads: int, side: int, repeats: int) -> float:
    """Pictures of `side` pixels for each second of processor time."""
    torch.set_num_threads(threads)
    extractor = load_extractor("efficientnet-lite0")
    x = torch.rand(64, 3, side, side) * 2 - 1
    extractor(x)
    started_at = time.process_time()
    for _ in range(repeats):
        extractor(x)
    return repeats * len(x) / (time.process_time() - started_at)


def main(threads: int = 1, side: int = 64, repeats: int = 4, turns: int = 3, json: Path | None = None) -> None:
    rows = [
        {"turn": turn + 1}
        | {
            name: in_fresh_process(rate, threads, side, repeats, ours=keep)
            for name, keep in (("given back", False), ("kept", True))
        }
        for turn in range(turns)
    ]
    title = f"Pictures a second of processor time, {threads} threads; freed memory is"
    show(title, rows, {"given back": ".1f", "kept": ".1f"}, json)


if __name__ == "__main__":
    tyro.cli(main)
