"""Kills, full disks and damaged files: the files left are whole, and the run goes on to the same end."""

import dataclasses
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from vaekit import VAE, train
from vaekit.cli import run as command
from vaekit.config.settings import Config
from vaekit.data.sources.folder import OUTPUT_MARK
from vaekit.runs import checkpoint
from vaekit.runs.lock import LOCK_FILE, claimed
from vaekit.runs.log import read_records
from vaekit.system.files import read_tensors
from vaekit.system.process import without_tensorboard
from vaekit.training.state import build_state, fabric_of

children = multiprocessing.get_context("forkserver")  # whose server has imported everything when a child starts
children.set_forkserver_preload(["pytest", "vaekit.cli", "vaekit.commands.train", "vaekit.commands.fit_prior"])

ALWAYS = 1e-9  # minutes: save after every step
FLAGS = (
    "--size 16 --batch 4 --device cpu --precision fp32 --draws 1 --log-every-steps 1 --discriminator.start 0.3 "
    "--network.latent-dim 16 --network.channels 8 --network.max-channels 16 --discriminator.channels 8 8 8 8 8"
).split()
NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture(scope="module")
def config(tiny):
    """Six steps, saved after each, the discriminator from the third on; an epoch is four steps."""
    discriminator = dataclasses.replace(tiny.discriminator, start=0.3)
    return dataclasses.replace(tiny, save_every_minutes=ALWAYS, discriminator=discriminator)


@pytest.fixture(scope="module")
def undisturbed(config, photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(config, photos, run)
    return run


@pytest.fixture(scope="module")
def killed(config, photos, tmp_path_factory):
    """A run that was killed just before its fifth checkpoint was renamed into place."""
    run = tmp_path_factory.mktemp("killed") / "run"
    process = in_child(go_on, config, photos, run, 5)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return run


def in_child(function, *arguments):
    process = children.Process(target=function, args=(os.environ["VAEKIT_CACHE"], *arguments))
    process.start()
    return process


def go_on(cache, config, photos, run, killed_at=math.inf):
    """Train, or go on where there is a checkpoint; be killed before that of step `killed_at` is renamed."""

    def die(event, arguments):
        if event == "os.rename" and Path(arguments[1]).name.isdecimal() and int(Path(arguments[1]).name) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    os.environ["VAEKIT_CACHE"] = cache
    torch.set_num_threads(1)
    sys.addaudithook(die)
    train(config, photos, run, resume=bool(checkpoint.all_checkpoints(run)))


def losses(run):
    """Every record of the log, without the values that depend on the clock."""
    clocks = ("elapsed_sec", "images_per_sec")
    return [{name: value for name, value in r.items() if name not in clocks} for r in read_records(run)]


def same_end(run, other):
    """Assert that logs and last checkpoints agree: networks, average, both optimisers, counters, to the last bit."""
    newest, others = checkpoint.latest(run), checkpoint.latest(other)
    assert sorted(os.listdir(newest)) == sorted(os.listdir(others))
    for file in (path.name for path in newest.glob("*.safetensors")):
        ours, theirs = (read_tensors(folder / file)[0] for folder in (newest, others))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs), file
    ours, theirs = (torch.load(folder / "optimizers.pt", weights_only=True) for folder in (newest, others))
    for name in ("vae", "discriminator"):
        assert ours[name]["param_groups"] == theirs[name]["param_groups"]
        for mine, other_one in zip(ours[name]["state"].values(), theirs[name]["state"].values(), strict=True):
            assert all(torch.equal(mine[moment], other_one[moment]) for moment in mine | other_one), name
    ours, theirs = (checkpoint.counters(folder) for folder in (newest, others))
    assert ours | {"elapsed_sec": 0} == theirs | {"elapsed_sec": 0}
    assert losses(run) == losses(other)
    weights = VAE.from_pretrained(run).state_dict()
    assert all(torch.equal(weights[name], t) for name, t in VAE.from_pretrained(other).state_dict().items())
    return True


def leftovers(run):
    return [path for path in run.rglob(".*") if path.name not in (OUTPUT_MARK, LOCK_FILE)]


def test_six_steps_are_three_a_kill_and_three(config, photos, undisturbed, tmp_path):
    process = in_child(go_on, config, photos, tmp_path / "run", 4)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint.latest(tmp_path / "run").name == "000000003"  # in the middle of an epoch
    train(config, photos, tmp_path / "run", resume=True)
    assert same_end(tmp_path / "run", undisturbed)
    assert not leftovers(tmp_path / "run")


def test_a_run_killed_again_and_again_is_the_undisturbed_one(config, photos, tmp_path):
    """Each time at a random moment: a quarter while it starts, the others in the steps and savings after that."""
    chance = random.Random(0)
    config = dataclasses.replace(config, images=60 * 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(dataclasses.replace(config, save_every_minutes=10.0), photos, whole)
    log, start_sec = broken / "log.jsonl", 0.0
    for _ in range(8):
        before = log.stat().st_mtime_ns if log.exists() else 0
        started_at = time.monotonic()
        process = in_child(go_on, config, photos, broken)
        if chance.random() < 0.75:
            while process.is_alive() and (not log.exists() or log.stat().st_mtime_ns == before):
                time.sleep(0.001)
            start_sec = min(0.5, time.monotonic() - started_at)
        time.sleep(chance.uniform(0, start_sec))
        process.kill()  # SIGKILL
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)  # 0: on a fast machine it may be done before the last kill
        assert all(checkpoint.problem(folder) is None for folder in checkpoint.all_checkpoints(broken))
        if (broken / "model.safetensors").exists():
            VAE.from_pretrained(broken)
    train(config, photos, broken, resume=bool(checkpoint.all_checkpoints(broken)))
    assert same_end(broken, whole)
    assert [r["step"] for r in read_records(broken) if "l1" in r] == list(range(1, 61))
    assert not leftovers(broken)


def truncate(folder):
    path = folder / "optimizers.pt"
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(folder):
    path = folder / "vae.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 16
    path.write_bytes(content)


def put_another_runs(folder):
    other = dataclasses.replace(checkpoint.read_checkpoint_config(folder), lr=0.5)
    state = build_state(fabric_of(other), other)
    state.counters["step"] = 4
    shutil.rmtree(folder)
    checkpoint.save_checkpoint(state, folder.parent.parent, other)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "damaged: its files do not match SHA256SUMS"),
        (flip_a_bit, "damaged: its files do not match SHA256SUMS"),
        (put_another_runs, f"of another run, with lr 0.5 instead of {Config().lr}"),
    ],
)
def test_the_checkpoint_before_a_damaged_one_is_used(
    config, photos, killed, undisturbed, tmp_path, capsys, damage, reason
):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    damage(run / "checkpoints" / "000000004")
    train(config, photos, run, resume=True)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line and "checkpoint" in line]
    assert len(warnings) == 1
    assert f"000000004 is {reason}; going on from {run / 'checkpoints' / '000000003'}" in warnings[0]
    assert same_end(run, undisturbed)


def test_without_a_whole_checkpoint_there_is_no_going_on(config, photos, killed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    for folder in checkpoint.all_checkpoints(run):
        truncate(folder)
    before = sorted(run.rglob("*"))
    with pytest.raises(ValueError, match=r"no checkpoint to go on from: .*000000004 is damaged.*; .*000000003 is dam"):
        train(config, photos, run, resume=True)
    assert sorted(run.rglob("*")) == before


class Said:
    """A stderr that writes to a queue, not to a disk, and lifts the limit on the size of files after some warnings."""

    def __init__(self, queue, warnings):
        self.queue, self.warnings = queue, warnings

    def write(self, text):
        self.queue.put(text)
        self.warnings -= "WARNING: could not save" in text
        if self.warnings == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (NO_LIMIT, NO_LIMIT))

    def flush(self):
        pass


def lines_of(queue):
    """What was written to it so far."""
    text = ""
    while not queue.empty():
        text += queue.get()
    return text.splitlines()


def on_a_full_disk(cache, photos, run, step, warnings, said):
    """Train while files are limited to 1,000 bytes, from the checkpoint of `step` on until so many `warnings`."""

    def limit(event, arguments):
        if event == "os.mkdir" and str(arguments[0]).endswith(f".{step:09d}.unfinished"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, NO_LIMIT))

    os.environ["VAEKIT_CACHE"] = cache
    torch.set_num_threads(1)
    sys.stderr = Said(said, warnings)
    sys.addaudithook(limit)
    sys.exit(command(["train", str(photos), *FLAGS, f"--save-every-minutes={ALWAYS}", "--images=24", f"--out={run}"]))


def test_a_disk_that_is_full_for_a_while_costs_only_warnings(config, photos, undisturbed, tmp_path):
    run, said = tmp_path / "run", children.SimpleQueue()
    process = in_child(on_a_full_disk, photos, run, 2, 3, said)
    process.join()
    lines = lines_of(said)
    assert process.exitcode == 0
    warnings = [line for line in lines if "WARNING" in line and "save" in line]
    assert len(warnings) == 3
    for step, line in enumerate(warnings, start=2):
        assert line.startswith(f"WARNING: could not save step {step} of {run}: ")
        assert "File too large" in line
        assert line.endswith("training goes on, and tries again later")
    assert same_end(run, undisturbed)
    assert not leftovers(run)


def test_a_disk_that_stays_full_is_one_line_at_the_end_and_the_old_checkpoints_stay(
    config, photos, undisturbed, tmp_path
):
    run, said = tmp_path / "run", children.SimpleQueue()
    process = in_child(on_a_full_disk, photos, run, 5, math.inf, said)
    process.join()
    assert process.exitcode == 2
    lines = lines_of(said)
    assert not [line for line in lines if "Traceback" in line]
    last = lines[-1]
    assert last.startswith(f"vaekit: could not save step 6 of {run}: ")
    assert "File too large" in last
    assert [folder.name for folder in checkpoint.all_checkpoints(run)] == ["000000003", "000000004"]
    assert checkpoint.latest(run).name == "000000004"
    VAE.from_pretrained(run)
    assert not leftovers(run)
    train(config, photos, run, resume=True)
    assert same_end(run, undisturbed)


def test_an_error_in_another_thread_is_told_as_ever():
    told, error = [], OSError("no space left")
    args = threading.ExceptHookArgs((OSError, error, None, threading.Thread()))
    without_tensorboard(told.append, args)
    assert told == [args]


def test_a_second_process_in_the_folder_of_a_run_is_refused_in_one_line(config, photos, tmp_path):
    run = tmp_path / "run"
    with claimed(run, first=True), pytest.raises(ValueError, match=r"another process is training .*run; wait"):
        train(config, photos, run)
    assert not (run / "config.json").exists()
    train(config, photos, run)


def test_sigterm_saves_and_the_printed_command_goes_on(photos, tmp_path):
    run = tmp_path / "a run"
    arguments = [sys.executable, "-m", "vaekit", "train", str(photos), *FLAGS, "--images", "400", "--out", str(run)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path}
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    while len(read_records(run)) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert len(read_records(run)) < 100
    (printed,) = re.findall(r"^stopped and saved; go on with: (.*)$", errors, re.MULTILINE)
    subprocess.run(printed, shell=True, check=True, capture_output=True, env=environment)
    train(checkpoint.read_checkpoint_config(checkpoint.latest(run)), photos, tmp_path / "whole")
    assert same_end(run, tmp_path / "whole")
