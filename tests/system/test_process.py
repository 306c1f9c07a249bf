"""What vaekit's commands change in their process, and what vaekit as a library does not change."""

import platform
import subprocess
import sys
import threading

import pytest

from vaekit.system.process import import_blocked, own_process

STEPS = """
import resource, torch
from vaekit import preset
from vaekit.training.state import fabric_of
from vaekit.measures.features import load_extractor
from vaekit.system.process import own_process

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults_of_a_step() for _ in range(40)))
{begin}
print(min(faults_of_a_step() for _ in range(40)))
"""


LIBRARY = """
import sys, threading
excepthook = threading.excepthook
import vaekit
from vaekit.measures.features import load_extractor
vaekit.bench(vaekit.preset("fast", size=8, batch=2, device="cpu"), seconds=0.0)
load_extractor("efficientnet-lite0")
assert threading.excepthook is excepthook
assert None not in sys.modules.values()
"""


def faults(begin):
    """Pages faulted in by a tensor of 64 MiB, at best, before `begin` and after it."""
    command = [sys.executable, "-c", STEPS.replace("{begin}", begin)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [int(line) for line in finished.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_a_process_of_ours_keeps_what_a_step_frees_for_the_next_step():
    before, after = faults('own_process("cpu")')
    assert before >= 32  # of 2 MiB at most
    assert after == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
@pytest.mark.parametrize("begin", ['fabric_of(preset("fast", device="cpu"))', 'load_extractor("efficientnet-lite0")'])
def test_the_memory_of_a_callers_process_stays_as_its_owner_has_it(begin):
    before, after = faults(begin)
    assert min(before, after) >= 32


def test_training_and_measuring_from_python_leave_hooks_and_modules_alone():
    subprocess.run([sys.executable, "-W", "ignore", "-c", LIBRARY], check=True)


def test_a_process_is_made_ours_once(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    own_process("cpu")
    ours = threading.excepthook
    own_process("cpu")
    assert threading.excepthook is ours


def test_a_package_that_is_blocked_can_be_imported_afterwards():
    with import_blocked("calendar_that_is_not_there"):
        assert sys.modules["calendar_that_is_not_there"] is None
    assert "calendar_that_is_not_there" not in sys.modules
    with import_blocked("json"):
        import json  # it is there already, and stays

        assert json is not None
