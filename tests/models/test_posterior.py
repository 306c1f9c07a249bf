"""The equations against torch.distributions, closed forms and autograd."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vaekit.models.posterior import Posterior, kl_gaussians, log_mixture, product_of_gaussians
from vaekit.objectives.moments import MOMENTS, batch_moments, kl_global


@pytest.fixture
def posterior(generator):
    mean = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    logvar = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    return Posterior(mean, logvar)


def normal(posterior):
    return Normal(posterior.mean, posterior.std)


def test_logvar_is_the_logarithm_of_the_variance(posterior):
    torch.testing.assert_close(posterior.std.square().log(), posterior.logvar)
    torch.testing.assert_close(posterior.var, posterior.std.square())


def test_sample_is_mean_plus_eps_times_std(posterior, generator):
    eps = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(posterior.sample(eps), posterior.mean + eps * torch.exp(posterior.logvar / 2))


def test_samples_have_the_mean_and_variance_of_the_posterior(generator):
    many = Posterior(torch.full((200_000, 2), 3.0), torch.full((200_000, 2), math.log(4.0)))
    z = many.sample(generator=generator)
    torch.testing.assert_close(z.mean(0), torch.full((2,), 3.0), atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), torch.full((2,), 4.0), atol=0.05, rtol=0)


def test_the_same_generator_draws_the_same_sample(posterior):
    first, second = (posterior.sample(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_kl_standard_is_the_divergence_from_the_standard_normal(posterior):
    expected = kl_divergence(normal(posterior), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(posterior.kl_standard(), expected.double())


def test_kl_individual_is_twice_the_divergence_from_a_unit_normal_at_its_mean(posterior):
    unit = Normal(posterior.mean, torch.ones_like(posterior.mean))
    torch.testing.assert_close(posterior.kl_individual(), 2 * kl_divergence(normal(posterior), unit).sum(1))


def test_kl_individual_ignores_the_mean(posterior):
    moved = Posterior(posterior.mean + 5, posterior.logvar)
    torch.testing.assert_close(moved.kl_individual(), posterior.kl_individual())


def test_divergences_are_zero_at_the_prior():
    prior = Posterior(torch.zeros(3, 4), torch.zeros(3, 4))
    assert prior.kl_standard().abs().max() == 0
    assert prior.kl_individual().abs().max() == 0


def test_kl_gaussians_agrees_with_torch_where_the_second_variance_is_not_one():
    mean1, var1, mean2, var2 = (torch.tensor(v, dtype=torch.float64) for v in (0.3, 0.5, -1.2, 4.0))
    expected = kl_divergence(Normal(mean1, var1.sqrt()), Normal(mean2, var2.sqrt()))
    torch.testing.assert_close(kl_gaussians(mean1, var1, mean2, var2), expected)


@pytest.mark.parametrize("moments", MOMENTS)
def test_kl_global_is_the_divergence_of_the_moment_matched_gaussian(posterior, generator, moments):
    z = posterior.sample(torch.randn(7, 5, generator=generator, dtype=torch.float64))
    mean = sum(posterior.mean) / 7
    variance = {
        "samples": sum((row - mean) ** 2 for row in z) / 7,  # divided by n, not n - 1
        "means": sum((row - mean) ** 2 for row in posterior.mean) / 7,
        "total": sum((row - mean) ** 2 for row in posterior.mean) / 7 + posterior.std.square().mean(0),
    }[moments]
    torch.testing.assert_close(batch_moments(posterior, z, moments), (mean, variance))
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_global(posterior, z, moments), expected.double())


def test_the_variance_of_samples_is_about_the_mean_of_the_means():
    posterior = Posterior(torch.zeros(2, 1), torch.zeros(2, 1))
    z = torch.tensor([[1.0], [3.0]])  # about their own mean, 2, the variance would be 1
    assert batch_moments(posterior, z, "samples")[1].item() == 5.0


def test_total_is_the_expectation_of_samples(generator):
    posterior = Posterior(torch.randn(50, 3, generator=generator), torch.randn(50, 3, generator=generator))
    draws = [batch_moments(posterior, posterior.sample(generator=generator), "samples")[1] for _ in range(4000)]
    total = batch_moments(posterior, posterior.mean, "total")[1]
    torch.testing.assert_close(torch.stack(draws).mean(0), total, rtol=0.02, atol=0)


def test_kl_global_at_the_prior_is_a_quarter_of_a_nat_for_each_entry_over_the_batch_size(generator):
    """For n samples of N(0, 1) about a known mean, E[v - 1 - log v] / 2 is about 1 / (2 n)."""
    n, d = 200, 20_000
    prior = Posterior(torch.zeros(n, d), torch.zeros(n, d))
    value = kl_global(prior, prior.sample(generator=generator)) / d
    assert value.item() == pytest.approx(1 / (2 * n), rel=0.05)


@pytest.mark.parametrize("moments", MOMENTS)
def test_gradient_of_kl_global_passes_the_numerical_check(posterior, generator, moments):
    eps = torch.randn(7, 5, generator=generator, dtype=torch.float64)

    def value(mean, logvar):
        latents = Posterior(mean, logvar)
        return kl_global(latents, latents.sample(eps), moments)

    inputs = posterior.mean.requires_grad_(), posterior.logvar.requires_grad_()
    assert torch.autograd.gradcheck(value, inputs)


def test_means_leave_the_individual_variances_free(posterior):
    wider = Posterior(posterior.mean, posterior.logvar + 3)
    torch.testing.assert_close(
        kl_global(posterior, posterior.sample(), "means"), kl_global(wider, wider.sample(), "means")
    )


def test_unknown_moments_are_refused_with_the_choices(posterior):
    with pytest.raises(ValueError, match=r"unknown moments 'mean'.*samples, means, total"):
        kl_global(posterior, posterior.mean, "mean")


def test_the_product_of_gaussians_has_the_density_of_the_product(posterior):
    mean, var = product_of_gaussians(posterior.mean, posterior.var)
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None]
    log_product = normal(posterior).log_prob(points).sum(1)  # (9, d), up to a constant in each entry
    log_expected = Normal(mean, var.sqrt()).log_prob(points[:, 0])
    difference = log_product - log_expected
    torch.testing.assert_close(difference, difference[:1].expand_as(difference))


def test_one_dirac_makes_the_product_a_dirac(posterior):
    var = posterior.var.clone()
    var[3] = 1e-12
    mean, product_var = product_of_gaussians(posterior.mean, var)
    assert product_var.max() < 1.001e-12
    torch.testing.assert_close(mean, posterior.mean[3], atol=1e-9, rtol=0)


def test_log_mixture_is_the_density_of_torchs_mixture(posterior, generator):
    z = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    components = Independent(normal(posterior), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(7, dtype=torch.float64)), components)
    torch.testing.assert_close(log_mixture(z, posterior), mixture.log_prob(z))


def test_low_precision_latents_become_float32():
    posterior = Posterior(torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.bfloat16))
    assert posterior.sample().dtype == posterior.kl_standard().dtype == torch.float32
    assert kl_global(posterior, posterior.sample().bfloat16()).dtype == torch.float32
