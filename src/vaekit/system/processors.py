"""What this process may use, processors and memory, and what its threads do while they wait. Imports no torch."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

# The OpenMP libraries read these once, when they are loaded, which `import torch` does. GNU's (Linux) counts turns of a
# loop, some tens of microseconds; LLVM's and Intel's (macOS, Windows) milliseconds, by default 200.
WAITING = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
TOLD = (*WAITING, "OMP_WAIT_POLICY")
SPINNING = (
    "torch was loaded before vaekit, so its threads spin while they wait, which is slow beside other programs; "
    "import vaekit first"
)
CGROUPS = Path("/sys/fs/cgroup")


def spin_briefly() -> None:
    """Make the threads of OpenMP sleep soon where they wait for each other, in this process and those that it starts.

    By default they spin for milliseconds. Where another program holds one of the cores, all the others can then burn
    their time at every barrier: a training was seen at a twentieth of its speed. Threads that sleep at once are slow to
    wake up, which costs a fifth of a step on some machines; a moment of spinning costs nothing (docs/performance.md).
    What the user has set stays, and nothing is set where torch is loaded: it would only reach other processes.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in TOLD):
        os.environ.update(WAITING)


def spins() -> bool:
    """Whether nothing says how long waiting threads spin, since torch was loaded before vaekit."""
    return not any(name in os.environ for name in TOLD)


def processors() -> int:
    """How many processors this process may keep busy: those of its affinity, at most what its cgroups grant.

    A container with a quota of 1.5 processors counts as 2: a thread more than the quota waits, and a thread less
    wastes a part of it.
    """
    return max(1, math.ceil(min([affinity(), *map(quota, cgroups(CGROUPS))])))


def affinity() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> tuple[float, float]:
    """Processor seconds so far, of all programs on the processors that this process may use, and of this process."""
    import psutil

    own, times = psutil.Process(), psutil.cpu_times(percpu=True)
    allowed = set(own.cpu_affinity()) if hasattr(own, "cpu_affinity") else set(range(len(times)))
    idle = [each.idle + getattr(each, "iowait", 0.0) for each in times]
    by_all = sum(sum(each[:8]) - rest for i, (each, rest) in enumerate(zip(times, idle, strict=True)) if i in allowed)
    taken = own.cpu_times()
    return by_all, taken.user + taken.system


def free_memory() -> int:
    """Bytes that this process may still take: those that are free, at most what its cgroups leave."""
    import psutil

    return int(min([psutil.virtual_memory().available, *map(memory_left, cgroups(CGROUPS))]))


def memory_left(cgroup: Path) -> float:
    """Bytes that one cgroup leaves, files in its cache counted as free; infinite if it has no limit."""

    def read(*names: str) -> str:  # of version 2, or of 1
        return next(path.read_text(encoding="utf-8") for name in names if (path := cgroup / name).is_file()).strip()

    try:
        limit = read("memory.max", "memory.limit_in_bytes")
        used = int(read("memory.current", "memory.usage_in_bytes"))
        counts = dict(line.split(" ") for line in read("memory.stat").splitlines())
    except (OSError, ValueError, StopIteration):
        return math.inf
    cached = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
    return math.inf if limit == "max" else max(0, int(limit) - used + cached)


def cgroups(root: Path) -> list[Path]:
    """The folders of this process's cgroups and of those above them, versions 1 and 2; none where there are none."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        mounted = root / controllers
        below = mounted / path.lstrip("/")
        folders += [below, *(parent for parent in below.parents if parent.is_relative_to(mounted))]
    return folders


def quota(cgroup: Path) -> float:
    """Processors that one cgroup grants; infinite if it does not say."""
    try:
        granted, period = (cgroup / "cpu.max").read_text(encoding="utf-8").split()  # version 2
    except (OSError, ValueError):
        try:
            granted, period = (
                (cgroup / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
            )
        except OSError:
            return math.inf
    return int(granted) / int(period) if granted.strip() not in ("max", "-1") else math.inf
