"""Checkpoints: whole or absent. A folder is written beside its place, flushed, and renamed into it.

Weights are safetensors, the state of the optimisers is read with `weights_only=True`, the rest is JSON: nothing in
a checkpoint can run code. SHA256SUMS, written last, shows whether a checkpoint was damaged later.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol
from zipfile import BadZipFile

import torch
from torch import nn
from torch.optim import Optimizer

from vaekit.config.changes import changes
from vaekit.config.settings import Config
from vaekit.models.vae import CONFIG_FILE
from vaekit.system.files import flush, read_tensors, replacing, sha256, write_json, write_tensors, write_text

FOLDER = "checkpoints"
OPTIMIZERS_FILE = "optimizers.pt"
SCALER = "scaler"  # beside the optimisers, which have names of their own
STATE_FILE = "state.json"
SUMS_FILE = "SHA256SUMS"  # what `sha256sum *` prints there; `sha256sum -c SHA256SUMS` checks it by hand
KEEP = 2


class State(Protocol):
    """What a checkpoint holds: networks and optimisers by name, the scaler of fp16 losses, and plain counters."""

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def optimizers(self) -> Mapping[str, Optimizer]: ...

    scaler: torch.amp.GradScaler | None
    counters: dict[str, float]


def save_checkpoint(state: State, run: Path, config: Config) -> Path:
    """Write `run`/checkpoints/<step> in one go, then remove old ones; returns the folder.

    Raises `OSError` if the disk does not take it; the older ones are then as before.
    """
    folder = run / FOLDER / f"{int(state.counters['step']):09d}"
    if folder.exists() and problem(folder, config) is None:
        return folder  # a run is a function of its config and pictures: this is the state already
    for leftover in folder.parent.glob(".[0-9]*"):  # of a process that was killed
        shutil.rmtree(leftover)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    unfinished.mkdir(parents=True)
    try:
        write_files(state, unfinished, config)
        flush(unfinished)
        if folder.exists():  # damaged, or of other settings
            discard(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    flush(folder.parent)
    prune(folder, config)
    return folder


def write_files(state: State, folder: Path, config: Config) -> None:
    """Write the files of a checkpoint, their checksums last."""
    for name, network in state.networks.items():
        write_tensors(network.state_dict(), folder / f"{name}.safetensors")
    # Serialised to memory first: where torch writes a file itself, it hides the reason why the disk refuses.
    optimizers = io.BytesIO()
    states = {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()}
    torch.save(states if state.scaler is None else states | {SCALER: state.scaler.state_dict()}, optimizers)
    with replacing(folder / OPTIMIZERS_FILE) as unfinished:
        unfinished.write_bytes(optimizers.getbuffer())
    write_json(state.counters, folder / STATE_FILE)
    write_text(config.to_json() + "\n", folder / CONFIG_FILE)
    write_text(checksums(folder), folder / SUMS_FILE)


def load_checkpoint(state: State, folder: Path) -> None:
    """Fill `state` in place from a checkpoint. Raises `ValueError` if it is damaged or of another model.

    Of the optimisers only the state is loaded: learning rates, betas and decay are those of the config.
    """
    damage = problem(folder)
    if damage is not None:
        raise ValueError(damage)
    saved = counters(folder)
    try:
        optimizers: dict[str, Any] = torch.load(folder / OPTIMIZERS_FILE, map_location="cpu", weights_only=True)
        for name, network in state.networks.items():
            network.load_state_dict(read_tensors(folder / f"{name}.safetensors")[0])
    except (OSError, ValueError, UnpicklingError, BadZipFile, RuntimeError, EOFError) as error:
        raise ValueError(f"{folder} is not a checkpoint of this model: {error}") from error
    for name, optimizer in state.optimizers.items():
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": optimizers[name]["state"], "param_groups": settings})
    if state.scaler is not None and SCALER in optimizers:  # absent where the run began in another precision
        state.scaler.load_state_dict(optimizers[SCALER])
    state.counters = saved


def problem(folder: Path, *configs: Config) -> str | None:
    """Why a checkpoint cannot be used; None if it is whole and, where `configs` are given, of one of them."""
    try:
        if (folder / SUMS_FILE).read_bytes() != checksums(folder).encode():
            return f"{folder} is damaged: its files do not match {SUMS_FILE}"
        own = read_checkpoint_config(folder)
    except (OSError, ValueError) as error:
        return f"{folder} is not a whole checkpoint: {error}"
    others = [changes(config, own) for config in configs]
    if not others or not all(others):
        return None
    listed = ", ".join(f"{name} {theirs!r} instead of {ours!r}" for name, (ours, theirs) in others[0].items())
    return f"{folder} is of another run, with {listed}"


def checksums(folder: Path) -> str:
    """SHA-256 and name of every file in a folder but the one that holds them, a line each, sorted by name."""
    files = sorted(file for file in folder.iterdir() if file.name != SUMS_FILE)
    return "".join(f"{sha256(file)}  {file.name}\n" for file in files)


def counters(folder: Path) -> dict[str, float]:
    """Step, images seen and seconds of a checkpoint. Raises `ValueError` if the folder is no whole checkpoint."""
    try:
        return json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a whole checkpoint: {error}") from error


def read_checkpoint_config(folder: Path) -> Config:
    """The settings that a whole checkpoint was computed with."""
    return Config.from_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))


def newest_usable(run: Path, *configs: Config) -> tuple[Path | None, list[str]]:
    """The newest checkpoint without a problem, or None, and the problems of those after it."""
    problems: list[str] = []
    for folder in reversed(all_checkpoints(run)):
        found = problem(folder, *configs)
        if found is None:
            return folder, problems
        problems.append(found)
    return None, problems


def latest(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return newest_usable(run)[0]


def all_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, damaged ones too, oldest first."""
    return sorted(folder for folder in (run / FOLDER).glob("[0-9]*") if folder.is_dir())


def prune(newest: Path, config: Config) -> None:
    """Keep `newest` and the usable ones before it, KEEP in all, and remove what is older; damaged ones do not count."""
    kept = 1
    for folder in reversed(all_checkpoints(newest.parent.parent)):
        if folder >= newest:
            continue
        if kept == KEEP:
            discard(folder)
        elif problem(folder, config) is None:
            kept += 1


def discard(folder: Path) -> None:
    """Remove a checkpoint: it is renamed first, so that no process finds it half removed."""
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.discarded")))
