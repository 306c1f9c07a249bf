"""Anomaly scores against what they are by hand."""

import dataclasses
import math

import pytest
import torch

from small import of_objective
from vaekit.measures.anomalies import Expected, Known, anomaly_scores, error_map, joined, known_of
from vaekit.models.posterior import Posterior
from vaekit.models.vae import build_vae
from vaekit.priors.gaussian import GaussianPrior
from vaekit.reports.tables import ANOMALIES


@pytest.fixture
def known(generator):
    x = torch.rand(3, 2, 16, 16, generator=generator) * 2 - 1
    posterior = Posterior(torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator))
    gaussian = GaussianPrior(torch.zeros(4), 2 * torch.eye(4), 0.5 * torch.eye(4))
    return Known(x, x + 0.1, posterior, gaussian, Expected(x + 0.3, torch.tensor([1.0, 2.0, 3.0]), 100.0))


def test_every_score_has_a_title(known):
    assert list(anomaly_scores(known)) == list(ANOMALIES)


def test_scores_of_batches_are_those_of_all_pictures(known):
    parts = [
        Known(
            known.x[i : i + 1],
            known.x_hat[i : i + 1],
            known.posterior[i : i + 1],
            known.gaussian,
            Expected(known.expected.x_hat[i : i + 1], known.expected.kl[i : i + 1], known.expected.nats_l1),
        )
        for i in range(3)
    ]
    together = anomaly_scores(known)
    for name, scores in joined([anomaly_scores(part) for part in parts]).items():
        torch.testing.assert_close(scores, together[name])


def test_a_small_fault_moves_the_local_error_most(known):
    before = anomaly_scores(known)
    spoilt = known.x_hat.clone()
    spoilt[0, :, 3:5, 6:8] += 1
    after = anomaly_scores(Known(known.x, spoilt, known.posterior))
    assert (after["error"][0] / before["error"][0]).item() == pytest.approx(1 + 4 * 1 / 256 / 0.1, rel=1e-4)
    assert (after["local_error"][0] / before["local_error"][0]).item() == pytest.approx(11, rel=1e-4)  # a window of 2x2
    assert torch.equal(after["local_error"][1:], before["local_error"][1:])


def test_the_error_by_texture_does_not_change_with_the_contrast(known):
    softer = Known(0.5 * known.x, 0.5 * known.x_hat, known.posterior)
    torch.testing.assert_close(anomaly_scores(softer)["error_by_texture"], anomaly_scores(known)["error_by_texture"])


def test_the_log_density_is_that_of_the_gaussian(known):
    expected = 0.5 * known.posterior.mean.square().sum(1) / 4 + 2 * math.log(2 * math.pi * 4)
    torch.testing.assert_close(anomaly_scores(known)["nll"], expected.double(), rtol=1e-5, atol=1e-5)


def test_points_have_no_kl_and_a_model_without_a_gaussian_no_density(known):
    points = Posterior(known.posterior.mean, torch.full((3, 4), -math.inf))
    found = anomaly_scores(Known(known.x, known.x_hat, points))
    assert set(ANOMALIES) - set(found) == {"kl", "kl_individual", "nll", "likelihood_ratio"}
    assert all(scores.isfinite().all() for scores in found.values())


def test_the_error_map_is_the_mean_over_the_channels(known):
    torch.testing.assert_close(error_map(known.x, known.x_hat), torch.full((3, 16, 16), 0.1))


def test_the_likelihood_ratio_is_what_the_lower_level_gains_less_what_it_costs(known):
    expected = 100 * (0.3 - 0.1) - known.expected.kl.double()
    torch.testing.assert_close(anomaly_scores(known)["likelihood_ratio"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("price", [1.0, 2.5])
def test_the_likelihood_ratio_of_a_model_is_the_difference_of_its_two_bounds(tiny, generator, price):
    """The bound with z_1 from the picture, less that with z_1 as z_2 expects it; the KL of z_2 is in both."""
    torch.manual_seed(0)
    config = dataclasses.replace(tiny, weights=dataclasses.replace(tiny.weights, kl_lower=price))
    vae = build_vae(of_objective(config, "hierarchical").resolved())
    with torch.no_grad():
        for weight in vae.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
        x = torch.rand(3, *vae.image_shape, generator=generator) * 2 - 1
        posterior = vae.encode(x)
        upper, lower = posterior.mean.chunk(2, 1)
        x_hat = vae.decode(posterior.mean)
        mean, logvar = vae.decoder.prior_of(upper)
        ahead = vae.decode(torch.cat([upper, mean], 1))
        q = torch.distributions.Normal(lower, posterior.std.chunk(2, 1)[1])
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(mean, torch.exp(0.5 * logvar))).sum(1)
        bounds = [-5000 / price * (x - each).abs().flatten(1).mean(1) for each in (x_hat, ahead)]
        found = anomaly_scores(known_of(vae, x, x_hat, posterior))["likelihood_ratio"]
    torch.testing.assert_close(found, (bounds[0] - kl - bounds[1]).double(), rtol=1e-4, atol=1e-2)
