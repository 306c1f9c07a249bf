"""Muon: an optimiser that moves a weight matrix equally far in all its directions (Jordan et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steep at zero, so that five iterations are enough
ITERATIONS = 5
ADAM_RMS = 0.2  # of Adam's usual update, in learning rates (Liu et al., "Muon is scalable for LLM training", 2025)
LEAST_SIDE = 16
TINY = 1e-7


class Muon(Optimizer):
    """Nesterov momentum made orthogonal for matrices and convolutions, AdamW for everything else.

    A convolution (O, I, h, w) is a matrix of O rows. Updates are as large as Adam's usual ones (Liu et al., 2025,
    eq. 4), so `lr` and the decoupled `weight_decay` mean what they mean there. Biases, gains, and matrices with a
    side below 16 (those to and from pixels and logits) are AdamW's, with `betas` and `eps`. `fused` means what matters
    of it to others: where `found_inf` is set, a scalar on the device, a step with a 1 there changes nothing, and
    nobody waits to know. `dtype` is that of `orthogonalised`.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        *,
        momentum: float,
        fused: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        settings = {"betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "fused": fused}
        super().__init__(params, {"lr": lr} | settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.move(weight, weight.grad, group)

    def move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One weight's step, of size zero after `found_inf`."""
        taken: Tensor | float = 1.0
        if self.found_inf is not None:
            taken = 1.0 - self.found_inf
            gradient = torch.where(self.found_inf > 0, 0.0, gradient)
        state = self.state[weight]
        if is_matrix(weight):
            update = orthogonal_momentum(gradient, state, group, taken, self.dtype)
        else:
            update = adam(gradient, state, group, taken)
        lr = group["lr"] * taken
        weight.mul_(1 - lr * group["weight_decay"]).sub_(lr * update)


def orthogonal_momentum(
    gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], taken: Any, dtype: torch.dtype
) -> Tensor:
    """Muon's update in learning rates, in the shape of the gradient."""
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    momentum = state["momentum"].lerp_(gradient, (1 - group["momentum"]) * taken)
    ahead = gradient.lerp(momentum, group["momentum"])  # Nesterov's
    # The order of the columns does not matter; this one makes a view of weights that are channels_last.
    ahead = ahead.movedim(1, -1)
    matrix = ahead.flatten(1)
    update = orthogonalised(matrix, dtype) * (ADAM_RMS * math.sqrt(max(matrix.shape)))
    return update.reshape(ahead.shape).movedim(-1, 1)


def adam(gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], taken: Any) -> Tensor:
    """Adam's update in learning rates (Kingma and Ba, 2015)."""
    if not state:
        state["step"] = torch.zeros((), device=gradient.device)
        state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    beta1, beta2 = group["betas"]
    step = (state["step"].add_(taken)).clamp(min=1)
    first = state["first"].lerp_(gradient, (1 - beta1) * taken) / (1 - beta1**step)
    second = state["second"].lerp_(gradient.square(), (1 - beta2) * taken) / (1 - beta2**step)
    return first / (second.sqrt() + group["eps"])


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight is a matrix or a convolution, and not a thin one."""
    return weight.ndim >= 2 and min(len(weight), weight[0].numel()) >= LEAST_SIDE


def orthogonalised(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(m, n) -> about its nearest orthogonal matrix U V^T: the same directions, singular values from 0.7 to 1.2.

    Newton-Schulz iterations in `dtype`: in bfloat16 on x itself, as Jordan et al. do; in float32 on its Gram matrix,
    which has the shorter side only: less arithmetic, and as exact there. In bfloat16 it is not: rounding gives the
    Gram matrix negative eigenvalues, and the iterations blow them up.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalised(matrix.T, dtype).T
    x = (matrix / matrix.norm().clamp(min=TINY)).to(dtype)
    return (iterated(x) if dtype == torch.bfloat16 else iterated_by_gram(x)).to(matrix.dtype)


def iterated(x: Tensor) -> Tensor:
    """x (m, n) with m <= n after all iterations, each a polynomial of x x^T times x."""
    for _ in range(ITERATIONS):
        x = polynomial(x @ x.T) @ x
    return x


def iterated_by_gram(x: Tensor) -> Tensor:
    """The same, with the polynomials multiplied first: the iterations see x x^T alone."""
    gram = x @ x.T
    factor = polynomial(gram)
    product = factor
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = polynomial(gram)
        product = factor @ product
    return product @ x


def polynomial(gram: Tensor) -> Tensor:
    """a I + b G + c G^2, which takes singular values a step closer to 1."""
    a, b, c = NEWTON_SCHULZ
    result = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal().add_(a)
    return result
