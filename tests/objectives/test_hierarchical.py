"""The KLs of two levels, and of a flow, against Monte Carlo; the priors that come of them."""

import dataclasses

import pytest
import torch
from lightning_fabric import Fabric

from small import of_objective
from vaekit.commands.train import train
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE, build_vae
from vaekit.objectives.build import build_objective
from vaekit.objectives.hierarchical import FREE_NATS, Hierarchical
from vaekit.objectives.losses import vae_loss
from vaekit.priors import learned
from vaekit.training import loop
from vaekit.training.state import build_state
from vaekit.training.step import train_step

MANY = 20_000


def trained_a_little(config, generator):
    """A model whose every weight has moved."""
    torch.manual_seed(0)
    vae = build_vae(config.resolved())
    with torch.no_grad():
        for weight in vae.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return vae


@pytest.mark.parametrize("objective", ["hierarchical", "flow"])
def test_the_kl_is_that_of_monte_carlo(tiny, generator, objective):
    """The mean over many z of log q(z|x) - log p(z), with p the prior that the model learns."""
    vae = trained_a_little(of_objective(tiny, objective), generator)
    x = torch.rand(1, *vae.image_shape, generator=generator) * 2 - 1
    with torch.no_grad():
        one = vae.encode(x)
        many = Posterior(*(part.expand(MANY, -1) for part in one.tensors))
        z = many.sample(generator=generator)
        q = torch.distributions.Normal(many.mean, many.std)
        sampled = q.log_prob(z).sum(1) - vae.priors["learned"].log_prob(z)
        seen = vae(x.expand(200, -1, -1, -1), torch.randn(200, vae.latent_dim, generator=generator))
        if objective == "hierarchical":
            half = vae.latent_dim // 2
            upper = Posterior(*(part[:, :half] for part in one.tensors))
            found = upper.kl_standard() + seen.measured["kl_lower"].sum(1)
        else:
            found = one.kl_standard() + seen.measured["flow"]
    error = sampled.std() / MANY**0.5 + found.std() / len(found) ** 0.5
    assert abs(found.mean() - sampled.mean()) < 4 * error
    assert found.mean() > 1


@pytest.mark.parametrize(("progress", "free"), [(0.0, FREE_NATS), (0.19, FREE_NATS), (0.2, 0.0), (0.9, 0.0)])
def test_an_entry_costs_no_less_than_its_free_nats_in_the_first_fifth(progress, free):
    kl = torch.tensor([[0.0, 0.02, 1.0], [0.0, 3.0, 0.5]])
    objective = Hierarchical().at(progress)
    terms = objective.image_terms(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), {"kl_lower": kl}, {})
    assert terms["kl_lower"].item() == pytest.approx((free + max(free, 0.02) + 1 + free + 3.5) / 2)


def test_a_training_asks_the_objective_at_its_own_progress(tiny, photos, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Hierarchical, "at", lambda self, progress: asked.append(progress) or self)
    train(dataclasses.replace(of_objective(tiny, "hierarchical"), prior="gaussian"), photos, tmp_path / "run")
    assert asked == pytest.approx([step / len(asked) for step in range(len(asked))])


@pytest.mark.parametrize("objective", ["hierarchical", "flow"])
def test_draws_of_the_learned_prior_have_its_density(tiny, generator, objective):
    """By the change of variables of the noise that they are made of, with the determinant of autograd."""
    vae = trained_a_little(of_objective(tiny, objective), generator)
    prior = vae.priors["learned"]
    d = vae.latent_dim
    eps = torch.randn(1, d, generator=torch.Generator().manual_seed(0))
    z = prior.sample(1, torch.Generator().manual_seed(0))
    half = d // 2

    def made(noise):
        if objective == "flow":
            return vae.decoder.front.inverse(noise[None])[0]
        mean, logvar = vae.decoder.prior_of(noise[None, :half])
        return torch.cat([noise[:half], mean[0] + noise[half:] * torch.exp(0.5 * logvar[0])])

    torch.testing.assert_close(made(eps[0]).detach(), z[0], rtol=1e-4, atol=1e-5)
    jacobian = torch.autograd.functional.jacobian(made, eps[0])
    expected = vae.priors["normal"].log_prob(eps) - torch.linalg.slogdet(jacobian.double()).logabsdet.float()
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-4, atol=1e-3)


def test_the_prior_of_two_levels_looks_at_some_draws_at_a_time(tiny, generator, monkeypatch):
    vae = trained_a_little(of_objective(tiny, "hierarchical"), generator)
    prior, z = vae.priors["learned"], torch.randn(7, vae.latent_dim, generator=generator)
    whole = prior.log_prob(z), prior.sample(7, torch.Generator().manual_seed(0))
    sizes = []
    asked = vae.decoder.prior_of
    monkeypatch.setattr(vae.decoder, "prior_of", lambda upper: sizes.append(len(upper)) or asked(upper))
    monkeypatch.setattr(learned, "AT_ONCE", 3)
    parts = prior.log_prob(z), prior.sample(7, torch.Generator().manual_seed(0))
    assert sizes == [3, 3, 1] * 2
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_an_untrained_flow_gives_the_losses_of_the_standard_vae_to_the_bit_and_its_gradients(tiny, generator):
    x = torch.rand(6, *tiny.image_shape, generator=generator) * 2 - 1
    eps = torch.randn(6, tiny.resolved().latent_dim, generator=generator)
    found = []
    for objective in ("standard", "flow"):
        config = dataclasses.replace(tiny, objective=objective, gan=False).resolved()
        torch.manual_seed(0)
        vae = build_vae(config)
        seen = vae(x, eps)
        losses = vae_loss(
            build_objective(config), x, seen.x_hat, vae.latents_of(seen.latents), seen.z, measured=seen.measured
        )
        losses.total.backward()
        found.append((losses.items(), {name: p.grad for name, p in vae.named_parameters()}))
    (standard, ours), (flow, theirs) = found
    assert flow.pop("flow") == 0
    assert flow == standard
    for name, gradient in ours.items():  # through the flow and back, so not to the bit
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-3)
    assert len(theirs) > len(ours)


def test_a_step_of_the_encoder_alone_moves_nothing_else(tiny, generator):
    config = dataclasses.replace(tiny, objective="lagging")
    fabric = Fabric(accelerator="cpu")
    state = build_state(fabric, config)
    before = {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in state.networks.items()}
    x = torch.rand(6, *config.image_shape, generator=generator) * 2 - 1
    eps = torch.randn(6, config.noise_dim, generator=generator)
    train_step(fabric, state, build_objective(config), x, eps, adversarial=True, clip=3.0, encoder_alone=True)
    moved = {
        f"{name}.{key}"
        for name, network in state.networks.items()
        for key, value in network.state_dict().items()
        if not torch.equal(value, before[name][key])
    }
    assert moved
    assert all(name.startswith("vae.encoder.") for name in moved)


def test_the_encoder_has_more_steps_in_the_first_epoch_alone(tiny, photos, tmp_path, monkeypatch):
    """Sixteen pictures to train on, batches of four: four steps, and two after them."""
    config = dataclasses.replace(tiny, objective="lagging", encoder_steps=3, prior="gaussian")
    kinds, noises = [], []

    def watched(*arguments, encoder_alone=False, **settings):
        kinds.append(encoder_alone)
        noises.append(arguments[-1])
        return train_step(*arguments, encoder_alone=encoder_alone, **settings)

    monkeypatch.setattr(loop, "train_step", watched)
    train(config, photos, tmp_path / "run")
    assert kinds == [True, True, False] * 4 + [False] * 2
    assert len({eps.sum().item() for eps in noises}) == len(noises) == len(kinds)
    assert VAE.from_pretrained(tmp_path / "run").latent_dim == 16
