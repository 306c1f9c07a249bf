"""What every source of pictures gives: their names in order, what they are known by, and each of them when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

Raw: TypeAlias = bytes | np.ndarray  # a file, or pixels (H, W, C): uint8, uint16, or floats from 0, black, to 1, white


@dataclass(frozen=True)
class Listing:
    """What a source holds: the names of its pictures in their order, and how many other files of which kind.

    Names have slashes; pictures of one class may lie in a folder of its name, as class folders do. `identity` is what
    the pictures are known by, as JSON has it: sources with equal ones hold the same pictures.
    """

    names: tuple[str, ...]
    identity: Any
    passed_over: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """A place that pictures come from. `list_pictures` looks there, and may take a while; nothing before it does."""

    @property
    def place(self) -> str:
        """What `naming.source_of` makes the same source of, in another process and years later."""

    @property
    def title(self) -> str:
        """A short name, for the folder of a run."""

    @property
    def folder(self) -> Path:
        """The folder, on this machine, that a table of labels would lie in, or results must not."""

    def list_pictures(self) -> Listing:
        """What is there now. Raises `ValueError` if nothing is, or it cannot be read."""

    def read(self, name: str) -> Raw:
        """One picture by its name, from any thread. Raises `ValueError` if it is damaged, and `OSError` as files do."""


def numbered(num_images: int, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of pictures that have none: their places, in the folder of the class of each, where there are classes."""
    digits = max(6, len(str(num_images)))
    folders = [f"{name}/" for name in classes] or [""] * num_images
    return tuple(f"{folder}{i:0{digits}d}" for i, folder in enumerate(folders))
