"""A transformer that says what the next code may be, one code after another.

Letters: N pictures of S = P G codes in a row, the G groups of a position together; K codes to choose from; width W.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Past = tuple[Tensor, Tensor]  # keys and values (N, heads, S, W / heads) of the codes before


class Start(NamedTuple):
    """Logits before anything is learned: `usual` + (`seen` @ (vectors of the codes before - `mean`)) . `answers`.

    `usual` (S, K) of each code at its place, `mean` (S, e) of the vectors there, `seen` (S e, S e) zero on and above
    its diagonal of blocks, `answers` (S, K, e). All are zero where nothing is known.
    """

    usual: Tensor
    mean: Tensor
    seen: Tensor
    answers: Tensor

    @classmethod
    def of_nothing(cls, length: int, num_codes: int, entries: int) -> Start:
        """That of rows of that many codes, whose vectors have so many entries, where nothing is known."""
        d = length * entries
        shapes = (length, num_codes), (length, entries), (d, d), (length, num_codes, entries)
        return cls(*(torch.zeros(shape) for shape in shapes))


class CodeTransformer(nn.Module):
    """log p(code s | codes before s) of rows of codes, by causal attention (GPT-2: Radford et al., 2019).

    `vectors` (G, K, e) are what codes stand for, each entry with a std of about 1. A code is told by its vector, and
    its logit is a quadratic function of its vector beside one of its own: neighbours are alike, and the next vector
    may be about a Gaussian given those before. The last layers are zero at first, and what a `Start` says is added to
    what they give. With `conditions` above 0 it is also told things about each picture, (N, F) whole numbers below
    that.
    """

    usual: Tensor
    mean: Tensor
    seen: Tensor
    answers: Tensor
    vectors: Tensor
    features: Tensor  # (G, K, f), the entries of the vectors and their products

    def __init__(
        self, positions: int, vectors: Tensor, *, width: int = 128, depth: int = 4, conditions: int = 0
    ) -> None:
        super().__init__()
        self.groups, self.num_codes, entries = vectors.shape
        length = positions * self.groups
        self.register_buffer("vectors", vectors.clone())
        self.register_buffer("features", quadratic(vectors))
        self.codes = nn.Embedding(self.groups * self.num_codes, width)
        self.told = nn.Parameter(torch.randn(self.groups, entries, width) / entries**0.5)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Parameter(torch.zeros(self.groups, width, self.num_codes))
        self.bent = nn.Parameter(torch.zeros(self.groups, width, self.features.shape[2]))
        for name, value in Start.of_nothing(length, self.num_codes, entries)._asdict().items():
            self.register_buffer(name, value)
        nn.init.normal_(self.codes.weight, std=0.02)
        self.label = nn.Embedding(conditions, width) if conditions else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(self, codes: Tensor, told: Tensor | None = None) -> Tensor:
        """Logits of every code of rows (N, S), from those before it and what is `told` (N, F): (N, S, K)."""
        first = self.start.expand(len(codes), 1, -1)
        tokens = torch.cat([first, self.embedded(codes[:, :-1], 0)], 1) + self.place + self.about(told)
        for block in self.blocks:
            tokens, _ = block(tokens, None)
        by_group = self.norm(tokens).unflatten(1, (-1, self.groups))  # (N, P, G, W)
        learned = torch.einsum("npgw,gwk->npgk", by_group, self.heads()).flatten(1, 2)
        expected = (self.centred(codes) @ self.seen.mT).unflatten(1, self.mean.shape)
        return learned + self.usual + torch.einsum("nse,ske->nsk", expected, self.answers)

    def next_logits(self, before: Tensor, past: list[Past | None], told: Tensor | None = None) -> Tensor:
        """Logits (N, K) of the code that follows those `before` (N, s); moves `past`, what was made of them."""
        rows, place = before.shape
        token = self.embedded(before[:, -1:], place - 1) if place else self.start.expand(rows, 1, -1)
        token = token + self.place[place] + self.about(told)
        for i, block in enumerate(self.blocks):
            token, past[i] = block(token, past[i])
        learned = self.norm(token[:, 0]) @ self.heads(place % self.groups)
        entries = self.mean.shape[1]
        own = slice(place * entries, (place + 1) * entries)
        expected = self.centred(before) @ self.seen[own, : place * entries].mT
        return learned + self.usual[place] + expected @ self.answers[place].mT

    def centred(self, codes: Tensor) -> Tensor:
        """The vectors of the first codes of rows (N, s) less their means: (N, s e)."""
        return (self.vectors_of(codes, 0) - self.mean[: codes.shape[1]]).flatten(1)

    def vectors_of(self, codes: Tensor, first: int) -> Tensor:
        """The vectors of codes (N, s) at the places from `first` on, (N, s, e)."""
        return self.vectors[self.groups_of(codes, first), codes]

    def groups_of(self, codes: Tensor, first: int) -> Tensor:
        """The groups of codes (N, s) at the places from `first` on, (s,)."""
        return torch.arange(first, first + codes.shape[1], device=codes.device) % self.groups

    def begin_at(self, start: Start) -> None:
        """Take another start, for what is learned to be added to."""
        for name, value in start._asdict().items():
            getattr(self, name).copy_(value)

    def about(self, told: Tensor | None) -> Tensor | float:
        """What every token of a picture is told of it: (N, F) -> (N, 1, W); nothing where there is nothing to tell."""
        if told is None:
            return 0.0
        assert self.label is not None, "a network without conditions is told nothing"
        return self.label(told).sum(1, keepdim=True)

    def heads(self, groups: int | slice = slice(None)) -> Tensor:
        """What gives the logits of each group, (G, W, K), or of one, (W, K)."""
        return self.out[groups] + self.bent[groups] @ self.features[groups].mT

    def embedded(self, codes: Tensor, first: int) -> Tensor:
        """Codes (N, s) at the places from `first` on, as tokens: each group has codes of its own."""
        groups, vectors = self.groups_of(codes, first), self.vectors_of(codes, first)
        return self.codes(codes + groups * self.num_codes) + torch.einsum("nse,sew->nsw", vectors, self.told[groups])


class CausalBlock(nn.Module):
    """Attention to the tokens before, then a network of each token; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        for last in (self.mix, self.feed[2]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """Tokens (N, s, W) of a whole row, or the next one (N, 1, W) after those of `past`."""
        q, k, v = self.qkv(self.norms[0](tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        seen = scaled_dot_product_attention(q, k, v, is_causal=tokens.shape[1] > 1)
        tokens = tokens + self.mix(seen.transpose(1, 2).flatten(2))
        return tokens + self.feed(self.norms[1](tokens)), (k, v)


def quadratic(vectors: Tensor) -> Tensor:
    """The entries of vectors (..., e) and the products of every two of them, (..., e + e (e + 1) / 2)."""
    first, second = torch.triu_indices(vectors.shape[-1], vectors.shape[-1], device=vectors.device)
    return torch.cat([vectors, vectors[..., first] * vectors[..., second]], -1)
