"""The flow against densities that are known: the Gaussian that it starts as, and a mixture with a field by formula."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vaekit.networks.velocity import Velocity
from vaekit.priors.base import Latents
from vaekit.priors.conditions import Attributes, Classes, conditions_of
from vaekit.priors.fitting import BATCH, Length
from vaekit.priors.flow import FlowPrior, on_arc, probe_directions, with_divergence
from vaekit.priors.flow_fit import Draws, fit_flow
from vaekit.priors.gaussian import GaussianPrior, fit_gaussian

CENTRES, STD = torch.tensor([[-0.9, 0.2], [0.9, -0.2], [0.0, 0.8]]), 0.3
IDENTITY = GaussianPrior(torch.zeros(2), torch.eye(2), torch.eye(2))
MIXTURE = MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(CENTRES, torch.full_like(CENTRES, STD)), 1))


class ExactField(nn.Module):
    """The mean of dw/da given w, where the latents are the mixture: by Bayes' rule, not by a network."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1))

    def shares(self, log_shares, told):
        return torch.softmax(log_shares, 1)

    def forward(self, w, a, told=None):
        cos, sin = a.cos()[:, None, None], a.sin()[:, None, None]
        variance = cos**2 + (sin * STD) ** 2
        apart = w[:, None] - sin * CENTRES  # (N, K, d)
        share = self.shares((-0.5 * apart**2 / variance).sum(-1), told)[..., None]
        u, eps = CENTRES + sin * STD**2 / variance * apart, cos / variance * apart
        return (share * (cos * u - sin * eps)).sum(1)


NO_CONDITIONS = Classes()


def flow_of(network, gaussian=IDENTITY, conditions=NO_CONDITIONS):
    return FlowPrior(gaussian, network, {}, conditions, 1.0)


@pytest.fixture
def exact():
    return flow_of(ExactField())


def test_its_density_is_that_of_the_mixture_whose_field_it_follows(exact, generator):
    z = MIXTURE.sample((200,))
    torch.testing.assert_close(exact.log_prob(z, probes=None, steps=100), MIXTURE.log_prob(z), atol=0.02, rtol=0)


def test_its_draws_are_those_of_the_mixture(exact, generator):
    z = exact.sample(20_000, generator)
    nearest = torch.cdist(z, CENTRES).argmin(1)
    torch.testing.assert_close(torch.bincount(nearest) / len(z), torch.ones(3) / 3, atol=0.02, rtol=0)
    expected = MIXTURE.sample((20_000,))
    torch.testing.assert_close(torch.cov(z.T), torch.cov(expected.T), atol=0.03, rtol=0)
    assert MIXTURE.log_prob(z).mean().item() == pytest.approx(MIXTURE.log_prob(expected).mean().item(), abs=0.03)


def test_noise_and_latent_are_each_others_way_back(exact, generator):
    z = MIXTURE.sample((50,))
    torch.testing.assert_close(exact.latent_of(exact.noise_of(z, 100), 100), z, atol=1e-3, rtol=0)


def test_half_the_steps_of_heuns_method_err_four_times_as_much(exact, generator):
    noise = torch.randn(500, 2, generator=generator)
    fine = exact.latent_of(noise, 800)
    coarse, finer = ((exact.latent_of(noise, steps) - fine).square().mean().sqrt() for steps in (20, 40))
    assert 3 < coarse / finer < 5


def test_the_divergence_is_the_trace_of_the_jacobian(generator):
    network = Velocity(8, positions=4, width=32, depth=2)
    shaken(network, generator)
    w, a = torch.randn(3, 8, generator=generator), torch.rand(3, generator=generator)
    expected = [
        torch.autograd.functional.jacobian(lambda w, i=i: network(w[None], a[i : i + 1])[0], w[i]).trace()
        for i in range(3)
    ]
    value, exact = with_divergence(network, w, a, probe_directions(8, None, 0))
    torch.testing.assert_close(exact, torch.stack(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(value, network(w, a))
    estimates = [with_divergence(network, w, a, probe_directions(8, 4, seed))[1] for seed in range(500)]
    error = torch.stack(estimates).std(0) / 500**0.5
    assert ((torch.stack(estimates).mean(0) - exact).abs() < 4 * error).all()


def shaken(network, generator):
    """Give every weight a value: some start at zero."""
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)


def test_on_arcs_gaussian_latents_need_no_field(generator):
    u, eps = torch.randn(2, 200_000, 1, generator=generator)
    for angle in (0.2, 0.8, 1.4):
        w, slope = on_arc(u, eps, torch.full((len(u),), angle))
        assert abs((w * slope).mean()) < 0.01
        assert w.var() == pytest.approx(1, abs=0.02)


def two_groups(generator):
    """Two tight groups in a grid of two positions of two entries: nothing like a Gaussian."""
    side = torch.randint(2, (400,), generator=generator)
    means = torch.where(side[:, None] > 0, 1.0, -1.0) * torch.tensor([1.0, 0.5, -1.0, 2.0])
    means = means + 0.2 * torch.randn(400, 4, generator=generator)
    return Latents(means, torch.full_like(means, 0.1), positions=2, classes=("left", "right"), labels=side)


@pytest.fixture
def latents(generator):
    return two_groups(generator)


def test_an_untrained_flow_is_the_fitted_gaussian(latents):
    flow, gaussian = fit_flow(latents, length=Length(0), components=0, width=32, depth=2), fit_gaussian(latents)
    draws = [prior.sample(50, torch.Generator().manual_seed(2)) for prior in (flow, gaussian)]
    torch.testing.assert_close(*draws)
    z = latents.mean[::8]
    torch.testing.assert_close(flow.log_prob(z), gaussian.log_prob(z))
    assert flow.held_out_loss == 1


@pytest.fixture(scope="module")
def fitted():
    return fit_flow(two_groups(torch.Generator().manual_seed(0)), length=Length(500 * BATCH), width=32, depth=2)


def test_a_fit_beats_the_gaussian_where_latents_are_none(latents):
    without_labels = dataclasses.replace(latents, classes=(), labels=None)
    fitted = fit_flow(without_labels, length=Length(1000 * BATCH), width=32, depth=2)
    assert fitted.held_out_loss < 0.97
    some = latents.mean[:400]
    gain = fitted.log_prob(some, probes=None) - fit_gaussian(latents).log_prob(some)
    assert gain.mean() > 0.5


def test_a_label_draws_its_own_class_and_none_draws_all_as_frequent_as_they_are(fitted, latents):
    def right_hand(**options):
        z = fitted.sample(400, torch.Generator().manual_seed(3), **options)
        return (z[:, 0] > 0).float().mean().item()

    assert right_hand(label="right") > 0.97
    assert right_hand(label="left") < 0.03
    assert right_hand() == pytest.approx(latents.labels.float().mean().item(), abs=0.08)
    assert right_hand(label="right", guidance=2.0) >= right_hand(label="right", guidance=0.0)
    for options, message in (
        ({"label": "up"}, "no label 'up' in this prior; it knows left, right"),
        ({"label": ["left", "right"]}, "labels left, right; a picture is of one of these classes"),
        ({"guidance": -1.0}, "guidance -1; 1 is the label as it is"),
        ({"guidance": float("nan")}, "guidance nan; 1 is the label as it is"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.sample(1, **options)


def test_a_flow_without_labels_says_so(exact):
    with pytest.raises(ValueError, match="no label 'x' in this prior; it was fitted without labels"):
        exact.sample(1, label="x")
    with pytest.raises(ValueError, match="guidance 3 needs labels, and this prior was fitted without"):
        exact.sample(1, guidance=3.0)


def two_attributes(generator):
    """Latents whose first entry says whether a picture is high and whose third whether it is wide, each at random."""
    has = torch.randint(2, (600, 2), generator=generator)
    means = 0.2 * torch.randn(600, 4, generator=generator)
    means[:, 0] += 2.0 * has[:, 0] - 1
    means[:, 2] += 2.0 * has[:, 1] - 1
    stds = torch.full_like(means, 0.1)
    return Latents(means, stds, positions=2, attributes=("high", "wide"), labels=has)


@pytest.fixture(scope="module")
def of_attributes():
    return fit_flow(two_attributes(torch.Generator().manual_seed(0)), length=Length(800 * BATCH), width=32, depth=2)


@pytest.mark.parametrize(
    ("label", "high", "wide"),
    [
        ("high", 1, 0.5),
        ("high=0", 0, 0.5),
        ("wide", 0.5, 1),
        (["high", "wide=0"], 1, 0),
        (["wide=1", "high=1"], 1, 1),
        (None, 0.5, 0.5),
    ],
)
def test_attributes_that_are_asked_for_are_there_and_the_others_as_frequent_as_they_are(
    of_attributes, label, high, wide
):
    z = of_attributes.sample(400, torch.Generator().manual_seed(3), label=label)
    found = (z[:, [0, 2]] > 0).float().mean(0)
    for share, expected in zip(found.tolist(), (high, wide), strict=True):
        assert share == pytest.approx(expected, abs=0.2 if expected == 0.5 else 0.05)


def test_attributes_that_cannot_be_asked_for_are_refused_by_name(of_attributes):
    for label, message in (
        ("tall", "no label 'tall' in this prior; it knows high, wide"),
        ("tall=0", "no label 'tall=0' in this prior; it knows high, wide"),
        ("high=2", "label 'high=2': give high=1 or high=0"),
        (["high", "high=0"], "high is asked for as 1 and as 0"),
    ):
        with pytest.raises(ValueError, match=message):
            of_attributes.sample(1, label=label)


def test_a_flow_of_attributes_is_kept_with_their_names_and_has_a_density(of_attributes, tmp_path):
    of_attributes.save(tmp_path / "flow.safetensors")
    kept = FlowPrior.load(tmp_path / "flow.safetensors")
    assert kept.conditions == of_attributes.conditions
    draws = [each.sample(5, torch.Generator().manual_seed(0), label="wide") for each in (of_attributes, kept)]
    assert torch.equal(*draws)
    middle = torch.zeros(1, 4)  # between the four groups
    assert kept.log_prob(draws[0], probes=None).min() > kept.log_prob(middle, probes=None).item()


def test_any_number_of_attributes_is_hidden_from_a_draw(generator):
    told = Attributes(("a", "b", "c")).told(torch.ones(6000, 3, dtype=torch.int64))
    hidden = Attributes(("a", "b", "c")).hidden(told, generator) == Attributes(("a", "b", "c")).unknown(6000)
    shares = torch.bincount(hidden.sum(1), minlength=4) / 6000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.03, rtol=0)


class FieldOfClass(ExactField):
    """The same with a class for each part of the mixture; the last row is any of them."""

    def shares(self, log_shares, told):
        known = nn.functional.one_hot(told[:, 0].clamp(max=2), 3).bool() | (told == 3)
        return torch.softmax(log_shares.masked_fill(~known, -torch.inf), 1)


def test_the_density_with_labels_is_that_of_all_that_is_drawn(generator):
    z = MIXTURE.sample((100,))
    flow = flow_of(FieldOfClass(), conditions=Classes(("a", "b", "c"), torch.ones(3) / 3))
    torch.testing.assert_close(flow.log_prob(z, probes=None, steps=100), MIXTURE.log_prob(z), atol=0.02, rtol=0)
    only_b = flow.sample(2000, generator, label="b")
    torch.testing.assert_close(only_b.mean(0), CENTRES[1], atol=0.05, rtol=0)
    torch.testing.assert_close(only_b.std(0), torch.full((2,), STD), atol=0.03, rtol=0)


def test_a_density_is_float32_and_of_any_device_and_mode_of_its_caller(fitted, latents):
    expected = fitted.log_prob(latents.mean[:5])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fitted.log_prob(latents.mean[:5]), expected)
    with torch.inference_mode():
        assert torch.equal(fitted.log_prob(latents.mean[:5].clone()), expected)
    assert torch.equal(fitted.log_prob(latents.mean[:5].requires_grad_()), expected)
    torch.testing.assert_close(fitted.log_prob(latents.mean[:5].double()), expected)


def test_a_fit_repeats_and_another_seed_gives_another(latents):
    first, second, other = (fit_flow(latents, seed, length=Length(5 * BATCH), width=32, depth=1) for seed in (1, 1, 2))
    z = [prior.sample(4, torch.Generator().manual_seed(0)) for prior in (first, second, other)]
    assert torch.equal(z[0], z[1])
    assert not torch.equal(z[0], z[2])


def test_an_interrupted_fit_goes_on_bit_for_bit(latents):
    kept = {}

    def watch(fit, done):
        if fit.counters["step"] == 7:
            kept.update(
                networks={name: copy.deepcopy(each.state_dict()) for name, each in fit.networks.items()},
                optimizer=copy.deepcopy(fit.optimizers["network"].state_dict()),
                counters=dict(fit.counters),
            )

    def begin(fit):
        for name, each in fit.networks.items():
            each.load_state_dict(kept["networks"][name])
        fit.optimizers["network"].load_state_dict(kept["optimizer"])
        fit.counters = kept["counters"]

    options = {"length": Length(20 * BATCH), "width": 32, "depth": 1}
    whole = fit_flow(latents, watch=watch, **options)
    again = fit_flow(latents, begin=begin, **options)
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], weight), name


def test_a_handful_of_pictures_stays_a_gaussian(generator):
    few = Latents(torch.randn(6, 4, generator=generator), torch.ones(6, 4))
    assert fit_flow(few).held_out_loss == 1


def test_draws_hide_some_labels_and_shares_of_ranks_are_the_same_batch(latents):
    draws = Draws(latents, fit_gaussian(latents), conditions_of(latents), 0, "cpu")
    whole = draws.batch(torch.arange(400), BATCH, 5)
    for world in (2, 3, 17, 24):
        parts = [draws.batch(torch.arange(400), BATCH, 5, rank=rank, world=world) for rank in range(world)]
        for i, tensor in enumerate(whole):
            torch.testing.assert_close(torch.cat([part[i] for part in parts]), tensor)
    hidden = (draws.batch(torch.arange(400), 5000, 1).told == 2).float().mean()
    assert hidden == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("latent_dim", "positions"), [(8, 1), (8, 4), (32, 16)])
def test_a_velocity_is_zero_before_it_is_trained_and_every_entry_sees_all(latent_dim, positions, generator):
    network = Velocity(latent_dim, positions=positions, width=32, depth=2, conditions=4)
    w, a = torch.randn(2, latent_dim, generator=generator), torch.rand(2, generator=generator)
    told = torch.tensor([[0, 1], [2, 3]])
    assert not network(w, a, told).any()
    shaken(network, generator)
    jacobian = torch.autograd.functional.jacobian(lambda w: network(w, a, told)[0], w)[:, 0]
    assert (jacobian != 0).all()
    changed = [network(w, a, told), network(w, a + 0.1, told), network(w, a, torch.tensor([[0, 2], [2, 3]]))]
    assert not torch.allclose(changed[0], changed[1])
    assert not torch.allclose(changed[0], changed[2])


def test_entries_of_a_grid_belong_to_their_positions(generator):
    network = Velocity(8, positions=4, width=32, depth=1)
    tokens = []
    network.embed.register_forward_hook(lambda module, inputs, output: tokens.append(inputs[0]))
    grid = torch.arange(8.0).reshape(1, 2, 2, 2)  # (1, C, H, W) as spatial heads flatten it
    network(grid.flatten(1), torch.zeros(1))
    assert torch.equal(tokens[0][0], grid[0].flatten(1).T)


def test_length_is_by_draws_or_by_the_clock():
    assert Length(10 * BATCH).done({"step": 5, "elapsed_sec": 0}) == 0.5
    assert Length(minutes=2).done({"step": 5, "elapsed_sec": 30}) == 0.25
    assert Length(0).done({"step": 0, "elapsed_sec": 0}) == 1
    assert Length(10 * BATCH, minutes=1).done({"step": 5, "elapsed_sec": 45}) == 0.75  # what is over first
