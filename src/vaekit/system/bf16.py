"""How fast this processor is in bf16, as measured: some have its instructions, and are faster without."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn.functional import conv2d

WORTH = 1.25  # times as fast as fp32, for which bf16 gives up digits
TURNS = 3


@cache
def bf16_gain() -> float:
    """How many times as fast as in fp32 a convolution is in bf16 on the CPU, forwards and backwards; half a second.

    Measured once in a process, with the threads that torch has then; the two take turns, and the best of each counts.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(16, 64, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.ones(64, 64, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()

        def seconds(bf16: bool) -> float:
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                y = conv2d(x, weight, padding=1)
            y.sum().backward()
            return time.perf_counter() - started

        for bf16 in (False, True):  # makes the kernels
            seconds(bf16)
        turns = [(seconds(False), seconds(True)) for _ in range(TURNS)]
    fp32, bf16_sec = (min(times) for times in zip(*turns, strict=True))
    return fp32 / bf16_sec
