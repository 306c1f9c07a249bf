"""The VampPrior against closed forms, and what its learned pictures are."""

import dataclasses

import pytest
import torch

from small import tiny_resnet
from vaekit.cli import run
from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior, log_mixture
from vaekit.models.vae import VAE, build_vae
from vaekit.objectives.vamp import VampELBO, log_gaussian
from vaekit.training.optimizers import vae_optimizer


@pytest.fixture
def vamp(tiny):
    network = dataclasses.replace(tiny.network, pseudo_inputs=20)
    return dataclasses.replace(tiny, objective="vamp", network=network).resolved()


def test_the_log_density_is_that_of_torch(generator):
    z, mean, logvar = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Normal(mean, torch.exp(0.5 * logvar)).log_prob(z).sum(1)
    torch.testing.assert_close(log_gaussian(z, mean, logvar), expected)


def test_with_one_learned_picture_at_the_origin_it_is_the_kl_to_the_standard_normal(generator):
    """K = 1 with fixed moments is a Gaussian: the mean over many samples is eq. 11."""
    mean, logvar = torch.randn(2, 1, 4, generator=generator, dtype=torch.float64)
    one = Posterior(mean, logvar)
    many = Posterior(mean.expand(200_000, 4), logvar.expand(200_000, 4))
    z = many.sample(torch.randn(200_000, 4, generator=generator, dtype=torch.float64))
    found = VampELBO().latent_terms(many, z, (torch.zeros(1, 4), torch.zeros(1, 4)))["kl_vamp"]
    assert found.item() == pytest.approx(one.kl_standard().item(), rel=0.01)


def test_the_prior_is_the_mixture_of_the_posteriors_of_the_learned_pictures(generator):
    posterior = Posterior(*torch.randn(2, 5, 4, generator=generator, dtype=torch.float64))
    shared = tuple(torch.randn(2, 3, 4, generator=generator, dtype=torch.float64))
    z = posterior.sample(torch.randn(5, 4, generator=generator, dtype=torch.float64))
    log_q = log_gaussian(z, posterior.mean, posterior.logvar)
    expected = (log_q - log_mixture(z, Posterior(*shared))).mean()
    torch.testing.assert_close(VampELBO().latent_terms(posterior, z, shared)["kl_vamp"], expected)


def test_pictures_that_are_learned_pictures_cost_at_most_the_choice_of_one(generator):
    """-log p(z) <= -log q(z|u_k) + log K, whatever the others are."""
    posterior = Posterior(*torch.randn(2, 6, 4, generator=generator, dtype=torch.float64))
    z = posterior.sample(torch.randn(6, 4, generator=generator, dtype=torch.float64))
    assert VampELBO().latent_terms(posterior, z, posterior.tensors)["kl_vamp"] <= torch.tensor(6.0).log()


def test_a_model_draws_from_its_learned_pictures_as_they_are_now(vamp):
    torch.manual_seed(0)
    vae = build_vae(vamp)
    prior = vae.priors["learned"]
    mean, logvar = vae.shared()
    z = prior.sample(4_000, torch.Generator().manual_seed(0))
    assert z.shape == (4_000, vae.latent_dim)
    torch.testing.assert_close(z.mean(0), mean.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(prior.log_prob(z), log_mixture(z, Posterior(mean, logvar)).float(), rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        vae.encoder.mean.bias += 3
    assert prior.sample(100, torch.Generator().manual_seed(0)).mean() > z.mean() + 2


@pytest.mark.parametrize("norm", ["none", "frozen", "batch"])
def test_the_prior_that_is_trained_is_the_one_that_is_drawn_from(vamp, norm, generator):
    """Live BatchNorm would give learned pictures the statistics of their own batch."""
    network = dataclasses.replace(tiny_resnet(vamp, norm).network, pseudo_inputs=20)
    vae = build_vae(dataclasses.replace(vamp, network=network)).train()
    vae(torch.rand(6, *vae.image_shape, generator=generator), torch.randn(6, vae.latent_dim, generator=generator))
    modes = [layer.training for layer in vae.modules()]
    in_training = vae.shared()
    assert [layer.training for layer in vae.modules()] == modes
    for ours, theirs in zip(in_training, vae.eval().shared(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_activations_computed_again_are_those_of_the_prior_that_is_drawn_from(vamp, generator):
    """The second run of a block uses the statistics that the first one used."""
    network = dataclasses.replace(tiny_resnet(vamp, "batch").network, pseudo_inputs=20)
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        vae = build_vae(dataclasses.replace(vamp, network=network, checkpoint_activations=again)).train()
        sum(tensor.square().sum() for tensor in vae.shared()).backward()
        gradients.append([p.grad for p in vae.parameters() if p.grad is not None])
    assert gradients[0]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_learned_pictures_and_their_prior_travel_with_the_model(vamp, tmp_path):
    vae = build_vae(vamp)
    vae.save_pretrained(tmp_path)
    again = VAE.from_pretrained(tmp_path)
    assert torch.equal(again.pseudo_inputs(), vae.pseudo_inputs())
    assert list(again.priors) == ["normal", "learned"]
    assert again.prior_name == "learned"
    draws = [each.draw(3, torch.Generator().manual_seed(1)) for each in (vae, again)]
    torch.testing.assert_close(*draws)


def test_the_other_weights_are_those_of_any_vae(vamp, tiny):
    torch.manual_seed(0)
    expected = build_vae(tiny.resolved()).state_dict()
    torch.manual_seed(0)
    found = build_vae(vamp).state_dict()
    assert found.keys() - expected.keys() == {"pseudo_inputs.pictures"}
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_the_first_learned_pictures_have_posteriors_of_their_own(vamp):
    mean, _ = build_vae(vamp).shared()
    distances = torch.cdist(mean, mean) + torch.eye(len(mean)) * 1e9
    assert distances.min() > 0.01 * mean.std()


def test_learned_pictures_are_no_matrices_to_make_orthogonal(vamp):
    """Twenty pictures of 768 numbers look like a matrix."""
    vae = build_vae(vamp)
    optimizer = vae_optimizer(vae, vamp, torch.device("cpu"))
    pictures = vae.pseudo_inputs.pictures
    before = pictures.detach().clone()
    (vae.shared()[0] * torch.randn(20, vae.latent_dim)).sum().backward()
    optimizer.step()
    moved = (pictures - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, vamp.lr), rtol=0.05, atol=0)  # Adam's first step


def test_a_number_of_learned_pictures_is_refused_where_there_are_none(photos, capsys):
    assert run(["train", str(photos), "--network.pseudo-inputs", "7", "--dry-run"]) == 2
    assert "--network.pseudo-inputs 7 has no effect on --objective global: it is of vamp" in capsys.readouterr().err
    with pytest.raises(ValueError, match="pseudo_inputs"):
        Config(network=dataclasses.replace(Config().network, pseudo_inputs=0))
