"""To begin a run with the weights of a finished one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from vaekit.models.vae import WEIGHTS_FILE
from vaekit.runs.checkpoint import latest
from vaekit.runs.folder import TRAINED_ON_FILE
from vaekit.system.files import read_tensors

LEAST_SHARE = 0.25  # of the numbers of the VAE that must fit: less is another network, and not a start


def begin_with(source: Path, networks: Mapping[str, nn.Module]) -> str:
    """Fill the `vae`, its average `ema` and the `discriminator` with the weights of a finished run, where shapes agree.

    What does not fit keeps its initial weights: pictures of another size have more stages, or another grid. Those of
    the discriminator are in the newest checkpoint, if it is there. Returns a line that says what fitted. Raises
    `ValueError` for a folder without a model, and one of another network.
    """
    path = source / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(
            f"no model in {source}: {WEIGHTS_FILE} is missing; --init-from takes the folder of a finished run"
        )
    weights, _ = read_tensors(path)
    share = min(filled(networks[name], weights) for name in ("vae", "ema"))
    if share < LEAST_SHARE:
        raise ValueError(
            f"the model in {source} is another network than this one: {first_difference(networks['vae'], weights)}"
        )
    checkpoint = latest(source)
    judges = ""
    for name, owner in (("discriminator", "the discriminator's"), ("latent_discriminator", "that of the latents")):
        if name in networks:
            kept = None if checkpoint is None else checkpoint / f"{name}.safetensors"
            known = filled(networks[name], read_tensors(kept)[0]) if kept is not None and kept.is_file() else 0.0
            judges += f", and {known:.0%} of {owner}"
    return f"begins with {share:.0%} of the weights from {source}{judges}"


def filled(network: nn.Module, weights: Mapping[str, Tensor]) -> float:
    """Load those weights that a network has in the same shape; the share of its numbers that they are."""
    own = network.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    network.load_state_dict(own | fitting)
    return sum(own[name].numel() for name in fitting) / max(1, sum(value.numel() for value in own.values()))


def first_difference(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """The first weight that a network has in another shape, or not at all."""
    for name, value in network.state_dict().items():
        theirs = tuple(weights[name].shape) if name in weights else "absent"
        if theirs != tuple(value.shape):
            return f"{name} is {theirs} there and {tuple(value.shape)} here; give its --network settings"
    return "no weight differs"


def leaked(source: Path, test_checksums: np.ndarray) -> str | None:
    """A warning if a finished run has trained on some of the test pictures, whose checksums are given."""
    path = source / TRAINED_ON_FILE
    if not path.is_file():
        return None
    seen = int(np.isin(test_checksums, np.load(path, allow_pickle=False)).sum())
    if not seen:
        return None
    count = f"{seen:,} of the {len(test_checksums):,} test pictures"
    return f"WARNING: {source} trained on {count}: their numbers are too good"
