"""The fit of a transformer to codes: what it is told of them, and where it starts.

Letters as in `priors.codes`: N latents of d entries, which are rows of S codes; K codes to choose from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vaekit.networks.code_transformer import CodeTransformer, Start
from vaekit.networks.codes import nearest_indices
from vaekit.priors.base import Latents
from vaekit.priors.codes import AT_ONCE, LEAST_STD, CodePrior, in_rows, scaled
from vaekit.priors.conditions import Conditions, conditions_of
from vaekit.priors.fitting import BATCH, Fit, Length, Watch, begun, held_out, run_fit
from vaekit.system.devices import own_generators
from vaekit.system.ranks import object_from_rank_zero, rank_and_world

SMOOTHING = 0.5  # uses that each code has beside those counted


@dataclass(frozen=True)
class NextCode:
    """The cross-entropy of each code given those before it, mean over the row, judged by rows that are held out."""

    rows: Tensor  # (N, S)
    told: Tensor | None  # (N, F)
    conditions: Conditions
    alone: Tensor  # (S, K), log p of each code at its place, whatever came before
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

    @torch.no_grad()
    def held_out_loss(self, network: CodeTransformer) -> float:
        """That of the rows held out, as a share of that of codes that know nothing of each other."""
        alone = -self.alone[torch.arange(len(self.alone)), self.rows[self.test]].mean().item()
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
    began_at = time.monotonic()
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
    alone = log_frequencies(rows[train], codes.shape[1])
    task = NextCode(rows, told, conditions, alone, train, test, seed, device)
    loss = started(network.to(device), task, scaled(codes))
    fit = begun(network, loss, began_at, length)
    begin(fit)
    if len(test):
        run_fit(fit, length or Length(10 * len(train)), task, device, watch)
    return CodePrior(codes, fit.best, settings, conditions, fit.counters["best_loss"])


def started(network: CodeTransformer, task: NextCode, vectors: Tensor) -> float:
    """Let the network start at the Gaussian of the vectors, or where that is no better, at frequencies alone.

    Returns the held-out loss of the start. Every rank has that of the first.
    """
    found: tuple[Start | None, float] = (None, 1.0)
    if len(task.test) and rank_and_world()[0] == 0:
        start = gaussian_start(task.rows[task.train], vectors, task.alone)
        network.begin_at(start)
        loss = task.held_out_loss(network)
        found = (start, loss) if loss < 1 else found
    start_of_all, loss = object_from_rank_zero(found)
    length, num_codes = task.alone.shape
    plain = Start.of_nothing(length, num_codes, vectors.shape[-1])._replace(usual=task.alone)
    network.begin_at(start_of_all or plain)
    return loss


def gaussian_start(rows: Tensor, vectors: Tensor, alone: Tensor) -> Start:
    """What codes say of the next one if the vectors of rows (N, S) are about a Gaussian: `vectors` (G, K, e).

    p(k | those before) = p(k) N(v_k | those before) / N(v_k): as frequent as the code is at its place, `alone` (S, K),
    and more so where its vector v_k is what those before let expect. The Gaussian of all S e entries is that of the
    rows, with a covariance that is shrunk towards its diagonal by d / (d + N); with its Cholesky factor L a vector
    is a sum over those before and a part of its own, v_s - mean_s = sum over t < s of L_st u_t + L_ss u_s.
    """
    groups = torch.arange(rows.shape[1]) % len(vectors)
    drawn = vectors[groups, rows].double()  # (N, S, e)
    length, entries = drawn.shape[1:]
    mean = drawn.mean(0)
    centred = (drawn - mean).flatten(1)
    d, n = length * entries, len(centred)
    covariance = centred.T @ centred / n
    variance = covariance.diagonal().clamp(min=LEAST_STD)
    covariance = torch.lerp(covariance, variance.diag(), d / (d + n))
    factor = torch.linalg.cholesky(covariance)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(d, dtype=factor.dtype), upper=False)
    places = range(0, d, entries)
    own = torch.stack([inverse[i : i + entries, i : i + entries] for i in places])  # the inverses of L_ss
    usual = torch.stack([covariance[i : i + entries, i : i + entries] for i in places])
    candidates = vectors[groups].double() - mean[:, None]  # (S, K, e)
    answers = candidates @ own.mT
    apart = (candidates @ torch.linalg.inv(usual) * candidates).sum(-1)
    seen = torch.block_diag(*own) - inverse
    start = alone - answers.square().sum(-1) / 2 + apart / 2, mean, seen, answers
    return Start(*(tensor.float() for tensor in start))


def log_frequencies(rows: Tensor, num_codes: int) -> Tensor:
    """The logarithm of how frequent each code is at each place: (N, S) -> (S, K)."""
    counts = torch.stack([torch.bincount(column, minlength=num_codes) for column in rows.T]) + SMOOTHING
    return (counts / counts.sum(1, keepdim=True)).log().float()
