"""Two levels of latents: which entry is where, and that nothing of the network is lost."""

import dataclasses

import pytest
import torch

from small import of_objective, tiny_resnet
from vaekit.cli import run
from vaekit.config.presets import preset
from vaekit.models.vae import build_vae
from vaekit.networks.two_levels import TwoLevelDecoder, folded, unfolded


def test_folding_keeps_the_channels_of_a_position_together_and_can_be_undone(generator):
    fine = torch.randn(2, 3, 4, 6, generator=generator)
    coarse = folded(fine)
    assert coarse.shape == (2, 12, 2, 3)
    torch.testing.assert_close(coarse[:, :3, 1, 2], fine[:, :, 2, 4])
    torch.testing.assert_close(coarse[:, 3:6, 1, 2], fine[:, :, 2, 5])
    torch.testing.assert_close(coarse[:, 6:9, 1, 2], fine[:, :, 3, 4])
    assert torch.equal(unfolded(coarse), fine)


@pytest.mark.parametrize("kind", ["pixelshuffle", "resnetv2"])
@pytest.mark.parametrize("objective", ["hierarchical", "vq2"])
def test_every_entry_moves_the_picture_and_every_weight_learns(tiny, generator, kind, objective):
    config = of_objective(tiny if kind == "pixelshuffle" else tiny_resnet(tiny, "none"), objective)
    torch.manual_seed(0)
    vae = build_vae(config.resolved())
    with torch.no_grad():
        for weight in vae.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    x = torch.rand(3, *config.image_shape, generator=generator) * 2 - 1
    seen = vae(x, torch.randn(3, config.noise_dim, generator=generator))
    assert seen.z.shape == (3, 128)
    assert seen.x_hat.shape == x.shape
    total = sum((each * torch.randn(each.shape, generator=generator)).sum() for each in seen.measured.values())
    total = total + sum(part.sum() for part in seen.latents if part.requires_grad)
    total = total + (seen.x_hat * torch.randn(x.shape, generator=generator)).sum()
    total.backward()
    idle = [name for name, weight in vae.named_parameters() if weight.requires_grad and not weight.grad.abs().max() > 0]
    assert not idle
    z = torch.randn(1, 128, generator=generator, requires_grad=True)
    gradient = torch.autograd.grad((vae.decode(z) * torch.randn(1, *config.image_shape, generator=generator)).sum(), z)
    assert (gradient[0] != 0).all()


def test_an_entry_of_the_lower_level_moves_less_of_the_picture_than_one_of_the_upper(generator):
    """The lower level is of a grid twice as fine: it stands for details."""
    torch.manual_seed(0)
    vae = build_vae(preset("fast", objective="hierarchical").resolved())
    z = torch.zeros(1, vae.latent_dim)
    shapes = []
    for entry in (5, vae.latent_dim // 2 + 5):
        moved = z.clone()
        moved[0, entry] = 1.0
        difference = (vae.decode(moved) - vae.decode(z)).abs().amax(1)[0] > 1e-6
        shapes.append(int(difference.sum()))
    assert 0 < shapes[1] < shapes[0]


def test_the_default_has_about_512_entries_in_each_level():
    assert preset("fast", objective="hierarchical").latent_dim == 1024
    assert preset("fast", objective="vq2").latent_dim == 1024
    assert isinstance(build_vae(preset("fast", objective="vq2").resolved()).decoder, TwoLevelDecoder)


def test_entries_that_two_levels_cannot_share_are_refused_with_a_number_that_works(photos, capsys):
    arguments = ["train", str(photos), "--objective", "hierarchical", "--dry-run", "--network.latent-dim"]
    assert run([*arguments, "592"]) == 2
    told = capsys.readouterr().err
    assert "network.latent_dim 592 cannot be shared by two levels of 16 and 64 positions; give 640" in told
    assert run([*arguments, "640"]) == 0
    with pytest.raises(ValueError, match=r"has two grids; give --network\.stages 2"):
        preset("fast", size=16, objective="vq2", network=dataclasses.replace(preset("fast").network, stages=1))
