"""The variance that fits best, against torch.distributions and probabilistic PCA."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from vaekit.models.posterior import Posterior
from vaekit.objectives.losses import vae_loss
from vaekit.objectives.sigma import LEAST_LOG_SIGMA, SigmaELBO


@pytest.fixture
def step(generator):
    """x, x_hat, posterior and z of three images."""

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    posterior = Posterior(randn(3, 5), randn(3, 5))
    return randn(3, 2, 4, 4), randn(3, 2, 4, 4), posterior, posterior.sample(randn(3, 5))


def test_the_likelihood_is_that_of_the_gaussian_with_the_best_variance(step):
    x, x_hat, *_ = step

    def nll(sigma):
        return -Normal(x_hat, sigma).log_prob(x).sum() / len(x)

    sigma = (x - x_hat).square().mean().sqrt()
    found = vae_loss(SigmaELBO(), *step).terms["nll"]
    torch.testing.assert_close(found, nll(sigma))
    assert found < min(nll(0.99 * sigma), nll(1.01 * sigma))


def test_the_gradient_is_that_of_half_d_times_the_logarithm_of_the_error(step):
    x, x_hat, posterior, z = step
    leaf = x_hat.clone().requires_grad_()
    found = torch.autograd.grad(vae_loss(SigmaELBO(kl=0.0), x, leaf, posterior, z).total, leaf)[0]
    expected = torch.autograd.grad(0.5 * x[0].numel() * (x - leaf).square().mean().log(), leaf)[0]
    torch.testing.assert_close(found, expected)


def test_an_exact_reconstruction_has_a_finite_likelihood(step):
    x, _, posterior, z = step
    nll = vae_loss(SigmaELBO(), x, x.clone().requires_grad_(), posterior, z).terms["nll"]
    assert nll.item() == pytest.approx(x[0].numel() * (LEAST_LOG_SIGMA + 0.5 * math.log(2 * math.pi)))


def test_a_linear_vae_is_probabilistic_pca(generator):
    """Its sigma^2 is the mean of the eigenvalues that were dropped (Tipping and Bishop, 1999, eq. 8).

    The expectation over z of a linear decoder's error is exact from the 2 d points mean +- sqrt(d) std_j.
    """
    num_images, size, d = 60, 6, 2
    scales = torch.tensor([2.0, 1.5, 0.5, 0.4, 0.3, 0.2], dtype=torch.float64)
    data = torch.randn(num_images, size, generator=generator, dtype=torch.float64) * scales
    data = data - data.mean(0)
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(size, d).double(), nn.Linear(d, size).double()
    logvar = nn.Parameter(torch.zeros(d, dtype=torch.float64))
    points = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()
    x = data.repeat(2 * d, 1)
    eps = points.repeat_interleave(num_images, 0)
    images = x.view(-1, 1, 2, 3)
    objective = SigmaELBO()

    def decoded():
        posterior = Posterior(encoder(x), logvar.expand(len(x), d))
        z = posterior.sample(eps)
        return posterior, z, decoder(z).view_as(images)

    optimizer = torch.optim.LBFGS(
        [*encoder.parameters(), *decoder.parameters(), logvar], max_iter=500, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        posterior, z, x_hat = decoded()
        loss = vae_loss(objective, images, x_hat, posterior, z).total
        loss.backward()
        return loss

    optimizer.step(closure)
    eigenvalues = torch.linalg.eigvalsh(data.T @ data / num_images)  # ascending
    variance = objective.statistics(images, decoded()[2])["mse"]
    torch.testing.assert_close(variance, eigenvalues[: size - d].mean(), rtol=1e-4, atol=0)
