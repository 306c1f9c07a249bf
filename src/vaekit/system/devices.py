"""Devices, precision and ranks, through Lightning Fabric."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from vaekit.config.settings import Config
from vaekit.system.memory import keep_freed_memory


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Let imports do without a package, as if it were not installed; one that is there already stays."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what Python takes for "there is none"
    try:
        yield
    finally:
        del sys.modules[package]


# Lightning Fabric imports torchmetrics, and with it scipy and torchvision, for its version, and does nothing with it.
# That was a third of the time to the first step.
with hidden("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
BACKENDS = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # of tensors on either side
WATCH_SEC = 1.0


def make_fabric(config: Config) -> Fabric:
    """Devices, precision and ranks; under torchrun, what torchrun says. Raises `ValueError` for a missing device.

    Other processes start with `launch`, when all that a single one can find wrong has been checked.
    """
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
    ranks = int(os.environ.get("WORLD_SIZE", config.devices))
    if config.batch % ranks:
        raise ValueError(f"batch {config.batch} cannot be shared evenly by {ranks} processes")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # our own summary says it
    if available(config.device) == "cpu":
        keep_freed_memory()
    return Fabric(
        accelerator=available(config.device),
        devices=ranks_here,
        num_nodes=ranks // ranks_here,
        strategy=DDPStrategy(process_group_backend=BACKENDS) if ranks > 1 else "auto",
        precision=PRECISIONS[resolve_precision(config)],  # type: ignore[arg-type]
    )


def launch(fabric: Fabric) -> None:
    """Start the other processes of this machine, unless a launcher has, and meet the ranks of all machines."""
    if os.environ.get("LOCAL_RANK", "0") != "0" or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())  # the first process where it started the others, else torchrun
    fabric.launch()
    atexit.register(leave_ranks)


def leave_ranks() -> None:
    """Part from the other ranks while Python runs: what gloo still holds when the process ends may abort it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_with(launcher: int) -> None:
    """End this process soon after the one that launched it: on CUDA it would wait for lost ranks for half an hour."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(WATCH_SEC)
        os._exit(1)  # not sys.exit: the main thread may be waiting in a collective

    threading.Thread(target=watch, daemon=True, name="end-with-launcher").start()


def synchronise_batch_norm(network: nn.Module) -> None:
    """Let live BatchNorm see the images of all ranks, in place; what it is called in the state dict stays.

    torch has such a layer for CUDA only. Frozen BatchNorm stays frozen.
    """
    for name in [name for name, layer in network.named_modules() if type(layer) is nn.BatchNorm2d]:
        network.set_submodule(name, nn.SyncBatchNorm.convert_sync_batchnorm(network.get_submodule(name)))


def available(device: str) -> str:
    """The device asked for, or the first there is. Raises `ValueError` if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [name for name, is_there in there.items() if is_there]
    if device != "auto" and device not in present:
        raise ValueError(f"no {device} device here; choose --device {' or '.join(present)}")
    return present[0] if device == "auto" else device


def resolve_precision(config: Config) -> str:
    """bf16 where the hardware multiplies it, else fp32. Raises `ValueError` for fp16 where losses cannot be scaled."""
    device = available(config.device)
    if config.precision == "fp16" and device != "cuda":
        raise ValueError(f"fp16 needs a CUDA device, this is {device}; choose --precision bf16 or fp32")
    if config.precision != "auto":
        return config.precision
    has_bf16 = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu._is_avx512_bf16_supported(),
        "mps": lambda: False,
    }
    return "bf16" if has_bf16[device]() else "fp32"


def precision_here(config: Config) -> str:
    """The precision of a run on the first device of this machine, which need not be the one it was trained on.

    fp16 belongs to CUDA; elsewhere such a run takes what `auto` gives.
    """
    precision = "auto" if config.precision == "fp16" and available("auto") != "cuda" else config.precision
    return resolve_precision(dataclasses.replace(config, device="auto", precision=precision))
