"""A feature space in which sets of pictures are compared, and reading the weights of its network."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit.data.pixels import to_uint8
from vaekit.system.autocast import without_autocast


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature space: pictures (B, C, H, W) in [-1, 1] -> features (B, F), float32 on the CPU.

    Every picture is first rounded to the 256 levels that a saved one has, so that originals, which come from files,
    and reconstructions are treated alike; grey ones are repeated into three channels. It computes in float32 even
    under autocast: bf16 is twice as fast on some CPUs, but moves small Frechet distances by 2 %.
    `distance_name`, `kernel_name` and `sliced_name` are the names of distances in this space.
    """

    name: str
    distance_name: str
    kernel_name: str
    sliced_name: str
    num_features: int
    weights_sha256: str
    preparation: str
    network: Callable[[Tensor], Tensor]  # uint8 (B, 3, H, W) -> (B, F)
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, F). Raises `ValueError` for pixels that are not finite or neither grey nor RGB."""
        if not x.isfinite().all():
            raise ValueError("the pictures are not finite; look for NaN in the network that drew them")
        parts = to_uint8(as_rgb(x)).split(batch_size(self.device))
        with without_autocast(self.device):
            return torch.cat([self.network(pixels.to(self.device)).float().cpu() for pixels in parts])

    def protocol(self) -> dict[str, Any]:
        """What makes a distance in this space comparable with another one."""
        return {
            "network": self.name,
            "distance": self.distance_name,
            "num_features": self.num_features,
            "weights_sha256": self.weights_sha256,
            "preparation": self.preparation,
        }


def batch_size(device: torch.device) -> int:
    """Pictures at a time: on a CPU the few whose activations its cache holds, 1.3 times as fast as 32."""
    return 8 if device.type == "cpu" else 64


def as_rgb(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 3, H, W): grey is repeated. Raises `ValueError` unless C is 1 or 3."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"pictures of shape {tuple(x.shape)}; these networks take (B, 1, H, W) or (B, 3, H, W)")
    return x.expand(-1, 3, -1, -1)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file by name; reading it cannot run code. Raises `ValueError` if there are none."""
    if not path.is_file():
        raise ValueError(f"no weights in {path}; leave out --weights to take those of the package")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} holds no weights that torch can read") from error


@contextmanager
def one_line_if_unfit(path: Path) -> Iterator[None]:
    """Turn what torch says about weights of another network, a line for each, into one `ValueError`."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"the weights in {path} are those of another network") from error
