"""How many processors may be used, and what threads do while they wait."""

import ast
import os
import subprocess
import sys
import time

import pytest

from vaekit.data import cache
from vaekit.system import processors as module
from vaekit.system.processors import (
    TOLD,
    WAITING,
    cgroups,
    free_memory,
    load,
    memory_left,
    processors,
    quota,
)


def cgroup(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({"cpu__max": "150000 100000\n"}, 1.5),
        ({"cpu__max": "max 100000\n"}, float("inf")),
        ({"cpu__cfs_quota_us": "50000\n", "cpu__cfs_period_us": "100000\n"}, 0.5),
        ({"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_what_a_cgroup_grants_is_read_in_both_versions(tmp_path, files, granted):
    assert quota(cgroup(tmp_path, **files)) == granted


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory__max": "1000\n", "memory__current": "700\n", "memory__stat": "anon 500\ninactive_file 200\n"}, 500),
        ({"memory__max": "max\n", "memory__current": "700\n", "memory__stat": "inactive_file 200\n"}, float("inf")),
        (
            {
                "memory__limit_in_bytes": "1000\n",
                "memory__usage_in_bytes": "700\n",
                "memory__stat": "inactive_file 1\ntotal_inactive_file 100\n",
            },
            400,
        ),
        ({"memory__max": "1000\n", "memory__current": "1200\n", "memory__stat": "inactive_file 0\n"}, 0),
        ({}, float("inf")),
    ],
)
def test_memory_is_what_a_cgroup_leaves_with_its_cached_files(tmp_path, files, left):
    assert memory_left(cgroup(tmp_path, **files)) == left


def test_free_memory_is_the_least_of_all_limits(tmp_path, monkeypatch):
    inner = cgroup(tmp_path, memory__max="5000", memory__current="1000", memory__stat="inactive_file 0")
    monkeypatch.setattr(module, "cgroups", lambda root: [tmp_path / "none", inner])
    assert free_memory() == 4000


@pytest.mark.parametrize(("granted", "expected"), [("50000 100000", 1), ("250000 100000", 3), ("max 100000", 8)])
def test_processors_are_those_of_the_affinity_within_what_any_cgroup_above_grants(
    tmp_path, monkeypatch, granted, expected
):
    outer = cgroup(tmp_path / "outer", cpu__max=granted)
    inner = cgroup(outer / "inner", cpu__max="max 100000")
    monkeypatch.setattr(module, "cgroups", lambda root: [inner, outer])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert processors() == expected


def test_the_cgroups_of_a_process_are_its_own_and_all_above(tmp_path, monkeypatch):
    monkeypatch.setattr(module.Path, "read_text", lambda path, encoding: "4:cpu,cpuacct:/a/b\n0::/c\n")
    found = cgroups(tmp_path)
    assert [tmp_path / "cpu,cpuacct" / "a" / "b", tmp_path / "cpu,cpuacct" / "a", tmp_path / "cpu,cpuacct"] == found[:3]
    assert found[3:] == [tmp_path / "c", tmp_path]


def test_pictures_are_decoded_by_as_many_threads_as_may_run(photos, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cache, "processors", lambda: 3)
    monkeypatch.setattr(cache, "build", lambda entry, request, workers, progress: asked.append(workers))
    with pytest.raises(AssertionError):
        cache.prepare(photos, 16, 16, 3, tmp_path)
    assert asked == [3]


def test_the_load_of_this_process_is_part_of_that_of_all():
    before, started = load(), time.process_time()
    while time.process_time() - started < 0.5:
        pass
    by_all, by_us = (after - earlier for after, earlier in zip(load(), before, strict=True))
    assert by_us >= 0.4
    assert by_all >= by_us - 0.3  # counted in hundredths of a second, on each processor


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_command_uses_no_more_threads_than_it_has_processors():
    """torch counts the cores of the machine, or what its OpenMP was told at the start."""
    program = (
        "import torch, os; os.environ.pop('OMP_NUM_THREADS', None); torch.set_num_threads(4);"
        "from vaekit.system.process import own_process; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "own_process('cpu'); print(torch.get_num_threads())"
    )
    assert run_python(program).split() == ["1"]


@pytest.mark.parametrize(
    ("given", "program", "told"),
    [
        ({}, "import vaekit", WAITING),
        ({}, "import vaekit.cli", WAITING),
        ({}, "import torch, vaekit", {}),
        ({"OMP_WAIT_POLICY": "active"}, "import vaekit", {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, "import vaekit", {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_are_told_how_to_wait_before_torch_is_loaded_unless_the_user_has(given, program, told):
    printed = run_python(f"{program}; import os; print({{n: os.environ[n] for n in {TOLD} if n in os.environ}})", given)
    assert ast.literal_eval(printed) == told


def run_python(program, environment=None):
    """What a program prints in a process of its own, which nothing tells how its threads wait."""
    clean = {name: value for name, value in os.environ.items() if name not in TOLD}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | (environment or {}), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout
