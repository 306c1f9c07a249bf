"""Diagnostics against torch.distributions, numerical integration and latents whose state is known."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vaekit.config.variants import OBJECTIVES
from vaekit.measures.diagnostics import (
    correlations,
    diagnose,
    elbo_split,
    entries,
    kl_full_gaussian,
    std_histogram,
    verdict,
)
from vaekit.models.posterior import Posterior, log_densities, log_mixture
from vaekit.objectives.moments import kl_global


@pytest.fixture
def posterior(generator):
    return Posterior(torch.randn(50, 4, generator=generator), 0.5 * torch.randn(50, 4, generator=generator) - 1)


def latents(generator, mean_std, std, n=500, d=40):
    """Gaussian means of standard deviation `mean_std` and posteriors of one `std`; numbers, or one for each entry."""
    mean = torch.as_tensor(mean_std) * torch.randn(n, d, generator=generator)
    return Posterior(mean, 2 * torch.as_tensor(std).log().expand(n, d))


def test_the_kl_of_the_entries_adds_up_to_the_standard_kl(posterior):
    per_entry = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(entries(posterior).kl, per_entry.double())
    torch.testing.assert_close(entries(posterior).kl.sum().float(), posterior.kl_standard().mean())


def test_moments_and_ratios_of_the_entries_are_those_numpy_finds(posterior):
    found, mean, std = entries(posterior), posterior.mean.double().numpy(), posterior.std.double().numpy()
    np.testing.assert_allclose(found.mean_variance, np.var(mean, axis=0))
    np.testing.assert_allclose(found.mean_std, np.mean(std, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.snr, np.var(mean, axis=0) / np.mean(std**2, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.aggregate_mean, np.mean(mean, axis=0))
    np.testing.assert_allclose(found.aggregate_variance, np.var(mean, axis=0) + np.mean(std**2, axis=0), rtol=1e-6)


def test_where_all_stds_are_equal_an_entrys_kl_is_its_rate_plus_its_share_of_kl_global(generator):
    posterior = latents(generator, 1.3, torch.linspace(0.1, 1.2, 40))
    posterior = Posterior(posterior.mean.double(), posterior.logvar.double())
    found = entries(posterior)
    assert (found.kl - found.rate).sum().item() == pytest.approx(kl_global(posterior, posterior.mean, "total").item())


def test_an_entry_is_active_if_its_mean_varies_by_more_than_a_hundredth():
    sign = torch.tensor([[-1.0], [1.0]])
    found = entries(Posterior(sign * torch.tensor([[0.0999, 0.1001]]), torch.zeros(2, 2)))
    assert found.active.tolist() == [False, True]


@pytest.mark.parametrize(
    ("spread", "std"),
    [
        ([1.0] * 40, [1e-4] * 40),  # all of the variance is that of the means
        ([0.5] * 40, [0.866] * 40),  # a quarter of it
        ([0.99] * 12 + [0.0] * 28, [0.14] * 12 + [1.0] * 28),  # dead entries beside active ones
    ],
)
def test_independent_entries_seem_to_hang_together_by_as_much_as_chance_gives(spread, std):
    excess, chance = [], []
    for seed in range(20):
        mean = torch.randn(500, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        mean = mean * torch.tensor(spread, dtype=torch.float64)
        posterior = Posterior(mean, 2 * torch.tensor(std, dtype=torch.float64).log().expand(500, 40))
        excess.append(kl_full_gaussian(posterior) - kl_global(posterior, mean, "total").item())
        chance.append(correlations(posterior)["by_chance"])
    assert sum(excess) == pytest.approx(sum(chance), rel=0.05)


def test_correlations_are_those_of_samples_of_the_aggregate(generator):
    mean = torch.randn(5, 3, generator=generator) @ torch.randn(3, 3, generator=generator)
    posterior = Posterior(mean, torch.randn(5, 3, generator=generator))
    z = Posterior(mean.repeat(40_000, 1), posterior.logvar.repeat(40_000, 1)).sample(generator=generator)
    sampled = np.abs(np.corrcoef(z.numpy().T))[np.triu_indices(3, 1)]
    found = correlations(posterior)
    assert found["mean"] == pytest.approx(sampled.mean(), abs=0.01)
    assert found["largest"] == pytest.approx(sampled.max(), abs=0.01)


def test_the_full_gaussian_is_that_of_the_aggregates_mean_and_covariance(posterior):
    mean, var = posterior.mean.double(), posterior.var.double()
    covariance = torch.from_numpy(np.cov(mean.numpy().T, bias=True)) + var.mean(0).diag()
    unit = MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    expected = kl_divergence(MultivariateNormal(mean.mean(0), covariance), unit)
    assert kl_full_gaussian(posterior) == pytest.approx(expected.item(), rel=1e-6)


def test_kl_global_the_full_gaussian_and_the_mixture_come_in_this_order(generator):
    shared = torch.randn(60, 1, generator=generator)
    posterior = Posterior(shared.sign() + 0.3 * torch.randn(60, 3, generator=generator), torch.full((60, 3), -2.0))
    diagonal = kl_global(posterior, posterior.mean, "total").item()
    full = kl_full_gaussian(posterior)
    split = elbo_split(posterior, seed=0, num_samples=4000)
    assert diagonal < full - 0.5
    assert full < split["kl_aggregate"] - 5 * split["standard_error"]


def test_with_one_variance_for_all_entries_uncorrelated_means_leave_nothing_to_the_full_gaussian():
    mean = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    posterior = Posterior(mean, torch.zeros(4, 2))
    assert correlations(posterior) == {
        "mean": 0.0,
        "largest": 0.0,
        "by_chance": 0.03125,
    }  # s = 1/2: (1 - 1/2) / (4 x 4)
    assert kl_full_gaussian(posterior) == pytest.approx(kl_global(posterior, mean, "total").item())


def test_log_densities_are_those_of_torchs_gaussians_and_make_up_the_mixture(posterior, generator):
    posterior = Posterior(5 + posterior.mean.double(), posterior.logvar.double())
    z = 5 + torch.randn(7, 4, generator=generator, dtype=torch.float64)
    found = log_densities(z, posterior)
    expected = Independent(Normal(posterior.mean, posterior.std), 1).log_prob(z[:, None])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.logsumexp(1) - math.log(50), log_mixture(z, posterior))


def test_where_all_posteriors_are_equal_there_is_no_mutual_information():
    posterior = Posterior(torch.full((30, 5), 0.7), torch.full((30, 5), -1.0))
    split = elbo_split(posterior, seed=0)
    assert split["mutual_information"] == pytest.approx(0, abs=1e-10)
    assert split["kl_aggregate"] == pytest.approx(posterior.kl_standard()[0].item())


@pytest.mark.parametrize("std", [1.0, 1e-9])
def test_far_apart_posteriors_hold_the_logarithm_of_the_number_of_images(std):
    posterior = Posterior(100.0 * torch.arange(12.0)[:, None], torch.full((12, 1), 2 * math.log(std)))
    split = elbo_split(posterior, seed=0, num_samples=100)
    assert split["mutual_information"] == pytest.approx(math.log(12))
    assert split["log_num_images"] == math.log(12)
    assert split["kl_aggregate"] == pytest.approx(split["kl"] - math.log(12))


def test_the_split_of_two_gaussians_is_what_integration_finds():
    mean, std = [-0.6, 1.1], [0.5, 0.8]

    def mixture(z):
        return 0.5 * norm.pdf(z, mean[0], std[0]) + 0.5 * norm.pdf(z, mean[1], std[1])

    aggregate = quad(lambda z: mixture(z) * math.log(mixture(z) / norm.pdf(z)), -12, 12)[0]
    posterior = Posterior(torch.tensor(mean)[:, None], 2 * torch.tensor(std).log()[:, None])
    split = elbo_split(posterior, seed=1, num_samples=100_000)
    assert 0 < split["standard_error"] < 0.002
    assert split["kl_aggregate"] == pytest.approx(aggregate, abs=4 * split["standard_error"])
    assert split["mutual_information"] == pytest.approx(split["kl"] - aggregate, abs=4 * split["standard_error"])


def test_the_standard_error_is_the_spread_over_seeds(posterior):
    splits = [elbo_split(posterior, seed, num_samples=50) for seed in range(200)]
    spread = np.std([split["mutual_information"] for split in splits])
    # every image is taken once, so the spread between images is not part of it: the stated error errs upwards
    assert 0.6 < spread / np.mean([split["standard_error"] for split in splits]) < 1.1


def test_working_in_blocks_changes_nothing(posterior, monkeypatch):
    whole = elbo_split(posterior, seed=0, num_samples=120)
    monkeypatch.setattr("vaekit.measures.diagnostics.BLOCK", 7 * 50)
    assert elbo_split(posterior, seed=0, num_samples=120) == pytest.approx(whole, rel=1e-10)


def test_stds_are_counted_where_they_lie():
    posterior = Posterior(
        torch.zeros(2, 4), 2 * torch.tensor([[0.01, 0.04, 0.06, 0.51], [0.96, 1.21, 9.0, 0.91]]).log()
    )
    found = std_histogram(posterior)
    assert found["near_dirac"] == 2 / 8
    assert found["near_prior"] == 3 / 8
    counted = {round(edge, 2): count for edge, count in zip(found["edges"], found["counts"], strict=True) if count}
    assert counted == {0.0: 2, 0.05: 1, 0.5: 1, 0.9: 1, 0.95: 1, 1.2: 1, 1.5: 1}


def judge(posterior, objective=None):
    return verdict(entries(posterior), std_histogram(posterior), objective)


def test_latents_as_a_vae_should_have_them_are_healthy(generator):
    found = judge(latents(generator, 0.8, 0.6))
    assert (found.state, found.ok, found.warnings) == ("healthy", True, ())
    assert "40 of 40 entries are active" in found.sentence


def test_latents_that_ignore_the_image_have_collapsed_to_the_prior(generator):
    found = judge(latents(generator, 0.001, 1.0), "standard")
    assert (found.state, found.ok) == ("collapsed to the prior", False)
    assert "only 0 of 40 entries are active" in found.sentence
    assert "lower --weights.kl-standard" in found.sentence


def test_latents_with_hardly_any_information_have_collapsed_to_the_prior(generator):
    found = judge(latents(generator, 0.2, 3.0, d=20))  # all are active, with 0.002 nats each
    assert found.state == "collapsed to the prior"


@pytest.mark.parametrize("mean_std", [1.0, 0.01])
def test_posteriors_that_are_points_have_collapsed_to_a_dirac(generator, mean_std):
    found = judge(latents(generator, mean_std, 0.01), "global")
    assert (found.state, found.ok) == ("collapsed to a Dirac", False)
    assert "100% of the posterior stds are below 0.05" in found.sentence
    assert "raise --weights.kl-individual" in found.sentence


def test_entries_that_never_vary_are_dead(generator):
    used = torch.arange(40) < 25
    found = judge(latents(generator, 0.9 * used, torch.where(used, 0.4, 1.0)), "beta")
    assert (found.state, found.ok) == ("dead dimensions", False)
    assert "15 of 40" in found.sentence
    assert "lower --weights.beta" in found.sentence


def test_one_dead_entry_in_forty_is_no_illness(generator):
    found = judge(latents(generator, 0.9 * (torch.arange(40) < 39), 0.4))
    assert found.state == "healthy"
    assert "39 of 40" in found.sentence


@pytest.mark.parametrize(("scale", "shift"), [(2.0, 0.0), (0.5, 0.0), (0.8, 3.0)])
def test_an_aggregate_that_is_not_the_prior_is_remarked_on(generator, scale, shift):
    healthy = latents(generator, scale, 0.4)
    found = judge(Posterior(healthy.mean + shift, healthy.logvar))
    assert found.ok
    assert "40 of 40 entries have a variance outside [0.5, 2]" in found.warnings[0]
    assert "draw from a density that is fitted to the latents" in found.warnings[0]


def test_correlated_entries_are_remarked_on_and_hold_less_than_their_sum(generator):
    mean = 0.9 * torch.randn(500, 5, generator=generator).repeat(1, 4)
    posterior = Posterior(mean + 0.1 * torch.randn(500, 20, generator=generator), torch.full((500, 20), -1.0))
    found = diagnose(posterior)
    channel = np.eye(20) + np.cov(posterior.mean.numpy().T, bias=True) / math.exp(-1)
    assert found["joint_rate"] == pytest.approx(0.5 * np.linalg.slogdet(channel)[1], rel=1e-5)
    assert found["joint_rate"] < 0.6 * found["rate"]
    assert "correlations of the entries add" in found["verdict"]["warnings"][0]


@pytest.mark.parametrize("n", [20, 50, 400])
def test_correlations_by_chance_are_not_remarked_on(generator, n):
    posterior = latents(generator, 0.9, 0.4, n=n, d=50)
    assert not any("correlations" in remark for remark in diagnose(posterior)["verdict"]["warnings"])


def test_every_objective_has_its_weight_and_others_are_refused(posterior):
    collapsed = latents(torch.Generator().manual_seed(0), 0.001, 1.0)
    for name, row in OBJECTIVES.items():
        assert row.price in judge(collapsed, name).sentence
        assert ("--weights.l1" in judge(collapsed, name).sentence) == (row.reconstruction == "--weights.l1")
    with pytest.raises(ValueError, match="unknown objective 'vqvae'; choose one of global, standard, beta"):
        judge(posterior, "vqvae")


def test_the_diagnosis_is_plain_json_and_repeats_itself(posterior):
    found = diagnose(posterior, seed=3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found == diagnose(posterior, seed=3)
    assert (found["num_images"], found["latent_dim"]) == (50, 4)
    assert found["kl_global"] <= found["kl_full_gaussian"]
    assert found["active"] == 4 == sum(found["entries"]["active"])
    assert all(len(values) == 4 for values in found["entries"].values())
    assert found["verdict"]["state"] == "healthy"


@pytest.mark.parametrize(("n", "d"), [(2, 1), (2, 300), (5, 1)])
def test_few_images_and_a_single_entry_can_be_diagnosed(generator, n, d):
    found = diagnose(Posterior(torch.randn(n, d, generator=generator), torch.zeros(n, d)))
    assert json.dumps(found, allow_nan=False)
    assert (found["bimodality"] is None) == (n < 4)
    assert (found["correlations"]["largest"] is None) == (d == 1)


def test_bimodal_entries_are_counted_on_sampled_latents(generator):
    mean = torch.randn(400, 3, generator=generator)
    mean[:, 1] = 0.95 * mean[:, 1].sign()
    found = diagnose(Posterior(mean, torch.full((400, 3), 2 * math.log(0.3))))["bimodality"]
    assert (found["count"], found["entries"], found["num_images"]) == (1, [1], 400)
    assert found["median_modes"] == pytest.approx([-0.95, 0.95], abs=0.15)


def test_without_diptest_the_rest_is_diagnosed(posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "diptest", None)
    found = diagnose(posterior)
    assert found["bimodality"] is None
    assert "pip install" in found["not_measured"]["bimodal entries"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_latents_that_are_not_finite_are_refused(posterior, value):
    mean, logvar = posterior.mean.clone(), posterior.logvar.clone()
    mean[[1, 4], 2] = logvar[7, 0] = value
    with pytest.raises(ValueError, match="latents of 3 of 50 images are not finite; the training diverged"):
        diagnose(Posterior(mean, logvar))


def test_one_image_is_refused():
    with pytest.raises(ValueError, match="give at least two"):
        diagnose(Posterior(torch.zeros(1, 3), torch.zeros(1, 3)))


# points, an autoencoder's latents


def points(mean):
    return Posterior(mean, torch.full_like(mean, -math.inf))


@pytest.mark.parametrize("seed", range(6))
def test_points_of_no_more_images_than_entries_have_an_infinite_kl_with_correlations(seed):
    mean = torch.randn(40, 50, generator=torch.Generator().manual_seed(seed))
    assert kl_full_gaussian(points(mean)) == math.inf
    wider = torch.randn(400, 5, generator=torch.Generator().manual_seed(seed)).double()
    narrow = Posterior(wider, torch.full_like(wider, math.log(1e-10)))
    assert kl_full_gaussian(points(wider)) == pytest.approx(kl_full_gaussian(narrow), rel=1e-6)


@pytest.mark.parametrize(("scale", "state"), [(1.0, "points"), (1e-4, "collapsed to the prior")])
def test_points_that_do_not_vary_are_no_good_verdict(generator, scale, state):
    mean = scale * torch.randn(40, 8, generator=generator)
    judged = diagnose(points(mean), objective="ae")["verdict"]
    assert (judged["state"], judged["ok"]) == (state, state == "points")
    mean[:, :2] = 0.0
    assert not diagnose(points(mean), objective="ae")["verdict"]["ok"]
