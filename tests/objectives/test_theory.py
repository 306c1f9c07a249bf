"""The closed forms against numerical minimisation, numerical differentiation and autograd."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from vaekit.models.posterior import Posterior
from vaekit.objectives import theory
from vaekit.objectives.moments import kl_global

WEIGHTS = [(1.0, 0.5), (1.0, 0.1), (2.0, 0.02), (0.3, 4.0)]
PRINTED, RELEASED = (1.0, 0.5, "samples"), (1.0, 0.1, "means")


def minimum(cost):
    """The least value of `cost` over the variance, searched over its logarithm, and where it lies."""
    found = minimize_scalar(lambda log_var: cost(math.exp(log_var)), bounds=(-20, 20), options={"xatol": 1e-10})
    return found.fun, math.exp(found.x)


def by_search(snr, b1, b2, moments):
    """Minimum of b1 KL_G + b2 KL_I as equations 20 and 21 print them."""

    def cost(var):
        seen = var * snr if moments == "means" else var * snr + var
        return b1 * 0.5 * (seen - 1 - math.log(seen)) + b2 * (var - 1 - math.log(var))

    return minimum(cost)


@pytest.mark.parametrize("moments", theory.MOMENTS)
@pytest.mark.parametrize(("b1", "b2"), WEIGHTS)
@pytest.mark.parametrize("snr", [0.01, 0.7, 1.0, 5.0, 300.0])
def test_the_closed_forms_are_what_a_search_over_the_variance_finds(snr, b1, b2, moments):
    least, var = by_search(snr, b1, b2, moments)
    assert theory.optimal_std(snr, b1, b2, moments) == pytest.approx(math.sqrt(var), rel=1e-5)
    assert theory.latent_cost(snr, b1, b2, moments) == pytest.approx(least, abs=1e-8)
    assert theory.aggregate_variance(snr, b1, b2, moments) == pytest.approx(var + snr * var, rel=1e-5)


@pytest.mark.parametrize("moments", theory.MOMENTS)
@pytest.mark.parametrize(("b1", "b2"), WEIGHTS)
@pytest.mark.parametrize("nats", [0.05, 0.35, 0.8, 3.0])
def test_the_price_is_the_slope_of_the_searched_minimum_over_the_rate(nats, b1, b2, moments):
    h = 1e-3
    below, above = (by_search(math.expm1(2 * r), b1, b2, moments)[0] for r in (nats - h, nats + h))
    slope = (above - below) / (2 * h)
    assert theory.price(math.expm1(2 * nats), b1, b2, moments) == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("moments", theory.MOMENTS)
@pytest.mark.parametrize(("b1", "b2"), WEIGHTS)
def test_at_a_high_rate_a_nat_costs_twice_beta_2_whatever_beta_1(b1, b2, moments):
    assert theory.price(1e9, b1, b2, moments) == pytest.approx(2 * b2, rel=1e-6)


@pytest.mark.parametrize("beta", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("snr", [0.1, 3.0, 100.0])
def test_in_a_standard_vae_a_nat_costs_beta_at_any_rate_and_the_aggregate_variance_is_one(snr, beta):
    least, var = minimum(lambda var: beta * 0.5 * (var + snr * var - 1 - math.log(var)))  # eq. 11
    assert least == pytest.approx(beta * theory.rate(snr), abs=1e-9)
    assert var * (1 + snr) == pytest.approx(1, rel=1e-5)


def test_the_first_nat_is_free_with_samples_and_paid_for_with_means():
    assert theory.price(0.0, *PRINTED) == 0
    assert theory.price(0.5, *RELEASED) < 0 < theory.price(1.5, *RELEASED)
    assert theory.price(1.0, *RELEASED) == theory.latent_cost(1.0, *RELEASED) == 0


def test_the_released_weights_price_a_nat_at_a_fifth_of_the_printed_ones():
    assert theory.price(1e6, *PRINTED) == pytest.approx(1, rel=1e-4)
    assert theory.price(1e6, *RELEASED) == pytest.approx(0.2, rel=1e-4)


def test_the_printed_weights_widen_the_aggregate_posterior_from_one_to_two():
    for r in (0.0, 1.0, 8.0):
        assert theory.aggregate_variance(r, *PRINTED) == pytest.approx(2 * (1 + r) / (2 + r))
    assert theory.aggregate_variance(1e9, *PRINTED) == pytest.approx(2)


def test_without_kl_individual_information_is_free_and_without_kl_global_the_std_is_one():
    assert theory.price(7.0, 1.0, 0.0) == 0
    assert theory.optimal_std(7.0, 1.0, 0.0) == pytest.approx(math.sqrt(1 / 8))
    assert theory.price(7.0, 0.0, 1.0) == 0
    assert theory.optimal_std(7.0, 0.0, 1.0) == 1


@pytest.mark.parametrize("moments", theory.MOMENTS)
@pytest.mark.parametrize(("b1", "b2"), WEIGHTS)
def test_autograd_finds_no_slope_at_the_optimum(b1, b2, moments, generator):
    """The terms of the training loss on a batch whose means and noise have exactly the moments of the theory."""
    n, snr = 4096, 6.0
    columns = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    columns, _ = torch.linalg.qr(columns - columns.mean(0))  # mean zero, uncorrelated
    signal, eps = (math.sqrt(n) * columns).split(1, dim=1)
    log_std = torch.tensor(math.log(theory.optimal_std(snr, b1, b2, moments)), dtype=torch.float64, requires_grad=True)
    latents = Posterior(math.sqrt(snr) * signal * log_std.exp(), (2 * log_std).expand(n, 1))
    loss = b1 * kl_global(latents, latents.sample(eps), moments) + b2 * latents.kl_individual().mean()
    (slope,) = torch.autograd.grad(loss, log_std)
    assert slope.abs().item() < 1e-10
    assert loss.item() == pytest.approx(theory.latent_cost(snr, b1, b2, moments), abs=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"snr": -1.0}, "snr is -1.0; it must be zero or above"),
        ({"snr": math.nan}, "snr is nan"),
        ({"snr": 1.0, "kl_individual": -0.5}, "kl_individual is -0.5"),
        ({"snr": 1.0, "kl_global": 0.0, "kl_individual": 0.0}, "give one a weight"),
        ({"snr": 0.0, "moments": "means"}, "KL_G is infinite there"),
        ({"snr": 1.0, "moments": "median"}, "choose one of samples, means, total"),
    ],
)
def test_impossible_questions_are_refused(arguments, message):
    for question in (theory.optimal_std, theory.price, theory.latent_cost, theory.aggregate_variance):
        with pytest.raises(ValueError, match=message):
            question(**arguments)
