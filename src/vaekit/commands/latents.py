"""The latents of pictures in a file, with what is needed to use them: which pictures, and of which model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from vaekit.models.kept import weights_sha256
from vaekit.models.vae import VAE
from vaekit.system.files import read_tensors, replacing, write_tensors

SUFFIXES = (".npz", ".safetensors", ".parquet")
NUMBERS = ("mean", "std", "kl", "l1")  # by picture
ABOUT_TRAIN = ("train_mean", "train_std")  # by entry, where the model knows them
MODEL = "weights_sha256"


@dataclass(frozen=True, eq=False)
class LatentTable:
    """The posteriors of N pictures: `mean`, `std` (N, d), KL to N(0, I) in nats `kl` (N,), error of the mean `l1` (N,).

    `files` are the names of the pictures, `model` the hash of the weights that encoded them, `train` the mean and the
    std (d,) of each entry over the training set, if the model knows them: what to standardise by.
    """

    files: list[str]
    mean: Tensor
    std: Tensor
    kl: Tensor
    l1: Tensor
    model: str
    train: tuple[Tensor, Tensor] | None = None

    def save(self, path: Path) -> Path:
        """Write it as .npz, .safetensors or .parquet. Raises `ValueError` for another kind, `OSError` from the disk."""
        check_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: getattr(self, name).float() for name in NUMBERS}
        arrays |= dict(zip(ABOUT_TRAIN, self.train, strict=True)) if self.train is not None else {}
        about = {"files": json.dumps(self.files), MODEL: self.model}
        if path.suffix == ".safetensors":
            write_tensors({name: value.contiguous() for name, value in arrays.items()}, path, about)
        elif path.suffix == ".npz":
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                plain: dict[str, Any] = {name: value.numpy() for name, value in arrays.items()}
                plain |= {"files": np.array(self.files), MODEL: np.array(self.model)}
                np.savez(file, **plain)
        else:
            self.save_parquet(path)
        return path

    def save_parquet(self, path: Path) -> None:
        """A row a picture; what is by entry is in the metadata of the table."""
        pyarrow, parquet = pyarrow_modules(path)
        columns = {"file": self.files}
        columns |= {name: list(getattr(self, name).float().numpy()) for name in NUMBERS}
        train = [] if self.train is None else zip(ABOUT_TRAIN, self.train, strict=True)
        about = {MODEL: self.model} | {name: json.dumps(value.tolist()) for name, value in train}
        with replacing(path) as unfinished:
            parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), unfinished)

    @classmethod
    def load(cls, path: Path) -> LatentTable:
        """Read what `save` wrote. Raises `ValueError` if it is missing, damaged or something else, or not finite."""
        check_suffix(path)
        if not path.is_file():
            raise ValueError(f"no latents in {path}; vaekit encode writes them")
        try:
            values, about = READERS[path.suffix](path)
            numbers = {name: torch.as_tensor(np.asarray(values[name])) for name in NUMBERS}
            known = all(name in values for name in ABOUT_TRAIN)
            train = tuple(torch.as_tensor(np.asarray(values[name])) for name in ABOUT_TRAIN) if known else None
            table = cls(files=json.loads(about["files"]), model=about[MODEL], train=train, **numbers)  # type: ignore[arg-type]
        except (KeyError, TypeError, OSError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path} holds no latents that vaekit encode wrote: {error}") from error
        if not table.mean.isfinite().all():
            bad = table.files[int((~table.mean.isfinite()).any(1).nonzero()[0])]
            raise ValueError(f"{path}: the latents of {bad} are not finite")
        return table

    def check_of(self, vae: VAE, path: Path) -> None:
        """Raise `ValueError` for latents of another number of entries, or of other weights than those of `vae`."""
        if self.mean.ndim != 2 or self.mean.shape[1] != vae.latent_dim:
            entries = self.mean.shape[-1]
            raise ValueError(f"{path} has latents of {entries} entries, and this model has {vae.latent_dim}")
        if self.model != weights_sha256(vae.state_dict()):
            raise ValueError(f"{path} was encoded by other weights than these; encode the pictures with this model")


def check_suffix(path: Path) -> None:
    """Raise `ValueError` for a file of a kind that holds no latents."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: latents are kept as {', '.join(SUFFIXES)}")


def pyarrow_modules(path: Path) -> tuple[Any, Any]:
    """pyarrow and its parquet. Raises `ValueError` where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        others = " or ".join(str(path.with_suffix(suffix)) for suffix in SUFFIXES[:2])
        raise ValueError(f'{path} needs pyarrow; run: pip install "vaekit[parquet]", or name {others}') from error
    return pyarrow, parquet


def from_npz(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The arrays of a .npz, and what it is about."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # a damaged one is closed, too
        values = {name: arrays[name] for name in arrays.files}
    return values, {"files": json.dumps(values["files"].tolist()), MODEL: str(values[MODEL])}


def from_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The tensors of a .safetensors, and what it is about."""
    return read_tensors(path)


def from_parquet(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The columns of a .parquet, and what it is about."""
    _, parquet = pyarrow_modules(path)
    table = parquet.read_table(path)
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    values = {name: numbers_of(table[name]) for name in NUMBERS}
    values |= {name: np.array(json.loads(about[name]), np.float32) for name in ABOUT_TRAIN if name in about}
    return values, about | {"files": json.dumps(table["file"].to_pylist())}


def numbers_of(column: Any) -> np.ndarray:
    """A column of numbers, (N,), or of lists of one length, (N, d), as float32. Raises `ValueError` for others."""
    flat = column.combine_chunks()
    if flat.null_count:
        raise ValueError("some rows are empty")
    if not hasattr(flat, "value_lengths"):
        return np.array(flat.to_numpy(zero_copy_only=False), np.float32)
    if len(set(flat.value_lengths().to_numpy(zero_copy_only=False).tolist())) > 1:
        raise ValueError("the rows are of different lengths")
    values = np.array(flat.flatten().to_numpy(zero_copy_only=False), np.float32)
    return values.reshape(len(flat), -1)


READERS = {".npz": from_npz, ".safetensors": from_safetensors, ".parquet": from_parquet}
