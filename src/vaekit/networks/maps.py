"""Invertible maps of latents that an objective puts before the first layer of the decoder, about the identity at first.

Letters: z (B, d).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

COUPLINGS, WIDTH = 4, 256
MOST_LOG_SCALE = 2.0  # of one coupling


class CouplingFlow(nn.Module):
    """z -> f(z), affine couplings one after another (RealNVP: Dinh et al., ICLR 2017).

    Each moves one half of the entries by a scale and a shift that follow from the other half.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.kept = latent_dim // 2
        sizes = [(self.kept, latent_dim - self.kept), (latent_dim - self.kept, self.kept)]
        self.networks = nn.ModuleList(coupling(*sizes[i % 2]) for i in range(COUPLINGS))

    def forward(self, z: Tensor) -> Tensor:
        return self.with_log_det(z)[0]

    def with_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """f(z), and log |det df/dz| of each row, (B,)."""
        log_det = z.new_zeros(z.shape[0])  # a length would be a constant for torch.export
        halves = [z[:, : self.kept], z[:, self.kept :]]
        for i, network in enumerate(self.networks):
            log_scale, shift = parts(network, halves[i % 2])
            halves[1 - i % 2] = halves[1 - i % 2] * torch.exp(log_scale) + shift
            log_det = log_det + log_scale.sum(1)
        return torch.cat(halves, 1), log_det

    def inverse(self, w: Tensor) -> Tensor:
        """f(z) -> z."""
        halves = [w[:, : self.kept], w[:, self.kept :]]
        for i, network in reversed(list(enumerate(self.networks))):
            log_scale, shift = parts(network, halves[i % 2])
            halves[1 - i % 2] = (halves[1 - i % 2] - shift) * torch.exp(-log_scale)
        return torch.cat(halves, 1)


def coupling(seen: int, moved: int) -> nn.Sequential:
    """The network of one coupling; its last layer is zero at first."""
    last = nn.Linear(WIDTH, 2 * moved)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Linear(seen, WIDTH), nn.SiLU(), last)


def parts(network: nn.Module, half: Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of the scale, softly bounded, and the shift."""
    log_scale, shift = network(half).chunk(2, 1)
    return MOST_LOG_SCALE * torch.tanh(log_scale / MOST_LOG_SCALE), shift


class BrenierMap(nn.Module):
    """z -> z + W^T (c * sigmoid(W z + b)), c >= 0: the gradient of a convex function, so that no two z become one.

    The function is |z|^2 / 2 + sum_k c_k log(1 + exp(w_k z + b_k)) (Wang et al., NeurIPS 2021, section 3, after
    Brenier). Its Jacobian is I and something that is never negative.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.into = nn.Linear(latent_dim, WIDTH)
        self.raw = nn.Parameter(torch.full((WIDTH,), -5.0))  # c = softplus(raw), nearly zero at first

    def forward(self, z: Tensor) -> Tensor:
        weights = nn.functional.softplus(self.raw)
        return z + (weights * torch.sigmoid(self.into(z))) @ self.into.weight
