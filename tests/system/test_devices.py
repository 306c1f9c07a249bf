"""Devices and processes that there are not, and flags of torch that belong to the caller."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from vaekit.commands.bench import bench
from vaekit.commands.compare import compare
from vaekit.commands.draw import draw_run
from vaekit.commands.evaluate import evaluate_run
from vaekit.commands.sample import sample_run
from vaekit.config.presets import preset
from vaekit.system.devices import make_fabric, own_threads, precision_here, resolve_precision

DIGITS = """
import torch, warnings
from vaekit.system.devices import float32_products
{before}
def read(get):
    try:
        return get()
    except RuntimeError:  # set by the new name, and so not to be read by the old one
        return "unreadable"
def now():
    new = hasattr(torch.backends.cuda.matmul, "fp32_precision")
    values = [read(torch.get_float32_matmul_precision), read(lambda: torch.backends.cudnn.allow_tf32)]
    places = [torch.backends.cuda.matmul, torch.backends.cudnn.conv] if new else []
    return values + [place.fp32_precision.replace("none", "ieee") for place in places]  # as good as nothing said
WHOLE, COARSE = ("highest", False, "ieee", "unreadable"), ("high", True, "tf32", "unreadable")
before = now()
for tf32 in (True, False):
    try:
        with float32_products(tf32), warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            warnings.warn("heard")
            assert set(now()) <= set(COARSE if tf32 else WHOLE), (now(), tf32)
            assert any(str(warning.message) == "heard" for warning in heard)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert now() == before, (now(), before)
"""


@pytest.mark.parametrize(
    "before",
    [
        "",
        "torch.set_float32_matmul_precision('medium')",
        "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    ],
)
def test_the_digits_of_float32_are_as_before_afterwards_also_after_an_error(before):
    """In a process of its own, since torch remembers by which of its two names a setting was made."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", DIGITS.format(before=before)], check=True)


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_precisions_of_cuda_are_refused_elsewhere_and_measured_with_what_there_is(precision):
    with pytest.raises(ValueError, match=f"{precision} needs a CUDA device"):
        resolve_precision("cpu", precision)
    assert precision_here(precision) in ("fp32", "bf16", "fp16")
    assert precision_here("tf32") == "fp32"


def test_more_gpus_than_there_are_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="2 cuda devices here, 4 asked for; give --devices 2"):
        make_fabric("cuda", 4, "fp32", 8)


def test_a_notebook_is_told_where_several_processes_can_be_started(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="a notebook or prompt cannot start several processes"):
        make_fabric("cpu", 2, "fp32", 8)


@pytest.mark.parametrize(
    "command",
    [
        lambda: evaluate_run("run"),
        lambda: sample_run("run"),
        lambda: draw_run("run"),
        lambda: compare(preset("fast"), "photos"),
        lambda: bench(preset("fast")),
    ],
)
def test_commands_that_each_rank_would_do_in_full_are_refused_under_torchrun(monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="works in one process, and this is one of several"):
        command()


def test_more_threads_than_processors_are_refused():
    with pytest.raises(ValueError, match=r"100000 threads on .* give --threads"), own_threads(100_000):
        pass


@pytest.mark.parametrize("told", [None, "5"])
def test_threads_that_were_asked_for_are_used_and_those_of_the_caller_come_back(monkeypatch, told):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: before + 1)
    with suppress(KeyboardInterrupt), own_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert os.environ["OMP_NUM_THREADS"] == str(before + 1)  # which Fabric and other ranks keep to
        raise KeyboardInterrupt
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == (before, told)
    with own_threads(None):
        assert torch.get_num_threads() == before
        torch.set_num_threads(before + 1)  # as a run does beside busy programs
    assert torch.get_num_threads() == before
