"""The Wasserstein autoencoder's MMD against draws, a brute force and numerical integrals."""

import math

import pytest
import torch
from scipy import integrate

from vaekit.models.posterior import Posterior
from vaekit.objectives import wae
from vaekit.objectives.moments import kl_global
from vaekit.objectives.wae import constants, kernel_of_normals, kernel_to_normal, mmd_to_normal


def kernel(distances, d):
    return sum(c / (c + distances) for c in constants(d))


def brute_force(z, y):
    """The unbiased estimate as it is printed, with draws of N(0, I): latents and draws (N, d) each."""
    n, d = z.shape

    def k(a, b):
        return kernel((a[:, None] - b).square().sum(-1), d)

    different = ~torch.eye(n, dtype=torch.bool)
    return k(z, z)[different].mean() + k(y, y)[different].mean() - 2 * k(z, y).mean()


@pytest.mark.parametrize("d", [1, 3, 64, 512])
def test_the_kernel_to_a_normal_is_the_numerical_integral(d):
    squares = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 20.0], dtype=torch.float64) * d
    expected = [
        sum(
            integrate.quad(
                lambda u, c=c, q=q: math.exp(-u - d / 2 * math.log1p(2 * u / c) - u / c * q / (1 + 2 * u / c)),
                0,
                math.inf,
                epsabs=1e-13,
                epsrel=1e-11,
                limit=200,
            )[0]
            for c in constants(d)
        )
        for q in squares.tolist()
    ]
    assert kernel_to_normal(squares, d).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_kernels_to_normals_are_means_over_draws(generator):
    d, draws = 8, 400_000
    y, other = (torch.randn(draws, d, generator=generator, dtype=torch.float64) for _ in range(2))
    z = torch.randn(3, d, generator=generator, dtype=torch.float64)
    means = torch.stack([kernel((one - y).square().sum(1), d).mean() for one in z])
    torch.testing.assert_close(kernel_to_normal(z.square().sum(1), d), means, rtol=2e-3, atol=0)
    assert kernel_of_normals(d) == pytest.approx(kernel((y - other).square().sum(1), d).mean().item(), rel=2e-3)


def test_the_mmd_is_the_mean_of_the_estimate_that_draws_its_normals(generator):
    z = 1.3 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    drawn = torch.stack(
        [brute_force(z, torch.randn(6, 4, generator=generator, dtype=torch.float64)) for _ in range(1500)]
    )
    error = drawn.std() / math.sqrt(len(drawn))
    assert abs(mmd_to_normal(z) - drawn.mean()) < 4 * error


def test_the_mmd_of_normal_latents_is_zero_on_average_and_without_the_noise_of_drawn_normals(generator):
    def one():
        z, y = (torch.randn(16, 32, generator=generator, dtype=torch.float64) for _ in range(2))
        return torch.stack([mmd_to_normal(z), brute_force(z, y)])

    ours, drawn = torch.stack([one() for _ in range(150)]).T
    assert abs(ours.mean()) < 4 * ours.std() / math.sqrt(len(ours))
    assert ours.std() < 0.6 * drawn.std()


def test_the_mmd_sees_a_shape_that_two_moments_do_not(generator):
    """Two modes a standard deviation from the middle: mean 0, variance 1, and KL_G zero."""
    signs = torch.randint(0, 2, (4000, 1), generator=generator, dtype=torch.float64) * 2 - 1
    normal = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    assert mmd_to_normal(signs) > 50 * abs(mmd_to_normal(normal))
    points = Posterior(signs, torch.full_like(signs, -math.inf))
    assert kl_global(points, signs) < 1e-3


def test_the_gradient_of_the_mmd_is_that_of_differences(generator):
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(mmd_to_normal, z)


def test_a_first_call_without_gradients_leaves_later_ones_theirs():
    wae.quadrature_on.cache_clear()
    with torch.inference_mode():
        mmd_to_normal(torch.zeros(2, 5))
    z = torch.ones(2, 5, requires_grad=True)
    mmd_to_normal(z).backward()
    assert z.grad is not None


def test_the_mmd_is_computed_in_float32_under_autocast(generator):
    z = torch.randn(16, 64, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        assert mmd_to_normal(z) == pytest.approx(mmd_to_normal(z.double()).item(), abs=1e-5)
