"""What priors with a network share: where it is, what it can be told, and how it is kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from vaekit.priors.conditions import Conditions, written
from vaekit.system.files import write_tensors

NETWORK = "network."  # in the file: before the names of its weights
ABOUT = ("settings", "held_out_loss")  # what the file's metadata say, beside the names of classes or attributes

Network = TypeVar("Network", bound=nn.Module)


class NetworkPrior:
    """A prior whose `network` was built with `settings` and can be told the `conditions`.

    `held_out_loss` is that of the network on pictures that it did not learn from, where 1 is that of its start.
    """

    def __init__(self, network: Any, settings: Mapping[str, Any], conditions: Conditions, held_out_loss: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.settings = dict(settings)
        self.conditions = conditions
        self.held_out_loss = held_out_loss

    @property
    def device(self) -> torch.device:
        """Where the network is; noise, chances and latents are on the CPU."""
        return self.network.place.device

    def to(self, device: torch.device | str) -> Self:
        """Itself, with the network there."""
        self.network.to(device)
        return self

    def write(self, path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        """Write `tensors`, weights and conditions as safetensors, and settings beside `about` as their metadata."""
        weights = {NETWORK + name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        shares, names = written(self.conditions)
        own = {name: json.dumps(getattr(self, name)) for name in ABOUT}
        write_tensors({**tensors, **shares, **weights}, Path(path), own | names | dict(about))


def with_weights(
    build: Callable[[], Network], tensors: Mapping[str, Tensor], path: str | Path, may_lack: Collection[str] = ()
) -> Network:
    """A network with the weights of a file; those that older files `may_lack` are as it was built with.

    Raises `ValueError` where they do not fit.
    """
    try:
        network = build()
        own = {name: tensor for name, tensor in network.state_dict().items() if name in may_lack}
        network.load_state_dict(own | {name.removeprefix(NETWORK): tensor for name, tensor in tensors.items()})
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the weights in {path} do not fit its settings: {error}") from error
    return network
