"""Shapes, parameter counts against the author's, and the parts that must or must not learn."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from vaekit.config.groups import Network
from vaekit.config.presets import preset
from vaekit.models.build import build_discriminator
from vaekit.models.posterior import Posterior
from vaekit.models.vae import build_vae
from vaekit.networks.norms import NORMS, FrozenBatchNorm2d
from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.networks.pixelshuffle import PixelShuffleDecoder, PixelShuffleEncoder, ResidualBlock
from vaekit.networks.resnetv2 import DownsamplingBlock, IdentityBlock, UpsamplingBlock

HEADS = 2 * (1024 * 512 + 512)


def trainable(module):
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def statistics(module):
    return sum(b.numel() for name, b in module.named_buffers() if "running" in name)


@pytest.fixture(scope="module")
def released():
    config = preset("released")
    return build_vae(config), build_discriminator(config)


def test_released_has_the_parameter_counts_of_the_authors_network(released):
    vae, discriminator = released
    assert trainable(vae) - HEADS == 9_908_140
    assert trainable(vae) == 10_957_740
    assert statistics(vae) == 24_326
    assert trainable(discriminator) == 411_075
    assert statistics(discriminator) == 1_026
    assert trainable(vae.encoder.features[0]) == 131_072


def test_paper_has_one_more_identity_block_in_each_stage_of_the_decoder(released):
    identity_block = 3 * 256 + 2 * (128 * 128 * 9 + 128) + 128 * 128 + 128
    assert trainable(build_vae(preset("paper"))) - trainable(released[0]) == 6 * identity_block


def test_paper_discriminator_lacks_only_the_norm_of_the_logits(released):
    assert trainable(released[1]) - trainable(build_discriminator(preset("paper"))) == 2


def test_released_has_keras_batchnorm_constants_and_statistics_that_never_move(released):
    vae, _ = released
    norms = [module for module in vae.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    norm = norms[0].train()
    x = 3 + 2 * torch.randn(4, 128, 2, 2)
    torch.testing.assert_close(norm(x), x / math.sqrt(1 + 1e-3))
    assert norm.running_mean.abs().max() == 0


def test_paper_has_keras_batchnorm_momentum_and_statistics_that_move():
    vae = build_vae(preset("paper", size=16))
    norm = next(module for module in vae.modules() if isinstance(module, nn.BatchNorm2d))
    assert not isinstance(norm, FrozenBatchNorm2d)
    norm.train()(torch.ones(4, 128, 2, 2))
    torch.testing.assert_close(norm.running_mean, torch.full((128,), 0.01))


def test_weights_start_glorot_uniform_and_biases_at_zero(released):
    for module in (m for network in released for m in network.modules()):
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            limit = math.sqrt(6 / (kernel * (module.in_channels + module.out_channels)))
            assert module.weight.abs().max() <= limit
            if module.weight.numel() > 5000:
                assert module.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
            assert module.bias.abs().max() == 0


def as_in_the_paper(block, x):
    """A block as section 3 of the method lists it: [norm, ReLU, layer] one by one, stride 2 in the last 1x1 only."""

    def unit(norm, layer, x, stride=1):
        x = torch.relu(norm(x))
        if isinstance(layer, nn.ConvTranspose2d):
            return layer(x)
        return nn.functional.conv2d(x, layer.weight, layer.bias, stride, padding=layer.padding)

    stride = 2 if isinstance(block, DownsamplingBlock) else 1
    residual, *others = [(norm, layer) for norm, _, layer in block.residual]
    y = unit(*residual, x)
    for norm, layer in others:
        y = unit(norm, layer, y, stride if layer is others[-1][1] else 1)
    if isinstance(block, IdentityBlock):
        return x + y
    return unit(block.shortcut[0], block.shortcut[2], x, stride) + y


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [IdentityBlock, DownsamplingBlock, lambda *a: UpsamplingBlock(8, *a)])
def test_a_block_saves_work_and_computes_what_its_layers_do_one_by_one(make, norm, generator):
    block = make(8, norm).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 8, 6, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    inputs = [x, *block.parameters()]
    computed, expected = block(x), as_in_the_paper(block, x)
    torch.testing.assert_close(computed, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    gradients, expected_gradients = (torch.autograd.grad(y, inputs, upstream) for y in (computed, expected))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_the_input_norm_standardises_each_channel_map(released):
    x = 5 + 3 * torch.randn(2, 3, 256, 256)
    y = released[0].encoder.features[0](x)
    torch.testing.assert_close(y.mean((2, 3)), torch.zeros(2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std((2, 3)), torch.ones(2, 3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "config",
    [preset("fast"), preset("fast", network=Network(latent_dim=9, heads="dense")), preset("paper"), preset("released")],
    ids=["fast", "dense", "paper", "released"],
)
@pytest.mark.parametrize(("size", "channels"), [(32, 3), ((32, 48), 1), ((48, 16), 4)])
def test_any_fitting_size_and_channels_comes_back_in_its_shape(config, size, channels):
    config = dataclasses.replace(config, size=size, channels=channels)
    vae, discriminator = build_vae(config).eval(), build_discriminator(config).eval()
    x = torch.rand(2, *config.image_shape) * 2 - 1
    posterior = vae.encode(x)
    assert posterior.mean.shape == posterior.logvar.shape == (2, vae.latent_dim)
    assert vae.decode(posterior.mean).shape == x.shape
    assert discriminator(x).shape == (2, 1, x.shape[2] // 8, x.shape[3] // 8)


@pytest.mark.parametrize(("size", "stages"), [(64, 4), (256, 6), (128, 5), ((64, 96), 4), (48, 3), (100, 2)])
def test_as_many_stages_as_leave_a_grid_of_four(size, stages):
    assert preset("paper", size=size, gan=False).num_stages == stages


def test_the_residual_blocks_of_the_small_network_start_as_the_identity():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8)(x), x)


@pytest.mark.parametrize("dense", [False, True])
def test_the_small_network_starts_without_a_checkerboard(dense):
    """All four sub-pixels of a 2x2 block are equal before the last convolution."""
    decoder = PixelShuffleDecoder((1, 16, 16), 32, stages=2, channels=8, dense=dense)
    x = decoder.layers[:-1](torch.randn(1, 32))
    for i, j in ((0, 1), (1, 0), (1, 1)):
        torch.testing.assert_close(x[..., ::2, ::2], x[..., i::2, j::2])


@pytest.mark.parametrize("dense", [False, True])
def test_the_small_network_starts_with_noise_about_as_large_as_its_signal(dense, generator):
    """At the usual std of 1 the noise would be fifty times the signal, and the decoder would learn from little else."""
    encoder = PixelShuffleEncoder((3, 64, 64), 64, stages=4, channels=32, max_channels=256, dense=dense)
    x = torch.nn.functional.interpolate(torch.rand(64, 3, 4, 4, generator=generator) * 2 - 1, size=64, mode="bicubic")
    posterior = Posterior(*encoder(x))
    assert 0.3 < (posterior.mean.var(0) / posterior.std.square().mean(0)).median() < 10


def test_spatial_entries_begin_as_those_of_their_own_position_and_dense_ones_as_everybodys():
    torch.manual_seed(0)
    z = torch.randn(1, 2 * 4 * 4)
    other = z.unflatten(1, (2, 4, 4)).clone()
    other[..., 1, 2] += 1.0
    for dense in (False, True):
        decoder = PixelShuffleDecoder((1, 16, 16), 32, stages=2, channels=8, dense=dense)
        moved = (decoder(other.flatten(1)) - decoder(z))[0, 0].abs() > 1e-6
        block = torch.zeros(16, 16, dtype=torch.bool)
        block[3:9, 7:13] = True  # rows 4 to 7 and columns 8 to 11, and one more all around from the last convolution
        assert torch.equal(moved, block) != dense
        assert moved.all() == dense


def test_an_image_scores_the_same_whatever_stands_beside_it_unless_batchnorm_is_live():
    torch.manual_seed(0)
    for norm, independent in {"frozen": True, "group": True, "none": True, "batch": False}.items():
        judge = PatchDiscriminator(3, norm=norm, dropout=0).train()
        x = torch.randn(4, 3, 16, 16)
        assert torch.allclose(judge(x)[:1], judge(x[:1]), atol=1e-5) == independent
        assert judge.batch_statistics != independent


def test_the_discriminator_shows_five_maps_of_features_and_its_logits(tiny):
    discriminator = build_discriminator(tiny).eval()
    x = torch.rand(2, 3, 16, 16)
    *features, logits = discriminator.activations(x)
    assert [tuple(map_.shape) for map_ in features] == [(2, 8, 8, 8), (2, 8, 4, 4), *3 * [(2, 8, 2, 2)]]
    assert torch.equal(logits, discriminator(x))


def test_the_mean_and_logvar_of_a_model_are_float32_under_autocast():
    vae = build_vae(preset("fast", size=16))
    with torch.autocast("cpu", torch.bfloat16):
        (mean, logvar), z, *_ = vae(torch.randn(2, 3, 16, 16), torch.randn(2, vae.latent_dim))
    assert mean.dtype == logvar.dtype == z.dtype == torch.float32


def test_the_vae_starts_alike_with_and_without_a_discriminator():
    def build(gan):
        torch.manual_seed(0)
        config = preset("fast", size=16, gan=gan)
        vae = build_vae(config)
        if gan:
            build_discriminator(config)
        return vae

    for one, other in zip(build(True).parameters(), build(False).parameters(), strict=True):
        assert torch.equal(one, other)


def test_wrong_shapes_are_refused_with_the_right_ones():
    vae = build_vae(preset("fast", size=16))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 8, 8\); this model takes \(B, 3, 16, 16\)"):
        vae.encode(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"latents of shape \(2, 3\); this model takes \(B, 512\)"):
        vae.decode(torch.zeros(2, 3))


def test_samples_follow_the_generator_and_the_standard_normal():
    vae = build_vae(preset("fast", size=16))
    first, second = (vae.sample(3, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    z = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, vae.decode(z))


def test_a_network_can_be_built_from_replaced_settings():
    config = preset("released", size=16)
    narrow = dataclasses.replace(config, network=dataclasses.replace(config.network, channels=16))
    assert build_vae(narrow).encoder.features[1].out_channels == 16
