"""Devices and processes that there are not, and flags of torch that belong to the caller."""

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
from vaekit.system.devices import float32_products, make_fabric, precision_here, resolve_precision, use_threads

PLACES = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.mark.parametrize("tf32", [True, False])
def test_the_digits_of_float32_are_as_before_afterwards_also_after_an_error(tf32):
    with float32_products():  # which puts back what this test sets
        for place, value in zip(PLACES, (True, False), strict=True):
            place.allow_tf32 = value
        with suppress(KeyboardInterrupt), float32_products(tf32):
            assert [place.allow_tf32 for place in PLACES] == [tf32, tf32]
            raise KeyboardInterrupt
        assert [place.allow_tf32 for place in PLACES] == [True, False]


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
    with pytest.raises(ValueError, match="works in one process; start it without torchrun"):
        command()


def test_threads_that_were_asked_for_are_used_and_left_alone_by_fabric(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
