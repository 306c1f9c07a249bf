"""The Gaussian with the moments of the aggregate posterior."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from vaekit.priors import gaussian
from vaekit.priors.base import Latents
from vaekit.priors.gaussian import GaussianPrior, fit_gaussian
from vaekit.system.files import write_tensors


@pytest.fixture
def latents(generator):
    mixed = torch.randn(500, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    return Latents(2 + mixed, 0.1 + torch.rand(500, 4, generator=generator))


def test_more_entries_than_a_covariance_is_fitted_to_are_refused(monkeypatch):
    monkeypatch.setattr(gaussian, "LARGEST", 3)
    with pytest.raises(ValueError, match="latents of 4 entries; a covariance is fitted to 3 at most"):
        fit_gaussian(Latents(torch.randn(9, 4), torch.ones(9, 4)))


def test_its_moments_are_those_of_the_aggregate_posterior(latents):
    prior = fit_gaussian(latents)
    many = torch.cat([latents.sample(torch.Generator().manual_seed(seed)) for seed in range(400)]).double()
    torch.testing.assert_close(prior.mean.double(), many.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close((prior.root @ prior.root).double(), torch.cov(many.T), atol=0.02, rtol=0.01)


def test_its_density_is_torchs(latents):
    prior = fit_gaussian(latents)
    reference = MultivariateNormal(prior.mean, prior.root @ prior.root)
    torch.testing.assert_close(prior.log_prob(latents.mean), reference.log_prob(latents.mean), atol=1e-3, rtol=1e-4)


def test_whitened_latents_have_covariance_one_and_colour_undoes_it(latents):
    prior = fit_gaussian(latents)
    z = prior.sample(100_000, torch.Generator().manual_seed(1))
    u = prior.whiten(z)
    torch.testing.assert_close(torch.cov(u.T), torch.eye(4), atol=0.02, rtol=0)
    torch.testing.assert_close(prior.colour(u), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prior.root, prior.root.T)  # nothing is turned


def test_a_low_temperature_draws_nearer_to_the_mean(latents):
    prior = fit_gaussian(latents)
    spread = [prior.sample(5000, torch.Generator().manual_seed(1), temperature=t).std(0) for t in (1.0, 0.5)]
    torch.testing.assert_close(spread[1], spread[0] / 2)


def test_entries_that_never_vary_have_a_density_too():
    latents = Latents(torch.ones(30, 3), torch.zeros(30, 3))
    prior = fit_gaussian(latents)
    assert prior.sample(5).isfinite().all()
    assert prior.log_prob(latents.mean).isfinite().all()


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (torch.zeros(1, 3), torch.ones(1, 3), "N of two or more"),
        (torch.zeros(3), torch.ones(3), r"give \(N, d\) twice"),
        (torch.zeros(4, 3), torch.ones(4, 2), r"give \(N, d\) twice"),
        (torch.full((4, 3), torch.nan), torch.ones(4, 3), "not finite; a prior needs a model whose training did not"),
        (torch.zeros(4, 3), torch.full((4, 3), torch.inf), "not finite"),
    ],
)
def test_latents_that_no_prior_can_be_fitted_to_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Latents(mean, std)


@pytest.mark.parametrize("change", [{"root": torch.ones(3, 4)}, {"mean": torch.full((4,), torch.nan)}], ids=str)
def test_numbers_that_are_no_gaussian_are_refused(latents, change, tmp_path):
    path = tmp_path / "prior"
    write_tensors(fit_gaussian(latents).tensors() | change, path, {"prior": "gaussian"})
    with pytest.raises(ValueError, match="no Gaussian; fit the prior again"):
        GaussianPrior.load(path)
