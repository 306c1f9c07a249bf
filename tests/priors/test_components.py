"""The mixture that a flow starts from: its slope against the score of its density, its fit against known groups."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from vaekit.networks.velocity import MixtureVelocity, Velocity
from vaekit.priors.base import Latents
from vaekit.priors.components import fit_components, num_components
from vaekit.priors.fitting import Length, held_out
from vaekit.priors.flow import FlowPrior
from vaekit.priors.flow_fit import fit_flow
from vaekit.priors.gaussian import fit_gaussian

D, K = 6, 3


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def mixture(generator):
    """Shares, means and covariances of three Gaussians that overlap, in no special directions."""
    roots = 0.5 * torch.randn(K, D, D, generator=generator, dtype=torch.float64) + 0.3 * torch.eye(D)
    means = torch.randn(K, D, generator=generator, dtype=torch.float64)
    return torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, roots @ roots.mT


@pytest.mark.parametrize("a", [0.1, 0.7, 1.2, 1.5])
def test_the_slope_is_that_of_the_score_of_the_density(mixture, generator, a):
    shares, means, covariances = mixture
    velocity = MixtureVelocity(D, K).double()
    velocity.set_mixture(*mixture)
    noisy = math.cos(a) ** 2 * torch.eye(D, dtype=torch.float64) + math.sin(a) ** 2 * covariances
    density = MixtureSameFamily(Categorical(shares), MultivariateNormal(math.sin(a) * means, noisy))
    w = torch.randn(20, D, generator=generator, dtype=torch.float64).requires_grad_()
    (score,) = torch.autograd.grad(density.log_prob(w).sum(), w)
    expected = (w + score) / math.tan(a)  # Tweedie: the mean of eps given w is -cos(a) times the score
    torch.testing.assert_close(velocity(w.detach(), torch.full((20,), a, dtype=torch.float64)), expected.detach())


def test_one_component_of_the_moments_of_all_has_no_slope(generator):
    velocity = MixtureVelocity(D, 1)
    velocity.set_mixture(torch.ones(1), torch.zeros(1, D), torch.eye(D)[None])
    w, a = torch.randn(5, D, generator=generator), torch.rand(5, generator=generator)
    torch.testing.assert_close(velocity(w, a), torch.zeros(5, D), atol=1e-6, rtol=0)


def groups(generator, num=600, apart=3.0):
    """Two groups of latents on either side of zero, of different shapes."""
    side = torch.arange(num) % 2
    spread = torch.where(side[:, None] == 0, torch.tensor([1.0, 0.3, 0.5, 0.5]), torch.tensor([0.3, 1.0, 0.5, 0.5]))
    means = spread * torch.randn(num, 4, generator=generator)
    means[:, 2] += apart * (side - 0.5)
    return Latents(means, torch.full_like(means, 0.1), positions=2)


def test_an_untrained_flow_with_components_is_their_mixture(generator):
    latents = groups(generator)
    flow = fit_flow(latents, length=Length(0), components=2, width=32, depth=1)
    start, gaussian = flow.network.start, flow.gaussian
    assert start.means.shape == (2, 4)
    covariances = start.directions @ torch.diag_embed(start.variances) @ start.directions.mT
    density = MixtureSameFamily(Categorical(logits=start.log_shares), MultivariateNormal(start.means, covariances))
    z = latents.mean[::10]
    expected = density.log_prob(gaussian.whiten(z)) + gaussian.log_determinant
    torch.testing.assert_close(flow.log_prob(z, probes=None, steps=200), expected, atol=0.05, rtol=0.01)
    assert flow.held_out_loss < 0.96
    assert (expected - gaussian.log_prob(z)).mean() > 0.3


def test_a_mixture_that_is_no_better_than_the_gaussian_is_no_start(generator):
    means = torch.randn(200, 4, generator=generator)
    flow = fit_flow(Latents(means, torch.full_like(means, 0.1), positions=2), length=Length(0), components=10)
    assert flow.network.start is None
    assert flow.held_out_loss == 1


def test_a_fit_never_ends_worse_than_its_start(generator):
    latents = groups(generator, num=200)
    start = fit_flow(latents, length=Length(0), components=2)
    short = fit_flow(latents, length=Length(3 * 128), components=2, width=32, depth=1)
    assert short.held_out_loss <= start.held_out_loss


def test_the_fit_finds_the_groups_and_is_the_same_for_a_seed(generator):
    latents = groups(generator)
    gaussian = fit_gaussian(latents)
    places, _ = held_out(latents, 0)
    one, again = (fit_components(latents, gaussian, places, 2, seed=0) for _ in range(2))
    for tensor, other in zip(one, again, strict=True):
        assert torch.equal(tensor, other)
    torch.testing.assert_close(one.shares, torch.full((2,), 0.5), atol=0.03, rtol=0)
    centres = gaussian.colour(one.means)[:, 2].sort().values
    torch.testing.assert_close(centres, torch.tensor([-1.5, 1.5]), atol=0.15, rtol=0)


@pytest.mark.parametrize(("num", "d", "expected"), [(19_200, 512, 10), (4_000, 512, 3), (2_047, 512, 0), (0, 4, 0)])
def test_there_are_as_many_components_as_latents_can_tell_apart(num, d, expected):
    assert num_components(num, d) == expected


def test_it_is_kept_with_the_flow_and_flows_of_before_have_none(generator, tmp_path):
    latents = groups(generator)
    flow = fit_flow(latents, length=Length(0), components=2)
    flow.save(tmp_path / "flow.safetensors")
    loaded = FlowPrior.load(tmp_path / "flow.safetensors")
    draws = [prior.sample(9, torch.Generator().manual_seed(0)) for prior in (flow, loaded)]
    assert torch.equal(*draws)
    plain = fit_flow(latents, length=Length(0), components=0)
    plain.settings = {name: value for name, value in plain.settings.items() if name != "components"}
    plain.save(tmp_path / "before.safetensors")
    assert FlowPrior.load(tmp_path / "before.safetensors").network.start is None


def test_the_fit_goes_on_from_its_start(generator):
    latents = groups(generator)
    latents = dataclasses.replace(latents, mean=latents.mean + 0.5 * latents.mean.flip(1).tanh())
    start = fit_flow(latents, length=Length(0), components=2).held_out_loss
    fitted = fit_flow(latents, length=Length(600 * 128), components=2, width=32, depth=2)
    assert fitted.held_out_loss < start
    assert isinstance(fitted.network, Velocity)
