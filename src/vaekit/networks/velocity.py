"""The velocity of a flow of latents: a small transformer over the positions of their grid, moved by time and label.

Beside it stands what it need not learn: the velocity of a mixture of Gaussians, by formula.

As in Peebles & Xie, "Scalable diffusion models with transformers" (2023): each block is scaled, shifted and gated by
what it is told (adaLN-zero), and starts as the identity. Letters: N latents of d entries, at P positions; width W.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

WAVES = 64  # frequencies that time is told by
SLOWEST = 1e-3  # of them, as a share of the fastest
LEAST_VARIANCE = 1e-6  # of a component in a direction, where that of all is 1
TURNS = 1000.0  # of the fastest, in radians for a time of 1


class Velocity(nn.Module):
    """v(u, t) of latents u (N, d) at times t (N,), of about 0 to 2: (N, d), zero before it is trained.

    With `components` above 0 it is that of a mixture of so many Gaussians before, see `MixtureVelocity`.

    With `positions` P above 1, u is a grid (d / P, P) flattened, as spatial heads give it, and attention joins its
    positions; with 1, for dense heads, each block is a residual network over all entries. With `conditions` above 0 it
    is also told things about each picture, (N, F) whole numbers below `conditions`: the sum of their embeddings.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        positions: int = 1,
        width: int = 128,
        depth: int = 4,
        conditions: int = 0,
        components: int = 0,
    ) -> None:
        super().__init__()
        self.start = MixtureVelocity(latent_dim, components) if components else None
        self.positions = positions
        entries = latent_dim // positions
        self.embed = nn.Linear(entries, width)
        self.place = nn.Parameter(0.02 * torch.randn(positions, width))
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(conditions, width) if conditions else None
        self.blocks = nn.ModuleList(Block(width, attends=positions > 1) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_linear(width, 2 * width)
        self.out = zero_linear(width, entries)

    def forward(self, u: Tensor, t: Tensor, about: Tensor | None = None) -> Tensor:
        told = self.time(waves(t))
        if self.label is not None and about is not None:
            told = told + self.label(about).sum(1)
        told = nn.functional.silu(told)[:, None]  # (N, 1, W)
        tokens = self.embed(u.unflatten(1, (-1, self.positions)).transpose(1, 2)) + self.place  # (N, P, W)
        for block in self.blocks:
            tokens = block(tokens, told)
        scale, shift = self.modulation(told).chunk(2, -1)
        learned = self.out(self.norm(tokens) * (1 + scale) + shift).transpose(1, 2).flatten(1)
        return learned if self.start is None else learned + self.start(u, t)


class MixtureVelocity(nn.Module):
    """The mean slope dw/da of arcs w = cos(a) eps + sin(a) u, given w, where u is a mixture of K Gaussians: exactly.

    With the shares p_k, means m_k and covariances S_k = Q_k diag(v_k) Q_k^T, w is the mixture of N(sin(a) m_k, C_k),
    C_k = cos(a)^2 I + sin(a)^2 S_k. Given w and k, the slope is linear in r = w - sin(a) m_k,

        E[cos(a) u - sin(a) eps | w, k] = cos(a) m_k + cos(a) sin(a) (S_k - I) C_k^-1 r,

    and the mean over k is weighted by the posterior of k. Nothing of it is learned: `set_mixture` fills it.
    """

    log_shares: Tensor  # (K,)
    means: Tensor  # (K, d)
    variances: Tensor  # (K, d), v
    directions: Tensor  # (K, d, d), Q, whose columns are the directions of these variances

    def __init__(self, latent_dim: int, components: int) -> None:
        super().__init__()
        k, d = components, latent_dim
        self.register_buffer("log_shares", torch.full((k,), -math.log(k)))
        self.register_buffer("means", torch.zeros(k, d))
        self.register_buffer("variances", torch.ones(k, d))
        self.register_buffer("directions", torch.eye(d).repeat(k, 1, 1))

    def set_mixture(self, shares: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Take shares (K,), means (K, d) and covariances (K, d, d)."""
        variances, directions = torch.linalg.eigh(covariances.double())
        self.log_shares.copy_(shares.log())
        self.means.copy_(means)
        self.variances.copy_(variances.clamp(min=LEAST_VARIANCE))
        self.directions.copy_(directions)

    def forward(self, w: Tensor, a: Tensor) -> Tensor:
        cos, sin = a.cos()[:, None, None], a.sin()[:, None, None]
        apart = w[:, None] - sin * self.means  # (N, K, d)
        along = torch.einsum("nkd,kde->nke", apart, self.directions)
        variances = cos**2 + sin**2 * self.variances
        log_density = -0.5 * (along**2 / variances + variances.log()).sum(2) + self.log_shares
        share = torch.softmax(log_density, 1)[..., None]  # (N, K, 1)
        turned = torch.einsum("nke,kde->nkd", (self.variances - 1) / variances * along, self.directions)
        return (share * (cos * self.means + cos * sin * turned)).sum(1)


class Block(nn.Module):
    """Attention, where there are positions to join, and a network on each token (N, P, W), told (N, 1, W)."""

    def __init__(self, width: int, attends: bool) -> None:
        super().__init__()
        self.attention = Branch(width, Attention(width)) if attends else nn.Identity()
        feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.feed = Branch(width, feed)

    def forward(self, tokens: Tensor, told: Tensor) -> Tensor:
        if isinstance(self.attention, Branch):
            tokens = self.attention(tokens, told)
        return self.feed(tokens, told)


class Branch(nn.Module):
    """x + gate f(scale norm(x) + shift), with gate, scale and shift from what it is told; the identity at the start."""

    def __init__(self, width: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_linear(width, 3 * width)
        self.inner = inner

    def forward(self, tokens: Tensor, told: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(told).chunk(3, -1)
        return tokens + gate * self.inner(self.norm(tokens) * (1 + scale) + shift)


class Attention(nn.Module):
    """Self-attention of tokens (N, P, W), in heads of 32 entries or so."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.mix(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that gives zero before it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def waves(t: Tensor) -> Tensor:
    """Times (N,) -> (N, 2 WAVES): cosines and sines of frequencies in a geometric row."""
    rates = torch.exp(torch.linspace(0, math.log(SLOWEST), WAVES, device=t.device))
    angles = TURNS * t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1)
