"""The losses against hand-written sums of the paper's equations."""

import math

import pytest
import torch
from torch.distributions import Bernoulli

from vaekit.models.posterior import Posterior
from vaekit.objectives.elbo import GlobalELBO, StandardELBO
from vaekit.objectives.likelihood import cross_entropy, feature_distance
from vaekit.objectives.losses import Losses, discriminator_loss, vae_loss
from vaekit.objectives.moments import MOMENTS, kl_global

OBJECTIVES = [*(GlobalELBO(moments=moments) for moments in MOMENTS), StandardELBO(), StandardELBO(kl=4.0)]


@pytest.fixture
def step(generator):
    """x, x_hat, posterior, z and realism logits of three images."""

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    posterior = Posterior(randn(3, 5), randn(3, 5))
    return (
        randn(3, 2, 16, 16),
        randn(3, 2, 16, 16),
        posterior,
        posterior.sample(randn(3, 5)),
        randn(3, 1, 2, 2),
    )


def test_the_proposed_loss_is_the_weighted_sum_of_eq_23(step):
    x, x_hat, posterior, z, realism = step
    expected = (
        1.0 * kl_global(posterior, z)
        + 0.5 * sum((s**2 - 1 - torch.log(s**2)).sum() for s in posterior.std) / 3
        + 5000 * (x - x_hat).abs().sum() / x.numel()
        + 100 * -torch.log(torch.sigmoid(realism)).mean()
    )
    torch.testing.assert_close(vae_loss(GlobalELBO(), x, x_hat, posterior, z, realism).total, expected)


def test_the_standard_loss_is_the_weighted_sum_of_eqs_3_and_4(step):
    x, x_hat, posterior, z, _ = step
    kl = 0.5 * (posterior.std**2 + posterior.mean**2 - 1 - torch.log(posterior.std**2)).sum() / 3
    losses = vae_loss(StandardELBO(), x, x_hat, posterior, z)
    torch.testing.assert_close(losses.total, kl + 5000 * (x - x_hat).abs().mean())


def test_beta_multiplies_the_standard_kl_and_nothing_else(step):
    x, x_hat, posterior, z, _ = step
    one, four = (vae_loss(StandardELBO(kl=beta), x, x_hat, posterior, z) for beta in (1.0, 4.0))
    torch.testing.assert_close(four.total - one.total, 3 * one.terms["kl_standard"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_a_discriminator_there_is_no_realism(objective, step):
    *without, _ = step
    assert "realism" not in vae_loss(objective, *without).terms
    assert "realism" in vae_loss(objective, *step).terms


def test_the_feature_distance_adds_up_the_mean_absolute_difference_of_each_map():
    real = [torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]]), torch.zeros(2, 5, 1, 1)]
    fake = [torch.tensor([[[[2.0, 3.0]]], [[[0.0, 1.0]]]]), torch.full((2, 5, 1, 1), -3.0)]
    assert feature_distance(real, fake).item() == pytest.approx(2 / 4 + 3)


@pytest.mark.parametrize("objective", [GlobalELBO(features=500.0), StandardELBO(features=500.0)])
def test_features_join_the_loss_with_their_weight(objective, step):
    without, with_features = (vae_loss(objective, *step, features=f).total for f in (None, torch.tensor(0.25)))
    torch.testing.assert_close(with_features - without, torch.tensor(125.0, dtype=without.dtype))


def test_cross_entropy_is_the_negative_log_likelihood_of_a_bernoulli(step):
    realism = step[-1]
    for target in (0.0, 1.0):
        expected = -Bernoulli(logits=realism).log_prob(torch.full_like(realism, target)).mean()
        torch.testing.assert_close(cross_entropy(realism, target), expected)


def test_an_undecided_discriminator_loses_two_log_two():
    undecided = torch.zeros(4, 1, 2, 2)
    assert discriminator_loss(undecided, undecided).total.item() == pytest.approx(2 * math.log(2))


def test_a_discriminator_that_knows_loses_nothing():
    certain = torch.full((4, 1, 2, 2), 40.0)
    assert discriminator_loss(certain, -certain).total.item() == pytest.approx(0, abs=1e-12)


def test_the_vae_is_rewarded_for_what_the_discriminator_takes_for_real(step):
    *rest, realism = step
    low, high = (vae_loss(GlobalELBO(), *rest, realism + shift).total for shift in (0.0, 3.0))
    assert high < low


def test_losses_give_terms_and_total_as_numbers():
    losses = Losses({"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, {"a": 1.0, "b": 10.0, "unused": 5.0})
    assert losses.items() == {"a": 2.0, "b": 3.0, "total": 32.0}


def test_unknown_moments_are_refused_when_the_objective_is_made():
    with pytest.raises(ValueError, match="unknown moments"):
        GlobalELBO(moments="median")
