"""The VAE-GAN: where its gradients go, and what its discriminator is shown."""

import copy
import dataclasses

import pytest
import torch
from lightning_fabric import Fabric

from small import tiny_resnet
from vaekit.cli import run
from vaekit.config.presets import model_config, preset
from vaekit.objectives.build import build_objective
from vaekit.training import step as steps
from vaekit.training.adversarial import judge_through
from vaekit.training.state import build_state
from vaekit.training.step import backward_whole, split_batch, train_step


@pytest.fixture(params=["group", "batch"])
def begun(request, tiny, generator):
    """A run with norms of each picture, and one with live BatchNorm, in which pictures see each other."""
    discriminator = dataclasses.replace(tiny.discriminator, norm=request.param)
    config = dataclasses.replace(tiny, objective="vae-gan", discriminator=discriminator)
    config = tiny_resnet(config, "batch") if request.param == "batch" else config
    fabric = Fabric(accelerator="cpu")
    state = build_state(fabric, config)
    x = torch.rand(6, *config.image_shape, generator=generator) * 2 - 1
    return config, fabric, state, x, torch.randn(6, config.noise_dim, generator=generator)


def gradients_of(begun, **weights):
    config, fabric, state, x, eps = begun
    objective = dataclasses.replace(build_objective(config), **weights)
    judge = judge_through(fabric, state.discriminator.module, features=True)
    state.vae_optimizer.zero_grad()
    backward_whole(fabric, state.vae, objective, x, eps, split_batch(6, None), judge)
    vae = state.vae.module
    return [torch.cat([p.grad.flatten() for p in part.parameters()]) for part in (vae.encoder, vae.decoder)]


def test_the_realism_moves_the_decoder_and_not_the_encoder(begun):
    encoder, decoder = gradients_of(begun, kl=0.0, features=0.0)
    assert encoder.abs().max() == 0
    assert decoder.abs().max() > 0


def test_the_distance_in_features_moves_both(begun):
    for gradient in gradients_of(begun, kl=0.0, realism=0.0):
        assert gradient.abs().max() > 0


def test_the_discriminator_is_shown_reconstructions_and_decoded_draws(begun, monkeypatch):
    config, fabric, state, x, eps = begun
    shown = []
    whole = steps.backward_discriminator
    monkeypatch.setattr(
        steps, "backward_discriminator", lambda *arguments: shown.append(arguments[3]) or whole(*arguments)
    )
    vae = copy.deepcopy(state.vae.module)  # BatchNorm's statistics move
    with torch.no_grad():
        z = vae.encode(x).sample(eps[:, : vae.latent_dim])
        expected = vae.decode(torch.cat([z, eps[:, vae.latent_dim :]])).chunk(2)
    train_step(fabric, state, build_objective(config), x, eps, adversarial=True)
    torch.testing.assert_close(shown[0], torch.stack(expected, 1))


def test_the_statistics_of_live_batchnorm_are_those_of_reconstructions(begun):
    _, _, state, x, eps = begun
    vae, alone = state.vae.module.train(), copy.deepcopy(state.vae.module).train()
    vae(x, eps)
    alone.decode(alone.encode(x).sample(eps[:, : vae.latent_dim]))
    for ours, theirs in zip(vae.decoder.buffers(), alone.decoder.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_pixel_is_compared(begun):
    config, fabric, state, x, eps = begun
    terms = train_step(fabric, state, build_objective(config), x, eps, adversarial=True)
    assert "l1" not in terms
    assert terms.keys() >= {"kl_standard", "features", "realism", "discriminator_real", "discriminator_fake"}


def test_the_discriminator_is_there_from_the_first_step_whatever_its_start():
    config = preset("fast", objective="vae-gan")
    assert config.discriminator.start > 0
    assert config.discriminator_start == 0
    assert preset("fast").discriminator_start == config.discriminator.start


def test_it_cannot_be_without_a_discriminator(photos, capsys):
    assert run(["train", str(photos), "--objective", "vae-gan", "--no-gan", "--dry-run"]) == 2
    assert "objective vae-gan has no likelihood without its discriminator" in capsys.readouterr().err
    assert model_config(preset("fast"), "vae-gan").gan
