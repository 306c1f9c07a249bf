"""How long a user waits: for `vaekit --help`, beside `import torch`, and for the first step of `vaekit train`."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from common import show, write_pictures

POLL_SEC = 0.005


@dataclass(frozen=True)
class Startup:
    """Seconds from the command to what the user waits for; everything takes its turn in every repeat."""

    pictures: int = 12_000
    """Pictures in the folder, decoded before the clock starts."""
    size: int = 64
    """Their side, in pixels."""
    repeats: int = 5
    """How often; the table has medians."""
    json: Path | None = None
    """Write the table here too."""


def command_sec(*arguments: str) -> float:
    """Seconds that a Python command takes."""
    started_at = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started_at


def first_step_sec(pictures: Path, size: int) -> float:
    """Seconds from starting `vaekit train` to its first record, after which it is killed."""
    with tempfile.TemporaryDirectory() as run:
        log = Path(run, "run", "log.jsonl")
        arguments = f"train {pictures} --size {size} --log-every-steps 1 --out {log.parent}".split()
        started_at = time.perf_counter()
        training = subprocess.Popen([sys.executable, "-m", "vaekit", *arguments], stderr=subprocess.DEVNULL)
        while not (log.exists() and b"\n" in log.read_bytes()):
            assert training.poll() is None, "the training ended without a record"
            time.sleep(POLL_SEC)
        waited = time.perf_counter() - started_at
        training.send_signal(signal.SIGKILL)
        training.wait()
        return waited


def main(settings: Startup) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["VAEKIT_CACHE"] = str(Path(temporary, "cache"))
        pictures = Path(temporary, "pictures")
        write_pictures(pictures, settings.pictures, settings.size)
        subprocess.run([sys.executable, "-m", "vaekit", "prepare", pictures, "--size", str(settings.size)], check=True)
        waits: dict[str, Callable[[], float]] = {
            "import torch": lambda: command_sec("-c", "import torch"),
            "vaekit --help": lambda: command_sec("-m", "vaekit", "--help"),
            "vaekit train, to its first step": lambda: first_step_sec(pictures, settings.size),
        }
        seconds: dict[str, list[float]] = {name: [] for name in waits}
        for _ in range(settings.repeats):
            for name, wait in waits.items():
                seconds[name].append(wait())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [
        {"": name, "s": median, "of import torch": median / medians["import torch"]} for name, median in medians.items()
    ]
    title = f"Start-up with {settings.pictures:,} pictures at {settings.size}, medians of {settings.repeats}"
    show(title, rows, {"s": ".2f", "of import torch": ".2f"}, settings.json)


if __name__ == "__main__":
    main(tyro.cli(Startup))
