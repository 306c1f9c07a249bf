"""What a run tells while it trains: log.jsonl and TensorBoard for machines, a progress bar for people."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter

LOG_FILE = "log.jsonl"
PLAIN_LINE_EVERY_SEC = 15.0  # where there is no terminal to redraw a bar on
SHOWN = (
    "l1",
    "kl_global",
    "kl_individual",
    "kl_standard",
    "realism",
    "discriminator_real",
    "discriminator_fake",
)


class RunLog:
    """Writes the records of one run; does nothing unless `enabled`, which is for rank 0 alone. A context manager."""

    def __init__(self, run: Path, resumed_step: int, console: Console, enabled: bool = True) -> None:
        self.run, self.resumed_step = run, resumed_step
        self.console = console
        self.enabled = enabled
        self.last_line_at = -PLAIN_LINE_EVERY_SEC

    def __enter__(self) -> RunLog:
        if not self.enabled:
            return self
        drop_records_after(self.run / LOG_FILE, self.resumed_step)
        self.file = (self.run / LOG_FILE).open("a")
        self.tensorboard = SummaryWriter(self.run / "tensorboard", purge_step=self.resumed_step + 1)
        self.progress = Progress(
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}  {task.fields[losses]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar = self.progress.add_task("", total=1.0, rate="", left="", losses="")
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.enabled:
            self.progress.stop()
            self.tensorboard.close()
            self.file.close()

    def write(self, record: Mapping[str, float | str]) -> None:
        """Append one record, which must hold `step`, to both logs; text goes to the file alone."""
        if not self.enabled:
            return
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        step = int(record["step"])
        for name, value in record.items():
            if name not in ("step", "images_seen", "elapsed_sec") and not isinstance(value, str):
                self.tensorboard.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def show(self, fraction: float, record: Mapping[str, float], left_sec: float) -> None:
        """Move the bar: share of the run done, speed, time left and the losses by name."""
        if not self.enabled:
            return
        rate = f"{record['images_per_sec']:.3g} img/s"
        left = f"{duration(left_sec)} left"
        losses = " ".join(f"{name} {record[name]:.3g}" for name in SHOWN if name in record)
        self.progress.update(self.bar, completed=fraction, rate=rate, left=left, losses=losses)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line_at >= PLAIN_LINE_EVERY_SEC:
            self.last_line_at = now
            self.say(f"{fraction:4.0%}  step {record['step']:,.0f}  {rate}  {left}  {losses}")

    def say(self, message: str) -> None:
        """One line of text above the bar."""
        self.console.print(message, highlight=False, soft_wrap=True)


def read_records(run: Path) -> list[dict[str, float]]:
    """The records of a run's log, oldest first; an empty list if there is none."""
    path = run / LOG_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def drop_records_after(path: Path, step: int) -> None:
    """Forget what a broken run logged after the checkpoint that is resumed, a half-written line included."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines() if is_record(line) and json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept))


def is_record(line: str) -> bool:
    """Whether a line of the log is whole."""
    return line.startswith("{") and line.endswith("}")


def duration(sec: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h, 2.1 days."""
    if sec < 90:
        return f"{sec:.0f} s"
    if sec < 90 * 60:
        return f"{sec / 60:.0f} min"
    return f"{sec / 3600:.1f} h" if sec < 48 * 3600 else f"{sec / 86400:.1f} days"
