"""Ranks that die, are stopped or interrupted, under both launchers: no other waits for them, nothing is lost."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vaekit import VAE
from vaekit.runs.checkpoint import all_checkpoints
from vaekit.runs.log import read_records

SCRIPT = """
import os, pathlib, signal, sys, time, vaekit

def fail(*signal):
    raise RuntimeError("out of memory")

signal.signal(signal.SIGUSR1, fail)
signal.signal(signal.SIGUSR2, lambda *signal: time.sleep(1e6))  # as a rank waits for another on CUDA
folder, photos = map(pathlib.Path, sys.argv[1:])
(folder / f"pid-{os.environ.get('LOCAL_RANK', 0)}").write_text(str(os.getpid()))
vaekit.train(vaekit.Config.from_json((folder / "config.json").read_text()), photos, folder / "run")
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LAUNCHERS = {"devices": [sys.executable], "torchrun": TORCHRUN}
END_SEC = 300  # far more than it takes, and far less than the half hour after which a process group gives up


class Run:
    """Two ranks that train for ever, started by `--devices 2` or by torchrun in a process group of their own."""

    def __init__(self, launcher, config, photos, folder):
        self.folder = folder
        config = dataclasses.replace(config, images=10**9, devices=2 if launcher == "devices" else 1)
        (folder / "config.json").write_text(config.to_json())
        (folder / "train.py").write_text(SCRIPT)
        command = [*LAUNCHERS[launcher], str(folder / "train.py"), str(folder), str(photos)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.output = (folder / "output").open("w+")
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=self.output, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 3 * END_SEC
        while len(read_records(folder / "run")) < 3:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        self.ranks = [int((folder / f"pid-{rank}").read_text()) for rank in range(2)]

    def wait(self):
        """The exit status of the launcher, when all ranks have ended too."""
        status = self.process.wait(END_SEC)
        deadline = time.monotonic() + END_SEC
        while any(map(is_alive, self.ranks)):
            assert time.monotonic() < deadline, "a rank is left behind"
            time.sleep(0.05)
        return status

    def said(self):
        self.output.seek(0)
        return self.output.read()

    def end(self):
        for pid in (*self.ranks, self.process.pid):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()


def is_alive(pid):
    """Whether a process runs; a zombie, which has ended and whose parent has not asked for its status, does not."""
    try:
        os.kill(pid, 0)
        return not Path("/proc/self").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.fixture
def start(tiny, photos, tmp_path):
    runs = []

    def start(launcher):
        runs.append(Run(launcher, tiny, photos, tmp_path))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


def test_a_rank_that_waits_in_vain_ends_with_the_process_that_started_it(start):
    run = start("devices")
    os.kill(run.ranks[1], signal.SIGUSR2)
    os.kill(run.ranks[0], signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL


def test_all_end_with_a_rank_that_fails_and_its_error_is_shown(start):
    run = start("devices")
    os.kill(run.ranks[1], signal.SIGUSR1)
    assert run.wait() != 0
    assert "RuntimeError: out of memory" in run.said()


def test_all_end_with_a_rank_that_is_killed_under_torchrun(start):
    run = start("torchrun")
    os.kill(run.ranks[0], signal.SIGKILL)
    assert run.wait() != 0


@pytest.mark.parametrize(("launcher", "send"), [("devices", os.kill), ("torchrun", os.killpg)])
def test_ranks_that_are_asked_to_stop_save_once_and_end(start, launcher, send):
    """SIGTERM to the one process that was started, and Ctrl-C, which goes to the whole group."""
    run = start(launcher)
    send(run.process.pid, signal.SIGTERM if send is os.kill else signal.SIGINT)
    run.wait()
    assert run.said().count("stopped and saved") == 1
    assert len(all_checkpoints(run.folder / "run")) == 1
    VAE.from_pretrained(run.folder / "run")
