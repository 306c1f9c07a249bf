"""The output of a run while it trains: log.jsonl and TensorBoard for programs, a progress bar for the user."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter

from vaekit.runs.watching import Watcher, numbers
from vaekit.system.files import json_text

LOG_FILE = "log.jsonl"
CLOCKS = ("train/images_seen", "train/elapsed_sec")  # which TensorBoard has no chart of
MEASURED = "test/"  # before the names of what is measured on test pictures
PLAIN_LINE_EVERY_SEC = 15.0  # where there is no terminal to redraw a bar on
NOT_SHOWN = ("total", "features", "grad_norm", "discriminator_grad_norm")  # what the bar has no room for


class RunLog:
    """Writes the records of one run; does nothing unless `enabled`, which is for rank 0 alone. A context manager.

    Records after `resumed_step`, left by a process that was killed, are removed; with `measure_again` also the test
    record of that step. `watchers` hear of all that is written.

    A full disk does not stop a run here: records wait in memory until `sync`, which raises.
    """

    def __init__(
        self,
        run: Path,
        resumed_step: int,
        console: Console,
        enabled: bool = True,
        measure_again: bool = False,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.run, self.resumed_step = run, resumed_step
        self.console = console
        self.enabled = enabled
        self.measure_again = measure_again
        self.watchers = list(watchers)
        self.unwritten = b""
        self.last_line_at = -PLAIN_LINE_EVERY_SEC

    def __enter__(self) -> RunLog:
        if not self.enabled:
            return self
        drop_records_after(self.run / LOG_FILE, self.resumed_step, self.measure_again)
        self.file = (self.run / LOG_FILE).open("ab", buffering=0)
        self.tensorboard: SummaryWriter | None = SummaryWriter(
            self.run / "tensorboard", purge_step=self.resumed_step + 1
        )
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.enabled:
            self.progress.stop()
            if self.tensorboard is not None:
                with suppress(OSError):
                    self.tensorboard.close()
            self.file.close()
            for watcher in self.watchers:
                watcher.close(failed=kind is not None and issubclass(kind, Exception))

    def write(self, record: Mapping[str, float | str]) -> None:
        """Append one record, which must hold `step`, to both logs; text goes to the file alone."""
        if not self.enabled:
            return
        self.unwritten += json_text(record).encode() + b"\n"
        with suppress(OSError):
            self.flush()
        try:
            self.chart(record)
        except OSError as error:
            self.tensorboard = None  # its thread is dead
            self.say(f"WARNING: no TensorBoard from here on, {LOG_FILE} has everything: {error}")
        if not any(name.startswith(MEASURED) for name in record):
            for watcher in self.watchers:
                watcher.step(record)

    def measured(self, record: Mapping[str, float | str], figures: Sequence[Path]) -> None:
        """Tell of what was measured, which `write` has written, and of the figures that were drawn of it."""
        for watcher in self.watchers:
            watcher.measured(record, figures)

    def flush(self) -> None:
        """Write all records to the file. Bytes that the system refuses, with `OSError`, are kept for the next call."""
        while self.unwritten:
            written = self.file.write(self.unwritten)
            self.unwritten = self.unwritten[written:]

    def sync(self) -> None:
        """Wait until all records are on the disk. Raises `OSError` if it does not take them."""
        if self.enabled:
            self.flush()
            os.fsync(self.file.fileno())

    def chart(self, record: Mapping[str, float | str]) -> None:
        """Add the numbers of a record to TensorBoard."""
        if self.tensorboard is None:
            return
        step = int(record["step"])
        for name, value in numbers(record).items():
            if name not in CLOCKS:
                self.tensorboard.add_scalar(name, value, step)

    def show(self, fraction: float, record: Mapping[str, float], left_sec: float, losses: Sequence[str]) -> None:
        """Move the bar: share of the run done, speed, time left, and of a record those that are `losses`, L1 first."""
        if not self.enabled:
            return
        rate = f"{record['images_per_sec']:.3g} img/s"
        left = f"{duration(left_sec)} left"
        shown = sorted((name for name in losses if name not in NOT_SHOWN), key=lambda name: name != "l1")
        values = " ".join(f"{name} {record[name]:.3g}" for name in shown)
        self.progress.update(self.bar, completed=fraction, rate=rate, left=left, losses=values)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last_line_at >= PLAIN_LINE_EVERY_SEC:
            self.last_line_at = now
            self.say(f"{fraction:4.0%}  step {record['step']:,.0f}  {rate}  {left}  {values}")

    def say(self, message: str) -> None:
        """One line of text above the bar."""
        with suppress(OSError):  # a full disk behind stderr is no reason to stop
            self.console.print(message, highlight=False, soft_wrap=True)


def read_records(run: Path) -> list[dict[str, float]]:
    """The whole records of a run's log, oldest first; an empty list if there is none."""
    path = run / LOG_FILE
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [record for record in map(record_of, lines) if record is not None]


def last_counters(run: Path) -> Mapping[str, float]:
    """The newest record of a run's log that says how many images it has seen; empty if there is none."""
    return next((record for record in reversed(read_records(run)) if "images_seen" in record), {})


def drop_records_after(path: Path, step: int, measure_again: bool = False) -> None:
    """Remove what an interrupted run logged after the checkpoint that is resumed, a half-written line included.

    The log is truncated, not rewritten, so that an interruption cannot lose the records before. With `measure_again`,
    the test record of the step itself is removed too.
    """
    if not path.is_file():
        return
    kept = 0
    for line in path.read_bytes().splitlines(keepends=True):
        record = record_of(line)
        half_written = not line.endswith(b"\n")
        if half_written or (record is not None and comes_after(record, step, measure_again)):
            break
        kept += len(line)
    os.truncate(path, kept)


def comes_after(record: Mapping[str, float], step: int, measure_again: bool) -> bool:
    """Whether a record is of a later step, or the measurement of this one that is to be repeated."""
    return record["step"] > step or (measure_again and record["step"] == step and "test/verdict" in record)


def record_of(line: bytes) -> dict[str, float] | None:
    """The record in a line of the log; None if it is half-written or damaged."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def duration(sec: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h, 2.1 days."""
    if sec < 90:
        return f"{sec:.0f} s"
    if sec < 90 * 60:
        return f"{sec / 60:.0f} min"
    return f"{sec / 3600:.1f} h" if sec < 48 * 3600 else f"{sec / 86400:.1f} days"
