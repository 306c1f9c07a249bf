"""Muon, against the singular value decomposition and torch's AdamW."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vaekit.networks.muon import Muon, nearest_to_one, orthogonalised, polynomials

SETTINGS = {"betas": (0.9, 0.99), "eps": 1e-7, "weight_decay": 0.1}
SHAPES = [(32, 48), (48, 32), (64, 16, 3, 3), (16, 64, 1, 1)]


def muon(*weights: Tensor, lr: float = 0.1, **changes: Any) -> Muon:
    return Muon(weights, **(SETTINGS | {"lr": lr} | changes), momentum=0.95, fused=False)


def random_weight(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, seeds: range) -> None:
    for seed in seeds:
        weight.grad = random_weight(*weight.shape, seed=100 + seed).detach()
        optimizer.step()


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u @ v).float()


def test_each_polynomial_is_as_far_from_one_at_four_points_in_turn_and_nowhere_further():
    """What makes an odd quintic the best one (Chebyshev's equioscillation)."""
    for low, high in [(3e-3, 1.0), (0.06, 1.94), (0.5, 1.5)]:
        (a, b, c), error = nearest_to_one(low, high)
        s = np.linspace(low, high, 1_000_001)
        distance = a * s + b * s**3 + c * s**5 - 1
        assert np.abs(distance).max() == pytest.approx(error, rel=1e-6)
        extremes = distance[np.abs(distance) > error * (1 - 1e-6)]
        assert np.count_nonzero(np.diff(np.sign(extremes))) == 3


def test_singular_values_end_within_a_fifth_of_one():
    values = np.geomspace(3.1e-3, 1.0, 100_000)
    for a, b, c in polynomials():
        values = a * values + b * values**3 + c * values**5
    assert np.abs(values - 1).max() < 0.22  # a fifth, and what the slack costs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (64, 64), (16, 400), (256, 2304)])
def test_orthogonalised_is_near_the_nearest_orthogonal_matrix(shape, dtype):
    matrix = random_weight(*shape).detach()

    result = orthogonalised(matrix[None].to(dtype))[0].float()

    assert torch.cosine_similarity(result.flatten(), nearest_orthogonal(matrix).flatten(), 0) > 0.97
    assert torch.linalg.svdvals(result).max() < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_singular_values_are_brought_near_one_too(dtype):
    u, _, v = torch.linalg.svd(random_weight(32, 100).detach(), full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -2, 32)) @ v

    values = torch.linalg.svdvals(orthogonalised(matrix[None].to(dtype))[0].float())

    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_zero_gradient_is_no_division_by_zero():
    for dtype in (torch.float32, torch.bfloat16):
        assert orthogonalised(torch.zeros(1, 16, 32, dtype=dtype)).count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_one_shape_are_moved_as_each_alone(dtype):
    weights, alone = ([random_weight(32, 16, 3, 3, seed=seed) for seed in range(3)] for _ in range(2))
    for together in zip(weights, alone, strict=True):
        for weight in together:
            weight.grad = weight.detach().square() * 10 ** weight.detach().mean().sign()  # of very different sizes

    muon(*weights, dtype=dtype).step()
    for weight in alone:
        muon(weight, dtype=dtype).step()

    torch.testing.assert_close(weights, alone)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_as_large_as_adams(shape):
    weight = random_weight(*shape)
    before = weight.detach().clone()

    steps(muon(weight, weight_decay=0.0), weight, range(1))

    # 0.2 learning rates in root mean square, up to the singular values, which are 0.8 to 1.2 instead of 1
    assert (weight.detach() - before).square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.3)


def test_a_convolution_is_a_matrix_with_a_row_for_each_output_channel():
    as_convolution = random_weight(32, 8, 3, 3)
    as_matrix = nn.Parameter(as_convolution.detach().flatten(1).clone())
    one, other = muon(as_convolution), muon(as_matrix)

    for seed in range(3):
        as_convolution.grad = random_weight(32, 8, 3, 3, seed=seed).detach()
        as_matrix.grad = as_convolution.grad.flatten(1)
        one.step()
        other.step()

    torch.testing.assert_close(as_convolution.detach().flatten(1), as_matrix.detach(), rtol=1e-4, atol=1e-5)


def test_the_memory_format_of_a_convolution_changes_nothing():
    contiguous = random_weight(32, 16, 3, 3)
    channels_last = nn.Parameter(contiguous.detach().clone(memory_format=torch.channels_last))

    steps(muon(contiguous), contiguous, range(3))
    steps(muon(channels_last), channels_last, range(3))

    torch.testing.assert_close(channels_last.detach(), contiguous.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(64,), (3, 32, 3, 3), (32, 12), (1, 64, 3, 3)])
def test_vectors_and_thin_matrices_are_moved_by_adamw(shape):
    weight, reference = random_weight(*shape), random_weight(*shape)

    steps(muon(weight), weight, range(5))
    steps(torch.optim.AdamW([reference], lr=0.1, **SETTINGS), reference, range(5))

    torch.testing.assert_close(weight, reference)


def test_weight_decay_shrinks_the_weight_by_lr_times_decay():
    decayed, free = random_weight(32, 32), random_weight(32, 32)
    before = decayed.detach().clone()

    steps(muon(decayed, lr=0.1, weight_decay=0.5), decayed, range(1))
    steps(muon(free, lr=0.1, weight_decay=0.0), free, range(1))

    torch.testing.assert_close(free - decayed, 0.05 * before)


@pytest.mark.parametrize("shape", [(32, 48), (64,)])
@pytest.mark.parametrize("when", [0, 2])
def test_a_step_with_found_inf_is_as_if_it_had_not_been(shape, when):
    weight, reference = random_weight(*shape), random_weight(*shape)
    optimizer, undisturbed = muon(weight), muon(reference)
    optimizer.found_inf = torch.tensor(0.0)

    steps(optimizer, weight, range(when))
    steps(undisturbed, reference, range(when))
    optimizer.found_inf = torch.tensor(1.0)
    weight.grad = torch.full(shape, torch.nan)
    optimizer.step()
    torch.testing.assert_close(weight, reference)

    optimizer.found_inf = torch.tensor(0.0)
    steps(optimizer, weight, range(when, when + 2))
    steps(undisturbed, reference, range(when, when + 2))
    torch.testing.assert_close(weight, reference)


@pytest.mark.parametrize("shape", [(32, 16, 3, 3), (64,)])
def test_its_state_goes_on_bit_for_bit_in_another_process(shape):
    weight = random_weight(*shape)
    optimizer = muon(weight)
    steps(optimizer, weight, range(3))
    again = nn.Parameter(weight.detach().clone())
    loaded = muon(again)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    steps(optimizer, weight, range(3, 5))
    steps(loaded, again, range(3, 5))

    assert torch.equal(weight, again)
