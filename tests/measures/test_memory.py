"""Memory of measures that look at a matrix part by part, in a process that keeps what it frees."""

import platform
import subprocess
import sys

import pytest

PARTS = """
import torch
from vaekit.measures import copying, distances, twins
from vaekit.system.process import own_process

def own_mib():
    return next(int(line.split()[1]) / 2**10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

own_process("cpu")
torch.set_num_threads(1)
distances.CHUNK = copying.AT_ONCE = twins.AT_ONCE = 50
x = torch.rand(10_000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
kinds = {
    "copies": lambda count: copying.nearest(x[:count], x),
    "twins": lambda count: [same.any(1) for _, same in twins.near(x[:count], x)],
    "neighbours": lambda count: distances.reach(x[:count], 5),
}
kinds["{kind}"](200)
before = own_mib()
kinds["{kind}"](4_000)
print(own_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
@pytest.mark.parametrize("kind", ["copies", "twins", "neighbours"])
def test_twenty_times_the_parts_take_hardly_more_memory(kind):
    command = [sys.executable, "-c", PARTS.replace("{kind}", kind)]
    grown = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    part = 50 * 10_000 * 8 / 2**20
    assert grown < 8 * part  # all 80 of them are 122 MiB or more
