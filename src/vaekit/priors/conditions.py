"""What a prior is told of the pictures that it draws: one class of several, or attributes that they have or lack.

It is told by rows of one table of embeddings, `told` (N, F), whose sum the network gets: F is 1 for classes, and the
number K of attributes. Each of the F has a row for "not known" too, which draws of any kind and guidance need.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vaekit.priors.base import Latents

NO_CLASS = 0.1  # share of the draws whose class is hidden (Ho & Salimans, 2022)
MOST_NAMED = 20  # of the names in a message
OFF, ON, UNKNOWN, STATES = 0, 1, 2, 3  # of an attribute
CLASSES, ATTRIBUTES = "classes", "attributes"  # in the metadata of a file: what can be asked for
SHARES = "shares"  # in a file: those of the classes


class Conditions(Protocol):
    """What can be told, in rows of a table of embeddings."""

    @property
    def names(self) -> tuple[str, ...]:
        """What can be asked for; empty where nothing can."""

    @property
    def num_rows(self) -> int:
        """Rows of the table of embeddings."""

    def told(self, labels: Tensor) -> Tensor:
        """Labels as `Latents` has them, of N pictures -> what is told of them, (N, F)."""

    def hidden(self, told: Tensor, generator: torch.Generator) -> Tensor:
        """`told` (N, F) as the network learns from it: now and then something is not known."""

    def unknown(self, num_images: int) -> Tensor:
        """Nothing is known: (num_images, F)."""

    def drawn(self, num_images: int, generator: torch.Generator | None) -> Tensor:
        """What is told of new pictures of which nothing is asked, (num_images, F)."""

    def asked(self, names: Sequence[str], num_images: int) -> Tensor:
        """What is told of pictures that are asked for by `names`, (num_images, F).

        Raises `ValueError` for names that are unknown or exclude each other.
        """

    def parts(self) -> list[tuple[Tensor, float]]:
        """The density of all pictures as a mixture: what is told, (F,), and the share of those pictures."""


@dataclass(frozen=True, eq=False)
class Classes:
    """Each picture is of one of K classes; `shares` (K,) say how frequent they are. Without names there is nothing."""

    names: tuple[str, ...] = ()
    shares: Tensor = field(default_factory=lambda: torch.ones(0))

    @property
    def num_rows(self) -> int:
        return len(self.names) + 1 if self.names else 0

    def told(self, labels: Tensor) -> Tensor:
        return labels[:, None]

    def hidden(self, told: Tensor, generator: torch.Generator) -> Tensor:
        return told.masked_fill(torch.rand(len(told), 1, generator=generator) < NO_CLASS, len(self.names))

    def unknown(self, num_images: int) -> Tensor:
        return torch.full((num_images, 1), len(self.names))

    def drawn(self, num_images: int, generator: torch.Generator | None) -> Tensor:
        return torch.multinomial(self.shares, num_images, replacement=True, generator=generator)[:, None]

    def asked(self, names: Sequence[str], num_images: int) -> Tensor:
        for name in names:
            check_known(name, name, self.names)
        if len(names) > 1:
            raise ValueError(f"labels {', '.join(names)}; a picture is of one of these classes, so give one")
        return torch.full((num_images, 1), self.names.index(names[0]))

    def parts(self) -> list[tuple[Tensor, float]]:
        return [(torch.tensor([i]), share) for i, share in enumerate(self.shares.tolist()) if share > 0]


@dataclass(frozen=True)
class Attributes:
    """Each picture has or lacks each of K attributes; a draw may be told of some of them and not of the others."""

    names: tuple[str, ...]

    @property
    def num_rows(self) -> int:
        return STATES * len(self.names)

    def row(self, states: Tensor) -> Tensor:
        """The states of the attributes (N, K) -> their rows (N, K)."""
        return STATES * torch.arange(len(self.names)) + states

    def told(self, labels: Tensor) -> Tensor:
        return self.row(labels)

    def hidden(self, told: Tensor, generator: torch.Generator) -> Tensor:
        # any number of them equally often: from one draw to the next a few, all or none are asked for
        share = torch.rand(len(told), 1, generator=generator)
        hide = torch.rand(told.shape, generator=generator) < share
        return torch.where(hide, self.unknown(len(told)), told)

    def unknown(self, num_images: int) -> Tensor:
        return self.row(torch.full((num_images, len(self.names)), UNKNOWN))

    def drawn(self, num_images: int, generator: torch.Generator | None) -> Tensor:
        return self.unknown(num_images)

    def asked(self, names: Sequence[str], num_images: int) -> Tensor:
        states = torch.full((len(self.names),), UNKNOWN)
        for asked in names:
            name, state = (asked, ON) if asked in self.names else state_asked(asked)
            check_known(name, asked, self.names)
            place = self.names.index(name)
            if states[place] not in (UNKNOWN, state):
                raise ValueError(f"{name} is asked for as 1 and as 0; give one of both")
            states[place] = state
        return self.row(states.expand(num_images, -1))

    def parts(self) -> list[tuple[Tensor, float]]:
        return [(self.unknown(1)[0], 1.0)]


def state_asked(asked: str) -> tuple[str, int]:
    """`smiling=0` -> the name and the state."""
    name, _, value = asked.rpartition("=")
    return (name, ON if value == "1" else OFF) if value in ("0", "1") else (asked, ON)


def check_known(name: str, asked: str, names: Sequence[str]) -> None:
    """Raise `ValueError` for a name that cannot be asked for."""
    if name not in names and asked.rpartition("=")[0] in names:
        raise ValueError(f"label {asked!r}: give {asked.rpartition('=')[0]}=1 or {asked.rpartition('=')[0]}=0")
    if name not in names:
        some = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED))
        raise ValueError(f"no label {asked!r} in this prior; it knows {some}")


def conditions_of(latents: Latents) -> Conditions:
    """What a prior of these latents can be told."""
    if latents.attributes:
        return Attributes(latents.attributes)
    if latents.labels is None:
        return Classes()
    counts = torch.bincount(latents.labels, minlength=len(latents.classes))
    return Classes(latents.classes, counts / len(latents.labels))


def told_of(
    conditions: Conditions, label: str | Sequence[str] | None, num_images: int, generator: torch.Generator | None
) -> Tensor | None:
    """What is told of new pictures, (num_images, F): what is asked for, else as in training; None without labels.

    Raises `ValueError` for a label that the prior does not know.
    """
    names = [label] if isinstance(label, str) else list(label or ())
    if names and not conditions.num_rows:
        raise ValueError(f"no label {names[0]!r} in this prior; it was fitted without labels")
    if names:
        return conditions.asked(names, num_images)
    return conditions.drawn(num_images, generator) if conditions.num_rows else None


def log_mixture(conditions: Conditions, log_prob: Callable[[Tensor | None], Tensor]) -> Tensor:
    """log p (N,) of all pictures from that of those of which something is told, (F,), or of which nothing can be."""
    if not conditions.num_rows:
        return log_prob(None)
    parts = [log_prob(told) + math.log(share) for told, share in conditions.parts()]
    return torch.logsumexp(torch.stack(parts), 0)


def check_guidance(conditions: Conditions, guidance: float) -> None:
    """Raise `ValueError` for a `guidance` that is negative, or where there are no labels."""
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance {guidance:g}; 1 is the label as it is, 2 more of it, 0 any picture")
    if guidance != 1 and not conditions.num_rows:
        raise ValueError(f"guidance {guidance:g} needs labels, and this prior was fitted without")


def written(conditions: Conditions) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Conditions as tensors and metadata of a file."""
    of_classes = isinstance(conditions, Classes)
    shares = conditions.shares if isinstance(conditions, Classes) else torch.ones(0)
    return {SHARES: shares}, {CLASSES if of_classes else ATTRIBUTES: json.dumps(conditions.names)}


def read_conditions(tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Conditions | None:
    """What `written` wrote, taken out of the tensors of a file; None if there is no such thing."""
    shares = tensors.pop(SHARES, None)
    if ATTRIBUTES in metadata:
        return Attributes(tuple(json.loads(metadata[ATTRIBUTES])))
    if shares is None or CLASSES not in metadata:
        return None
    return Classes(tuple(json.loads(metadata[CLASSES])), shares)
