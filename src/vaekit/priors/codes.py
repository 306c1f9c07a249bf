"""A density of the codes of a VQ-VAE: a transformer that draws one code after another, and its fit.

As VQ-VAE-2 draws its codes by a network that sees those before (Razavi et al., NeurIPS 2019, section 3.2), by a
transformer instead of their PixelSNAIL. Letters: N latents of d entries, which are G groups of codes at P positions;
S = P G codes in a row; K codes to choose from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vaekit.networks.code_transformer import CodeTransformer, Past
from vaekit.networks.codes import latents_of_codes, nearest_indices
from vaekit.priors.base import NO_METADATA, Latents, read_prior
from vaekit.priors.conditions import (
    Classes,
    Conditions,
    check_guidance,
    conditions_of,
    log_mixture,
    read_conditions,
    told_of,
    written,
)
from vaekit.priors.fitting import BATCH, Fit, Length, Watch, begun, held_out, run_fit
from vaekit.system.autocast import without_autocast
from vaekit.system.devices import own_generators
from vaekit.system.files import write_tensors

NAME = "codes"  # in the files
CODES, NETWORK = "codes", "network."  # in the file: the vectors of the codes, and before the names of its weights
ABOUT = ("settings", "held_out_loss")
AT_ONCE = 256  # rows of codes
LEAST_STD = 1e-6  # of the codes of a group, which may be all the same
SMOOTHING = 0.5  # uses that each code has beside those counted


class CodePrior:
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
        self.codes = codes.detach().cpu()
        self.network = network.eval().requires_grad_(False)
        self.settings = dict(settings)
        self.conditions = conditions
        self.held_out_loss = held_out_loss

    @property
    def positions(self) -> int:
        """Places of the grid, P."""
        return len(self.network.place) // len(self.codes)

    @property
    def latent_dim(self) -> int:
        """Entries of a latent, d."""
        groups, _, entries = self.codes.shape
        return groups * entries * self.positions

    @property
    def device(self) -> torch.device:
        """Where the network is; latents are on the CPU."""
        return self.network.place.device

    def to(self, device: torch.device | str) -> CodePrior:
        """Itself, with the network there."""
        self.network.to(device)
        return self

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

        With a `guidance` other than 1 the logits of pictures of which nothing is known are drawn beside.
        """
        guided = guidance != 1
        if told is not None and guided:
            told = torch.cat([told, self.conditions.unknown(rows)])
        known = None if told is None else told.to(self.device)
        past: list[Past | None] = [None] * len(self.network.blocks)
        last, found = None, []
        with without_autocast(self.device):
            for place in range(len(self.network.place)):
                logits = self.network.next_logits(last, place, past, (1 + guided) * rows, known).float()
                if guided:
                    logits = torch.lerp(logits[rows:], logits[:rows], guidance)
                chosen = torch.multinomial((logits / temperature).softmax(1).cpu(), 1, generator=generator)[:, 0]
                found.append(chosen)
                last = chosen.to(self.device).repeat(1 + guided)
        return torch.stack(found, 1)

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
        weights = {NETWORK + name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        shares, names = written(self.conditions)
        about = {name: json.dumps(getattr(self, name)) for name in ABOUT} | {"positions": str(self.positions)} | names
        write_tensors({CODES: self.codes} | shares | weights, Path(path), {"prior": NAME} | about | dict(metadata))

    @classmethod
    def load(cls, path: str | Path) -> CodePrior:
        """Read what `save` wrote. Raises `ValueError` if the file is missing, damaged or something else."""
        tensors, metadata = read_prior(path)
        conditions = read_conditions(tensors, metadata) or Classes()  # those of before had no labels
        if metadata.get("prior") != NAME or CODES not in tensors or not metadata.keys() >= {*ABOUT, "positions"}:
            raise ValueError(f"{path} holds no prior of codes; fit the prior again")
        codes = tensors.pop(CODES)
        settings, held_out_loss = (json.loads(metadata[name]) for name in ABOUT)
        try:
            network = CodeTransformer(
                int(metadata["positions"]), scaled(codes), **settings, conditions=conditions.num_rows
            )
            network.load_state_dict({name.removeprefix(NETWORK): tensor for name, tensor in tensors.items()})
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the weights in {path} do not fit its settings: {error}") from error
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


@dataclass(frozen=True)
class NextCode:
    """The cross-entropy of each code given those before it, mean over the row, judged by rows that are held out."""

    rows: Tensor  # (N, S)
    told: Tensor | None  # (N, F)
    conditions: Conditions
    train: Tensor
    test: Tensor
    seed: int
    device: torch.device | str

    def losses(self, network: CodeTransformer, step: int, rank: int, world: int) -> Tensor:
        """Nats a code of this rank's share of the rows of a step, (B,)."""
        seed = np.random.SeedSequence([self.seed, step]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        chosen = self.train[torch.randint(len(self.train), (BATCH,), generator=generator)]
        told = None if self.told is None else self.conditions.hidden(self.told[chosen], generator)
        own = torch.arange(BATCH).tensor_split(world)[rank]
        return self.nats(network, chosen[own], None if told is None else told[own])

    def nats(self, network: CodeTransformer, chosen: Tensor, told: Tensor | None) -> Tensor:
        """Nats a code of the rows at these places, of which is `told` (B, F): (B,)."""
        rows = self.rows[chosen].to(self.device)
        logits = network(rows, None if told is None else told.to(self.device))
        return cross_entropy(logits.mT, rows, reduction="none").mean(1)

    def held_out_loss(self, network: CodeTransformer) -> float:
        """That of the rows held out, as a share of that of codes that know nothing of each other."""
        usual = network.usual.log_softmax(1)
        places = torch.arange(len(usual))
        alone = -usual.cpu()[places, self.rows[self.test]].mean().item()
        parts = ((part, None if self.told is None else self.told[part]) for part in self.test.split(BATCH))
        return sum(self.nats(network, *part).sum().item() for part in parts) / len(self.test) / alone


def fit_codes(
    latents: Latents,
    seed: int = 0,
    *,
    length: Length | None = None,
    width: int = 128,
    depth: int = 4,
    device: torch.device | str = "cpu",
    begin: Callable[[Fit], object] = lambda fit: None,
    watch: Watch = lambda fit, done: None,
) -> CodePrior:
    """Fit a transformer to the codes of the latents, by default until each was drawn ten times.

    Every rank calls it with the same latents, and gets the same prior; `begin` and `watch` as in `fit_flow`. Raises
    `ValueError` for latents that are no codes.
    """
    if latents.codes is None:
        raise ValueError("these latents are no codes; take --kind flow")
    codes = latents.codes.detach().cpu().float()
    parts = latents.mean.split(AT_ONCE)  # of all at once, the distances would take gigabytes
    rows = torch.cat([in_rows(nearest_indices(part, codes, latents.positions)) for part in parts])
    train, test = held_out(latents, seed)
    settings = {"width": width, "depth": depth}
    conditions = conditions_of(latents)
    told = None if latents.labels is None else conditions.told(latents.labels)
    with own_generators():
        torch.manual_seed(seed)
        network = CodeTransformer(latents.positions, scaled(codes), **settings, conditions=conditions.num_rows)
    network.usual.copy_(log_frequencies(rows[train], codes.shape[1]))
    fit = begun(network.to(device))
    begin(fit)
    if len(test):
        task = NextCode(rows, told, conditions, train, test, seed, device)
        run_fit(fit, length or Length(10 * len(train)), task, device, watch)
    return CodePrior(codes, fit.best, settings, conditions, fit.counters["best_loss"])


def log_frequencies(rows: Tensor, num_codes: int) -> Tensor:
    """The logarithm of how frequent each code is at each place: (N, S) -> (S, K)."""
    counts = torch.stack([torch.bincount(column, minlength=num_codes) for column in rows.T]) + SMOOTHING
    return (counts / counts.sum(1, keepdim=True)).log().float()
