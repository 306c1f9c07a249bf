"""The precision of a CPU is the one that it is faster in, as measured, and measuring it leaves nothing behind."""

import os
import subprocess
import sys

import pytest
import torch

from vaekit.commands.summary import precision_of
from vaekit.config.settings import Config
from vaekit.system import devices
from vaekit.system.bf16 import GAIN, bf16_gain


@pytest.fixture
def gain(monkeypatch):
    def is_now(value):
        for place in ("vaekit.system.devices", "vaekit.commands.summary"):
            monkeypatch.setattr(f"{place}.bf16_gain", lambda: value)

    return is_now


@pytest.mark.parametrize(
    ("measured", "chosen", "said"),
    [
        (2.5, "bf16", "bf16 (fp32 takes 2.5 times as long here)"),
        (1.1, "fp32", "fp32 (bf16 takes 0.9 times as long here)"),  # not worth the digits
        (0.5, "fp32", "fp32 (bf16 takes 2.0 times as long here)"),
    ],
)
def test_auto_is_what_was_measured_whatever_instructions_there_are(gain, monkeypatch, measured, chosen, said):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    gain(measured)
    assert devices.resolve_precision("cpu", "auto") == chosen
    assert precision_of(Config(device="cpu"), "cpu") == said


def test_a_precision_that_was_asked_for_needs_no_measure(monkeypatch):
    def refuse():
        raise AssertionError("it was measured")

    for place in ("vaekit.system.devices", "vaekit.commands.summary"):
        monkeypatch.setattr(f"{place}.bf16_gain", refuse)
    assert devices.resolve_precision("cpu", "bf16") == "bf16"
    assert precision_of(Config(device="cpu", precision="bf16"), "cpu") == "bf16"


def test_measuring_works_anywhere_once_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.delenv(GAIN, raising=False)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        first = bf16_gain()
    assert 0 < first < 1000
    assert bf16_gain() == first
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_processes_that_are_started_take_what_was_measured():
    code = "import os; from vaekit.system.bf16 import bf16_gain; print(bf16_gain())"
    told = subprocess.run([sys.executable, "-c", code], env=os.environ | {GAIN: "7.5"}, capture_output=True, text=True)
    assert told.stdout.strip() == "7.5"
