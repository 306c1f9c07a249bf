"""Checkpoints: whole or absent. A folder is written beside its place, flushed, and renamed into it.

Weights are safetensors with the config in their metadata; the state of the optimisers is read with
`weights_only=True`. Nothing in a checkpoint can run code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol
from zipfile import BadZipFile

import torch
from torch import nn
from torch.optim import Optimizer

from vaekit.files import read_tensors, write_tensors

OPTIMIZERS_FILE = "optimizers.pt"
STATE_FILE = "state.json"
KEEP = 2


class State(Protocol):
    """What a checkpoint holds: networks and optimisers by name, and plain counters."""

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def optimizers(self) -> Mapping[str, Optimizer]: ...

    counters: dict[str, float]


def save(state: State, run: Path, config: str) -> Path:
    """Write `run`/checkpoints/<step> in one go and remove all but the newest ones; returns the folder."""
    folder = run / "checkpoints" / f"{int(state.counters['step']):09d}"
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name, network in state.networks.items():
            write_tensors(network.state_dict(), unfinished / f"{name}.safetensors", {"config": config})
        optimizers = {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()}
        torch.save(optimizers, unfinished / OPTIMIZERS_FILE)
        (unfinished / STATE_FILE).write_text(json.dumps(state.counters))
        for file in unfinished.iterdir():
            flush(file)
        if folder.exists():  # the same step again, after a resume
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for old in all_checkpoints(run)[:-KEEP]:
        shutil.rmtree(old)
    return folder


def load(state: State, folder: Path) -> None:
    """Fill `state` in place from a checkpoint. Raises `ValueError` if the folder is no whole checkpoint."""
    saved = counters(folder)
    try:
        optimizers: dict[str, Any] = torch.load(folder / OPTIMIZERS_FILE, map_location="cpu", weights_only=True)
        for name, network in state.networks.items():
            network.load_state_dict(read_tensors(folder / f"{name}.safetensors")[0])
    except (OSError, ValueError, UnpicklingError, BadZipFile, RuntimeError, EOFError) as error:
        raise ValueError(f"{folder} is not a whole checkpoint of this model: {error}") from error
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(optimizers[name])
    state.counters = saved


def counters(folder: Path) -> dict[str, float]:
    """Step, images seen and seconds of a checkpoint. Raises `ValueError` if the folder is no whole checkpoint."""
    try:
        return json.loads((folder / STATE_FILE).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is not a whole checkpoint: {error}") from error


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    checkpoints = all_checkpoints(run)
    return checkpoints[-1] if checkpoints else None


def all_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(folder for folder in (run / "checkpoints").glob("[0-9]*") if folder.is_dir())


def flush(file: Path) -> None:
    """Make sure that a file is on the disk before its folder gets its final name."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
