"""The priors of a model: drawn from by name, and kept beside its weights, each in a file that names those weights."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.config.priors import COPIES, PICTURES, PRIORS, WEIGHTS
from vaekit.config.variants import code_of
from vaekit.models.base import Density
from vaekit.models.decoding import expects_lower, flow_of
from vaekit.system.files import read_metadata, sha256

WEIGHTS_FILE = "model.safetensors"
OF_BEFORE = "model_sha256"  # of the whole file of the weights, in the priors of earlier versions


@dataclass(frozen=True)
class Kept:
    """A prior of a model: the hash of the weights that it was fitted to, and whether it repeats training pictures.

    `pictures`: to how many it was fitted, at even distances; 0 where that is not known.
    """

    prior: Density
    of: str
    copies: bool = False
    pictures: int = 0

    @property
    def metadata(self) -> dict[str, str]:
        """What its file says of it."""
        known = {PICTURES: str(self.pictures)} if self.pictures else {}
        return {WEIGHTS: self.of} | ({COPIES: "yes"} if self.copies else {}) | known


def standard_normal(latent_dim: int) -> dict[str, Kept]:
    """N(0, I) by its name: what every model has."""
    return {"normal": Kept(code_of("priors", "base:StandardNormal")(latent_dim), of="")}


def learned_prior(
    decoder: Any, pseudo_inputs: Any, shared: Callable[[], tuple[Tensor, ...]], latent_dim: int
) -> Density | None:
    """The prior that was trained with a model, as its weights are whenever it is asked; None if there is none."""
    if pseudo_inputs is not None:
        return code_of("priors", "learned:VampPrior")(shared, latent_dim)
    if expects_lower(decoder):
        return code_of("priors", "learned:TwoLevelPrior")(decoder, latent_dim)
    if (flow := flow_of(decoder)) is not None:
        return code_of("priors", "learned:PulledBack")(flow, latent_dim)
    return None


def best_of(kept: Mapping[str, Kept]) -> str:
    """The name of the last prior in the table that does not repeat training pictures."""
    return [name for name in PRIORS if name in kept and not kept[name].copies][-1]


def drawn(
    prior: Any,
    name: str,
    num_images: int,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    **options: Any,
) -> Tensor:
    """z (num_images, d) of a prior, on the CPU.

    Raises `ValueError` for no pictures, a temperature that is not above 0, and options that this prior does not take;
    those that are None count as not given.
    """
    if num_images < 1:
        raise ValueError(f"{num_images} samples; ask for one or more")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature {temperature:g}; it must be above 0, and 1 draws from the prior as it is")
    given = {option: value for option, value in options.items() if value is not None}
    taken = [option for option in signature(prior.sample).parameters if option not in ("num_images", "generator")]
    unknown = sorted(given.keys() - set(taken))
    if unknown:
        raise ValueError(f"the prior {name} takes no {' or '.join(unknown)}; it takes {', '.join(taken)}")
    return prior.sample(num_images, generator, temperature=temperature, **given)


def read_priors(
    folder: Path, weights: Mapping[str, Tensor], own_priors: Mapping[str, Kept], latent_dim: int
) -> dict[str, Kept]:
    """The priors that a model has by itself, and every one in a folder that was fitted to these weights.

    Warns of one that cannot be used: fitted to other weights, damaged, or of another number of entries.
    """
    found = dict(own_priors)
    own = Identity(folder, weights)
    for name, row in PRIORS.items():
        if row.fitted is None or not (path := folder / row.fitted.file).is_file():
            continue
        about = read_metadata(path) or {}
        try:
            if not own.matches(about):
                raise ValueError(f"{path} was fitted to other weights than these")
            prior = code_of("priors", row.fitted.load).load(path)
            if prior.latent_dim != latent_dim:
                raise ValueError(f"{path} has {prior.latent_dim} entries, and this model {latent_dim}")
        except ValueError as error:
            again = f"vaekit fit-prior --kind {name} fits it again"
            warnings.warn(f"{error}; it is not used: {again}", stacklevel=3)
            continue
        if WEIGHTS not in about and OF_BEFORE not in about:
            warnings.warn(f"{path} is of an earlier version, and may be of other weights than these", stacklevel=3)
        found[name] = Kept(prior, own.content, about.get(COPIES) == "yes", int(about.get(PICTURES, 0)))
    return found


def write_priors(kept: Mapping[str, Kept], folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write every fitted prior into a folder. Those that are of other weights by now are left out, with a warning."""
    fitted = {name: row.fitted for name, row in PRIORS.items() if row.fitted is not None and name in kept}
    own = weights_sha256(weights) if fitted else ""
    stale = [name for name in fitted if kept[name].of != own]
    if stale:
        warnings.warn(f"not kept: {', '.join(stale)}, since the weights have changed after the fit", stacklevel=3)
    for name, row in fitted.items():
        if name not in stale:
            prior: Any = kept[name].prior
            prior.save(folder / row.file, kept[name].metadata)


def remove_stale(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Remove the priors in a folder that were fitted to other weights than these, as far as the disk lets it."""
    own = Identity(folder, weights)
    for row in PRIORS.values():
        if row.fitted is not None and (path := folder / row.fitted.file).is_file():
            about = read_metadata(path)
            if about is None or not own.matches(about):
                with suppress(OSError):  # what stays is told and not used when the model is loaded
                    path.unlink()


class Identity:
    """The weights in a folder, and whether a prior is of them."""

    def __init__(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        self.file, self.weights = folder / WEIGHTS_FILE, weights

    def matches(self, about: Mapping[str, str]) -> bool:
        """Whether the metadata of a prior name these weights; those of before named the file, or nothing."""
        if WEIGHTS in about:
            return about[WEIGHTS] == self.content
        return OF_BEFORE not in about or about[OF_BEFORE] == self.of_file

    @cached_property
    def content(self) -> str:
        """The hash of the weights."""
        return weights_sha256(self.weights)

    @cached_property
    def of_file(self) -> str:
        """The hash of their file."""
        return sha256(self.file)


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors by name, in any order: a file of the same ones may hold them in another."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
