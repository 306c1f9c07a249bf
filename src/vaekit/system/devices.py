"""Devices, precision and ranks, through Lightning Fabric."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from vaekit.system.bf16 import WORTH, bf16_gain

PRECISIONS = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
CUDA_ALONE = ("fp16", "tf32")  # losses cannot be scaled elsewhere, and there is no such unit
BACKENDS = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # for tensors on the CPU and on the GPU
WATCH_SEC = 1.0


def make_fabric(device: str, devices: int, precision: str, batch_size: int) -> Fabric:
    """Devices, precision and ranks; under torchrun, the ranks are those of its environment variables.

    `device` is "auto" or the name of one, `devices` the processes on this machine, `precision` as `resolve_precision`
    takes it and `batch_size` the images of a step that the ranks share. `launch` starts the other processes, after the
    first one has made all checks that need no other process. Raises `ValueError` for devices that are not here, for
    a batch that cannot be shared evenly, and for several processes in a notebook, which cannot start them.
    """
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    ranks = int(os.environ.get("WORLD_SIZE", devices))
    if batch_size % ranks:
        raise ValueError(f"batch {batch_size} cannot be shared evenly by {ranks} processes")
    accelerator = available(device)
    check_count(accelerator, ranks_here)
    if ranks > 1 and "LOCAL_RANK" not in os.environ and hasattr(sys, "ps1"):
        raise ValueError(
            "a notebook or prompt cannot start several processes; train with `vaekit train --devices` or torchrun "
            "from a terminal, or on one device"
        )
    return Fabric(
        accelerator=accelerator,
        devices=ranks_here,
        num_nodes=ranks // ranks_here,
        strategy=DDPStrategy(process_group_backend=BACKENDS) if ranks > 1 else "auto",
        precision=PRECISIONS[resolve_precision(device, precision)],  # type: ignore[arg-type]
    )


def launch(fabric: Fabric) -> None:
    """Start the other processes of this machine, unless a launcher has, and meet the ranks of all machines."""
    if os.environ.get("LOCAL_RANK", "0") != "0" or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())  # the first process where it started the others, else torchrun
    fabric.launch()
    atexit.register(leave_ranks)


def leave_ranks() -> None:
    """Leave the process group while Python still runs: resources that gloo holds at the end may abort the process."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_with(launcher: int) -> None:
    """End this process soon after its launcher ends: on CUDA it would otherwise wait half an hour for lost ranks."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(WATCH_SEC)
        os._exit(1)  # not sys.exit: the main thread may be waiting in a collective

    threading.Thread(target=watch, daemon=True, name="end-with-launcher").start()


def check_count(device: str, count: int) -> None:
    """Raise `ValueError` if there are fewer than `count` devices of a kind here."""
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, count)
    if count > there:
        have = f"{there} {device} device{'s' if there > 1 else ''}"
        raise ValueError(f"{have} here, {count} asked for; give --devices {there}, or --device cpu")


def limit_threads(limit: int) -> None:
    """Let torch use at most so many threads in this process, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ and limit < torch.get_num_threads():
        torch.set_num_threads(limit)
        os.environ["OMP_NUM_THREADS"] = str(limit)  # Fabric, and the processes that it starts, keep to it


def available(device: str) -> str:
    """The device asked for, or the first there is. Raises `ValueError` if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [name for name, is_there in there.items() if is_there]
    if device != "auto" and device not in present:
        raise ValueError(f"no {device} device here; choose --device {' or '.join(present)}")
    return present[0] if device == "auto" else device


def resolve_precision(device: str, precision: str) -> str:
    """`precision`, and for "auto" bf16 on a GPU that has it and on a CPU that is faster in it, as measured, else fp32.

    Raises `ValueError` for a device that is not here, and for fp16 and tf32 without CUDA.
    """
    device = available(device)
    if precision in CUDA_ALONE and device != "cuda":
        raise ValueError(f"{precision} needs a CUDA device, this is {device}; choose --precision bf16 or fp32")
    if precision != "auto":
        return precision
    prefers_bf16 = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: bf16_gain() >= WORTH,
        "mps": lambda: False,
    }
    return "bf16" if prefers_bf16[device]() else "fp32"


def precision_here(precision: str, device: str = "auto") -> str:
    """The precision of a run on a device of this machine, which need not be the one it was trained on.

    fp16 belongs to CUDA; elsewhere such a run takes what `auto` gives. Nothing is measured or drawn in tf32.
    """
    if precision == "tf32":
        return "fp32"
    elsewhere = precision in CUDA_ALONE and available(device) != "cuda"
    return resolve_precision(device, "auto" if elsewhere else precision)


@contextmanager
def own_generators() -> Iterator[None]:
    """Seed torch's global random generators inside: they belong to the caller, and are as before afterwards."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(gpus):
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)


@contextmanager
def own_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads in this process and those that it starts; None leaves all to the caller.

    Their number is as before afterwards, also where it was changed inside. Raises `ValueError` for more than there are
    processors.
    """
    before, told = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    there = os.cpu_count() or 1
    if threads is not None and threads > there:
        raise ValueError(f"{threads} threads on {there} processors only wait for each other; give --threads {there}")
    try:
        if threads is not None:
            torch.set_num_threads(threads)
            os.environ["OMP_NUM_THREADS"] = str(threads)  # Fabric, and the processes that it starts, keep to it
        yield
    finally:
        torch.set_num_threads(before)
        if told is not None:
            os.environ["OMP_NUM_THREADS"] = told
        else:
            os.environ.pop("OMP_NUM_THREADS", None)


@contextmanager
def float32_products(tf32: bool = False) -> Iterator[None]:
    """Products of float32 matrices and convolutions on CUDA: whole, or with the 10 bits of TF32; as before afterwards.

    torch has convolutions in TF32 unless it is told not to: three digits, in what calls itself fp32.
    """
    settings = [matrix_digits(), convolution_digits()]
    before = [getattr(place, name) for place, name, _ in settings]
    try:
        for place, name, values in settings:
            setattr(place, name, values[tf32])
        yield
    finally:
        for (place, name, _), value in zip(settings, before, strict=True):
            setattr(place, name, value)


NEW_NAMES = ("ieee", "tf32")  # of torch 2.9 and later; torch refuses to read what was set by the other name


class MatrixPrecision:
    """`torch.get_float32_matmul_precision` and its setter as an attribute."""

    @property
    def value(self) -> str:
        return torch.get_float32_matmul_precision()

    @value.setter
    def value(self, precision: str) -> None:
        torch.set_float32_matmul_precision(precision)


def matrix_digits() -> tuple[Any, str, tuple[Any, Any]]:
    """Where the digits of products of matrices are set, by which name, and the values for whole ones and for TF32."""
    try:
        torch.get_float32_matmul_precision()
    except RuntimeError:
        return torch.backends.cuda.matmul, "fp32_precision", NEW_NAMES
    return MatrixPrecision(), "value", ("highest", "high")


def convolution_digits() -> tuple[Any, str, tuple[Any, Any]]:
    """The same of convolutions."""
    cudnn: Any = torch.backends.cudnn
    try:
        _ = cudnn.allow_tf32
    except RuntimeError:
        return cudnn.conv, "fp32_precision", NEW_NAMES
    return cudnn, "allow_tf32", (False, True)
