"""Muon: an optimiser that moves a weight matrix equally far in all its directions (Jordan et al., 2024)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

ITERATIONS = 4
LEAST = 3e-3  # singular values of at least this share of the Frobenius norm end within about 0.2 of 1
REMEZ_ITERATIONS = 10  # four give twelve digits
SLACK = 1.01  # margin: rounding may move a singular value out of the interval that a polynomial is made for
ADAM_RMS = 0.2  # of Adam's usual update, in learning rates (Liu et al., "Muon is scalable for LLM training", 2025)
LEAST_SIDE = 16
TINY = 1e-7


class Muon(Optimizer):
    """Nesterov momentum made orthogonal for matrices and convolutions, AdamW for everything else.

    A convolution (O, I, h, w) is a matrix of O rows. Updates are as large as Adam's usual ones (Liu et al., 2025,
    eq. 4), so `lr` and the decoupled `weight_decay` mean the same as in AdamW. Biases, gains, and matrices with a side
    below 16 (those to and from pixels and logits) are updated by AdamW, with `betas` and `eps`, and so are groups with
    `matrices` off. `fused` tells callers
    that they may set `found_inf`, a scalar on the device, as with torch's fused optimisers: where it is 1, a step
    changes nothing, and no process waits for its value. `dtype` is that of the iterations, see `orthogonalised`.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
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
        """Update every weight that has a gradient; where `found_inf` is 1, nothing changes."""
        taken: Tensor | float = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        for group in self.param_groups:
            lr = group["lr"] * taken
            for weight, update in self.updates(group, taken):
                weight.mul_(1 - lr * group["weight_decay"]).sub_(update.mul_(lr))

    def updates(self, group: dict[str, Any], taken: Tensor | float) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights and their updates in learning rates. Matrices of one shape are made orthogonal together."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is None:
                continue
            gradient = weight.grad if self.found_inf is None else torch.where(self.found_inf > 0, 0.0, weight.grad)
            if group.get("matrices", True) and is_matrix(weight):
                ahead = nesterov(gradient, self.state[weight], group["momentum"], taken)
                alike[weight.shape].append((weight, as_matrix(ahead).to(self.dtype)))
            else:
                yield weight, adam(gradient, self.state[weight], group, taken)
        for shape, same in alike.items():
            weights, matrices = zip(*same, strict=True)
            scale = ADAM_RMS * math.sqrt(max(matrices[0].shape))
            for weight, update in zip(weights, orthogonalised(torch.stack(matrices)), strict=True):
                yield weight, from_matrix(update, shape).to(weight.dtype).mul_(scale)


def nesterov(gradient: Tensor, state: dict[str, Tensor], momentum: float, taken: Any) -> Tensor:
    """The gradient with its momentum, one step ahead."""
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    average = state["momentum"].lerp_(gradient, (1 - momentum) * taken)
    return gradient.lerp(average, momentum)


def as_matrix(weight: Tensor) -> Tensor:
    """(O, I, h, w) -> (O, h w I): an order of the columns that makes a view of weights that are channels_last."""
    return weight.movedim(1, -1).flatten(1)


def from_matrix(matrix: Tensor, shape: torch.Size) -> Tensor:
    """`as_matrix` undone."""
    out_channels, in_channels, *kernel = shape
    return matrix.reshape(out_channels, *kernel, in_channels).movedim(-1, 1)


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


def orthogonalised(matrices: Tensor) -> Tensor:
    """(k, m, n) -> about their nearest orthogonal matrices U V^T: the same directions, singular values from 0.8 to 1.2.

    Singular values below `LEAST` times the norm end lower. In bfloat16 the `polynomials` are applied to x itself, as
    Jordan et al. do. In float32 they are applied to its Gram matrix, whose side is the shorter one of x: that takes
    less arithmetic and is as exact. In bfloat16 it would not be: rounding gives the Gram matrix negative
    eigenvalues, which the polynomials amplify.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    return iterated(matrices) if matrices.dtype == torch.bfloat16 else iterated_by_gram(matrices)


def iterated(x: Tensor) -> Tensor:
    """x (k, m, n) with m <= n over its norm, after all iterations, each a polynomial of x x^T times x."""
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=TINY)
    for coefficients in polynomials():
        x = factor(x @ x.mT, coefficients) @ x
    return x


def iterated_by_gram(x: Tensor) -> Tensor:
    """The same with the polynomials multiplied first: the iterations see x x^T alone. Its trace is x's norm squared."""
    gram = x @ x.mT
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp(min=TINY)[:, None, None]
    gram /= norm.square()
    first, *others = polynomials()
    product = latest = factor(gram, first)
    for coefficients in others:
        gram = latest @ gram @ latest
        latest = factor(gram, coefficients)
        product = latest @ product
    return product.div_(norm) @ x


def factor(gram: Tensor, coefficients: tuple[float, float, float]) -> Tensor:
    """a I + b G + c G^2: times x, the polynomial a s + b s^3 + c s^5 of x's singular values s."""
    a, b, c = coefficients
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result


@cache
def polynomials() -> list[tuple[float, float, float]]:
    """(a, b, c) of each iteration: the a s + b s^3 + c s^5 nearest to 1 on the interval that the one before left.

    One after another, they are the best for the interval of the first, from `LEAST` to 1 (Amsel et al., "The Polar
    Express", 2025, theorem 3.1). All but the last allow for `SLACK`.
    """
    low, high = LEAST, 1.0
    found = []
    for iteration in range(ITERATIONS):
        (a, b, c), error = nearest_to_one(low, high)
        slack = SLACK if iteration < ITERATIONS - 1 else 1.0
        found.append((a / slack, b / slack**3, c / slack**5))
        low, high = 1 - error, 1 + error
    return found


def nearest_to_one(low: float, high: float) -> tuple[tuple[float, float, float], float]:
    """The odd quintic with the smallest maximum distance from 1 on [low, high], and that distance (Remez' exchange).

    The best one has the values 1 - E, 1 + E, 1 - E, 1 + E at the ends of the interval and its two extrema between them.
    """
    inner = np.array([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high])
    for _ in range(REMEZ_ITERATIONS):
        s = np.array([low, *inner, high])
        a, b, c, error = np.linalg.solve(np.stack([s, s**3, s**5, [1, -1, 1, -1]], axis=1), np.ones(4))
        inner = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a]).real))
    return (float(a), float(b), float(c)), float(error)
