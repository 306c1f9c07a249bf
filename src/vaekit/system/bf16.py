"""How fast this processor is in bf16, as measured: some have its instructions, and are faster without."""

from __future__ import annotations

import math
import os
import time

import torch
from torch.nn.functional import conv2d

WORTH = 1.25  # times as fast as fp32, for which bf16 gives up digits
TURNS, HOPELESS = 20, 5.0  # times as long: then one turn tells enough
GAIN = "VAEKIT_BF16_GAIN"  # in the environment: what was measured, for the processes that this one starts


def bf16_gain() -> float:
    """How many times as fast as in fp32 a convolution is in bf16 on the CPU, forwards and backwards.

    Measured once, in a tenth of a second, for this process and those that it starts: by one thread in pieces that are
    shorter than what a scheduler gives, in turns, of which the fastest counts, so that a busy machine says the same.
    """
    if GAIN not in os.environ:
        os.environ[GAIN] = f"{measured():.3g}"
    return float(os.environ[GAIN])


def measured() -> float:
    """See `bf16_gain`; here and now."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x, weight = (
                torch.ones(shape, dtype=torch.float32, device="cpu").to(memory_format=torch.channels_last)
                for shape in ((4, 64, 16, 16), (64, 64, 3, 3))
            )
            leaves = x.requires_grad_(), weight.requires_grad_()
            for bf16 in (False, True):  # makes the kernels
                seconds(*leaves, bf16=bf16)
            fp32_sec = bf16_sec = math.inf
            for _ in range(TURNS):
                fp32_sec = min(fp32_sec, seconds(*leaves, bf16=False))
                bf16_sec = min(bf16_sec, seconds(*leaves, bf16=True))
                if bf16_sec > HOPELESS * fp32_sec:
                    break
    finally:
        torch.set_num_threads(threads)
    return fp32_sec / bf16_sec


def seconds(x: torch.Tensor, weight: torch.Tensor, *, bf16: bool) -> float:
    """The time of one convolution, forwards and backwards."""
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = conv2d(x, weight, padding=1)
    y.sum().backward()
    return time.perf_counter() - started
