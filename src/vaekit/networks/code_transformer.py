"""A transformer that says what the next code may be, one code after another.

Letters: N pictures of S = P G codes in a row, the G groups of a position together; K codes to choose from; width W.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Past = tuple[Tensor, Tensor]  # keys and values (N, heads, S, W / heads) of the codes before


class CodeTransformer(nn.Module):
    """log p(code s | codes before s) of rows of codes: causal attention over the row (GPT-2: Radford et al., 2019).

    Its last layers are zero at first, and `usual` (S, K) is added to what it gives: the untrained network says how
    frequent each code is at its place, whatever came before.
    """

    usual: Tensor

    def __init__(self, positions: int, groups: int, num_codes: int, *, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.groups, self.num_codes = groups, num_codes
        length = positions * groups
        self.codes = nn.Embedding(groups * num_codes, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(CausalBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Parameter(torch.zeros(groups, width, num_codes))
        self.register_buffer("usual", torch.zeros(length, num_codes))
        nn.init.normal_(self.codes.weight, std=0.02)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits of every code of rows (N, S), from those before it: (N, S, K)."""
        first = self.start.expand(len(codes), 1, -1)
        tokens = torch.cat([first, self.embedded(codes[:, :-1], 0)], 1) + self.place
        for block in self.blocks:
            tokens, _ = block(tokens, None)
        by_group = self.norm(tokens).unflatten(1, (-1, self.groups))  # (N, P, G, W)
        return torch.einsum("npgw,gwk->npgk", by_group, self.out).flatten(1, 2) + self.usual

    def next_logits(self, last: Tensor | None, place: int, past: list[Past | None], rows: int) -> Tensor:
        """Logits (N, K) of the code at one place of N `rows`, of which `last` (N,) is the code before; moves `past`."""
        token = self.start.expand(rows, 1, -1) if last is None else self.embedded(last[:, None], place - 1)
        token = token + self.place[place]
        for i, block in enumerate(self.blocks):
            token, past[i] = block(token, past[i])
        return self.norm(token[:, 0]) @ self.out[place % self.groups] + self.usual[place]

    def embedded(self, codes: Tensor, first: int) -> Tensor:
        """Codes (N, s) at the places from `first` on, as tokens: each group has codes of its own."""
        places = torch.arange(first, first + codes.shape[1], device=codes.device)
        return self.codes(codes + places % self.groups * self.num_codes)


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
