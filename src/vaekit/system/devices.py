"""Devices, precision and ranks, through Lightning Fabric."""

from __future__ import annotations

import atexit
import os
import threading
import time

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
BACKENDS = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # for tensors on the CPU and on the GPU
WATCH_SEC = 1.0


def make_fabric(device: str, devices: int, precision: str, batch_size: int) -> Fabric:
    """Devices, precision and ranks; under torchrun, the ranks are those of its environment variables.

    `device` is "auto" or the name of one, `devices` the processes on this machine, `precision` as `resolve_precision`
    takes it and `batch_size` the images of a step that the ranks share. `launch` starts the other processes, after the
    first one has made all checks that need no other process. Raises `ValueError` for a device that is not here and for
    a batch that cannot be shared evenly.
    """
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    ranks = int(os.environ.get("WORLD_SIZE", devices))
    if batch_size % ranks:
        raise ValueError(f"batch {batch_size} cannot be shared evenly by {ranks} processes")
    return Fabric(
        accelerator=available(device),
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


def available(device: str) -> str:
    """The device asked for, or the first there is. Raises `ValueError` if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [name for name, is_there in there.items() if is_there]
    if device != "auto" and device not in present:
        raise ValueError(f"no {device} device here; choose --device {' or '.join(present)}")
    return present[0] if device == "auto" else device


def resolve_precision(device: str, precision: str) -> str:
    """`precision`, and for "auto" bf16 where the hardware multiplies it, else fp32.

    Raises `ValueError` for a device that is not here, and for fp16 where losses cannot be scaled.
    """
    device = available(device)
    if precision == "fp16" and device != "cuda":
        raise ValueError(f"fp16 needs a CUDA device, this is {device}; choose --precision bf16 or fp32")
    if precision != "auto":
        return precision
    has_bf16 = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu._is_avx512_bf16_supported(),
        "mps": lambda: False,
    }
    return "bf16" if has_bf16[device]() else "fp32"


def precision_here(precision: str) -> str:
    """The precision of a run on the first device of this machine, which need not be the one it was trained on.

    fp16 belongs to CUDA; elsewhere such a run takes what `auto` gives.
    """
    elsewhere = precision == "fp16" and available("auto") != "cuda"
    return resolve_precision("auto", "auto" if elsewhere else precision)
