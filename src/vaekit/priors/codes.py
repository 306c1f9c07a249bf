"""A density of the codes of a VQ-VAE: a transformer that draws one code after another.

As VQ-VAE-2 draws its codes by a network that sees those before (Razavi et al., NeurIPS 2019, section 3.2), by a
transformer instead of their PixelSNAIL. Letters: N latents of d entries, which are G groups of codes at P positions;
S = P G codes in a row; K codes to choose from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vaekit.networks.code_transformer import CodeTransformer, Past, Start
from vaekit.networks.codes import latents_of_codes, nearest_indices
from vaekit.priors.base import NO_METADATA, read_prior
from vaekit.priors.conditions import (
    Classes,
    Conditions,
    check_guidance,
    log_mixture,
    read_conditions,
    told_of,
)
from vaekit.priors.network import ABOUT, NetworkPrior, with_weights
from vaekit.system.autocast import without_autocast

NAME = "codes"  # in the files
CODES = "codes"  # in the file: the vectors of the codes
AT_ONCE = 256  # rows of codes
LEAST_STD = 1e-6  # of the codes of a group, which may be all the same


class CodePrior(NetworkPrior):
    """Latents whose groups are codes `codes` (G, K, e), as frequent as the network says; z are the codes' vectors.

    `settings` are those that `CodeTransformer` is built with beside the numbers of codes, `conditions` what can be
    asked for. `held_out_loss` is the cross-entropy on pictures that it did not learn from, where 1 is that of codes
    that know nothing of each other.
    """

    def __init__(
        self,
        codes: Tensor,
        network: CodeTransformer,
        settings: Mapping[str, Any],
        conditions: Conditions,
        held_out_loss: float,
    ) -> None:
        super().__init__(network, settings, conditions, held_out_loss)
        self.codes = codes.detach().cpu()

    @property
    def positions(self) -> int:
        """Places of the grid, P."""
        return len(self.network.place) // len(self.codes)

    @property
    def latent_dim(self) -> int:
        """Entries of a latent, d."""
        groups, _, entries = self.codes.shape
        return groups * entries * self.positions

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        label: str | Sequence[str] | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw z (num_images, d) on the CPU; a `temperature` below 1 prefers frequent codes.

        `label` and `guidance` are those of `FlowPrior.sample`, and so is what is raised.
        """
        check_guidance(self.conditions, guidance)
        told = told_of(self.conditions, label, num_images, generator)
        rows = [
            self.drawn(len(part), generator, temperature, None if told is None else told[part], guidance)
            for part in torch.arange(num_images).split(AT_ONCE)
        ]
        return latents_of_codes(grouped(torch.cat(rows), len(self.codes)), self.codes)

    def drawn(
        self,
        rows: int,
        generator: torch.Generator | None,
        temperature: float,
        told: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Codes one after another, (rows, S); the chances are drawn on the CPU.

        With a `guidance` other than 1, the logits of pictures of which nothing is known are computed beside.
        """
        guided = guidance != 1
        if told is not None and guided:
            told = torch.cat([told, self.conditions.unknown(rows)])
        known = None if told is None else told.to(self.device)
        past: list[Past | None] = [None] * len(self.network.blocks)
        found = torch.zeros(rows, 0, dtype=torch.int64)
        with without_autocast(self.device):
            for _ in range(len(self.network.place)):
                before = found.to(self.device).repeat(1 + guided, 1)
                logits = self.network.next_logits(before, past, known).float()
                if guided:
                    logits = torch.lerp(logits[rows:], logits[:rows], guidance)
                chosen = torch.multinomial((logits / temperature).softmax(1).cpu(), 1, generator=generator)
                found = torch.cat([found, chosen], 1)
        return found

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """log P of the codes that z (N, d) becomes: (N,), nats. A probability, and no density of z.

        Where there are classes, that of their mixture.
        """
        parts = []
        for part in z.split(AT_ONCE):
            rows = in_rows(nearest_indices(part.cpu(), self.codes, self.positions)).to(self.device)
            parts.append(log_mixture(self.conditions, partial(self.log_prob_of, rows)))
        return torch.cat(parts)

    def log_prob_of(self, rows: Tensor, told: Tensor | None) -> Tensor:
        """log P of rows of codes (N, S) of pictures of which is `told` (F,): (N,), on the CPU."""
        with without_autocast(self.device):
            logits = self.network(rows, None if told is None else told.to(self.device).expand(len(rows), -1))
            return -cross_entropy(logits.mT, rows, reduction="none").sum(1).cpu()

    def save(self, path: str | Path, metadata: Mapping[str, str] = NO_METADATA) -> None:
        """Write codes, weights and settings as safetensors, with metadata; a reader sees the old file or the new."""
        self.write(path, {CODES: self.codes}, {"prior": NAME, "positions": str(self.positions)} | dict(metadata))

    @classmethod
    def load(cls, path: str | Path) -> CodePrior:
        """Read what `save` wrote. Raises `ValueError` if the file is missing, damaged or something else."""
        tensors, metadata = read_prior(path)
        conditions = read_conditions(tensors, metadata) or Classes()  # those of before had no labels
        if metadata.get("prior") != NAME or CODES not in tensors or not metadata.keys() >= {*ABOUT, "positions"}:
            raise ValueError(f"{path} holds no prior of codes; fit the prior again")
        codes = tensors.pop(CODES)
        settings, held_out_loss = (json.loads(metadata[name]) for name in ABOUT)
        positions = int(metadata["positions"])
        network = with_weights(
            lambda: CodeTransformer(positions, scaled(codes), **settings, conditions=conditions.num_rows),
            tensors,
            path,
            may_lack=Start._fields,  # those of before started at frequencies alone
        )
        return cls(codes, network, settings, conditions, held_out_loss)


def scaled(codes: Tensor) -> Tensor:
    """Codes (G, K, e) with a mean of 0 and a std of 1 in each entry of each group."""
    return (codes - codes.mean(1, keepdim=True)) / codes.std(1, keepdim=True).clamp(min=LEAST_STD)


def in_rows(indices: Tensor) -> Tensor:
    """(N, G, P) -> (N, S): the groups of a position together."""
    return indices.movedim(1, 2).flatten(1)


def grouped(rows: Tensor, groups: int) -> Tensor:
    """`in_rows` undone."""
    return rows.unflatten(1, (-1, groups)).movedim(2, 1)
