"""The WAE-GAN: its two networks pull in opposite ways, each on its own weights."""

import dataclasses

import pytest
import torch
from lightning_fabric import Fabric

from vaekit.models.posterior import Posterior
from vaekit.networks.latent_discriminator import LatentDiscriminator
from vaekit.objectives.build import build_objective
from vaekit.objectives.wae_gan import WassersteinGAN
from vaekit.training.adversarial import backward_latent_discriminator
from vaekit.training.state import build_state
from vaekit.training.step import train_step


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu")


def latents(z):
    return Posterior(z, torch.full_like(z, -torch.inf))


def test_a_discriminator_of_latents_tells_them_from_draws_and_the_pull_brings_them_back(fabric, generator):
    """Points at 2 with a std of a half go to 0 and 1, and then nobody can tell."""
    torch.manual_seed(0)
    judge = LatentDiscriminator(2)
    objective = WassersteinGAN(judge)
    z = torch.nn.Parameter(2 + 0.5 * torch.randn(256, 2, generator=generator))
    theirs = torch.optim.Adam(judge.parameters(), 1e-3, betas=(0.5, 0.99))
    ours = torch.optim.Adam([z], 2e-2, betas=(0.5, 0.99))
    first = None
    for _ in range(500):
        ours.zero_grad()
        objective.latent_terms(latents(z), z)["latent_realism"].backward()
        assert all(p.grad is None or not p.grad.any() for p in judge.parameters())
        ours.step()
        theirs.zero_grad()
        losses = backward_latent_discriminator(fabric, judge, z.detach(), torch.randn(256, 2, generator=generator))
        first = first or losses.total.item()
        theirs.step()
        theirs.zero_grad()
    assert z.mean(0).abs().max() < 0.3
    assert (z.std(0) - 1).abs().max() < 0.3


def test_a_step_moves_the_discriminator_of_latents_by_its_own_loss(fabric, tiny, generator):
    config = dataclasses.replace(tiny, objective="wae-gan", gan=False)
    state = build_state(fabric, config)
    before = [p.detach().clone() for p in state.latent_discriminator.module.parameters()]
    x = torch.rand(6, *config.image_shape, generator=generator) * 2 - 1
    eps = torch.randn(6, config.noise_dim, generator=generator)
    with torch.no_grad():
        z = state.vae.module.encode(x).mean
        judge = state.latent_discriminator.module
        real, fake = judge(eps[:, config.latent_dim :]), judge(z)
        expected = torch.nn.functional.softplus(-real).mean(), torch.nn.functional.softplus(fake).mean()
    terms = train_step(fabric, state, build_objective(config, state.beside), x, eps, adversarial=False)
    assert terms["latent_discriminator_real"].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert terms["latent_discriminator_fake"].item() == pytest.approx(expected[1].item(), rel=1e-5)
    after = list(state.latent_discriminator.module.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert state.networks["latent_discriminator"] is state.latent_discriminator.module


def test_a_step_that_is_not_finite_moves_neither(fabric, tiny, generator):
    config = dataclasses.replace(tiny, objective="wae-gan", gan=False)
    state = build_state(fabric, config)
    before = {name: value.clone() for name, value in state.latent_discriminator.module.state_dict().items()}
    x = torch.full((6, *config.image_shape), torch.nan)
    eps = torch.randn(6, config.noise_dim, generator=generator)
    train_step(fabric, state, build_objective(config, state.beside), x, eps, adversarial=False)
    after = state.latent_discriminator.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
