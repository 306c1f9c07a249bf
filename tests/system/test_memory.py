"""Memory that is freed and needed again."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from vaekit import preset
from vaekit.system.devices import make_fabric
from vaekit.measures.features import load_extractor

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults_of_a_step() for _ in range(40)))
{begin}
print(min(faults_of_a_step() for _ in range(40)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
@pytest.mark.parametrize("begin", ['make_fabric(preset("fast", device="cpu"))', 'load_extractor("efficientnet-lite0")'])
def test_memory_that_a_step_frees_is_there_for_the_next_step(begin):
    """The pages of a tensor of 64 MiB are faulted in each time before, and after a few times no longer afterwards."""
    command = [sys.executable, "-c", STEPS.replace("{begin}", begin)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    before, after = (int(line) for line in finished.stdout.split())
    assert before >= 32  # of 2 MiB at most
    assert after == 0
