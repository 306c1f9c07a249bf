"""A model in the place of diffusers' autoencoder."""

import dataclasses

import pytest
import torch

import vaekit
from vaekit import VAE, DiffusersVAE
from vaekit.config.groups import Network
from vaekit.models.vae import build_vae
from vaekit.priors.base import Latents
from vaekit.priors.gaussian import fit_gaussian


@pytest.fixture
def vae(tiny, generator):
    """Untrained, with the Gaussian of latents that are neither centred nor of unit spread."""
    torch.manual_seed(0)
    vae = build_vae(tiny).eval().requires_grad_(False)
    mean = 3 * torch.randn(200, vae.latent_dim, generator=generator) + torch.arange(vae.latent_dim) - 4
    vae.set_prior("gaussian", fit_gaussian(Latents(mean, torch.full_like(mean, 0.5))))
    return vae


def test_it_gives_what_the_model_gives_on_its_grid(vae, generator):
    adapter, x = DiffusersVAE(vae), torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    posterior, found = vae.encode(x), adapter.encode(x).latent_dist
    assert found.mean.shape == (2, 1, 4, 4)
    assert torch.equal(found.mean.flatten(1), posterior.mean)
    assert torch.equal(found.std.flatten(1), posterior.std)
    torch.testing.assert_close(found.kl(), posterior.kl_standard())
    assert torch.equal(adapter.decode(found.mode()).sample, vae.decode(posterior.mean))
    assert torch.equal(adapter.decode(found.mode(), return_dict=False)[0], vae.decode(posterior.mean))
    assert torch.equal(adapter(x).sample, vae.decode(posterior.mean))


def test_positions_of_the_grid_are_those_of_the_picture(vae):
    adapter, x = DiffusersVAE(vae), torch.full((1, 3, 16, 16), -0.5)
    changed = x.clone()
    changed[..., 12:, :4] = 1  # below, on the left
    moved = (adapter.encode(changed).latent_dist.mean - adapter.encode(x).latent_dist.mean).abs().sum(1)[0]
    assert moved[3, 0] > 5 * moved[:2].max()
    assert moved[3, 0] > 5 * moved[:, 2:].max()


def test_scaled_latents_have_mean_zero_and_std_one(vae):
    config = DiffusersVAE(vae).config
    z = vae.priors["gaussian"].sample(20_000, torch.Generator().manual_seed(1))
    scaled = (z - config.shift_factor) * config.scaling_factor
    assert abs(scaled.mean()) < 0.02
    assert abs(scaled.std() - 1) < 0.02


def test_without_a_gaussian_nothing_is_scaled(tiny):
    config = DiffusersVAE(build_vae(tiny)).config
    assert (config.shift_factor, config.scaling_factor) == (0, 1)


def test_a_draw_follows_its_generator(vae):
    found = DiffusersVAE(vae).encode(torch.zeros(1, 3, 16, 16)).latent_dist
    draws = [found.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_model_without_a_grid_is_refused(tiny):
    dense = dataclasses.replace(tiny, network=Network(latent_dim=6, channels=8, max_channels=8, heads="dense"))
    for vae in (build_vae(dense), VAE(torch.nn.Identity(), torch.nn.Identity(), (3, 16, 16), 4)):
        with pytest.raises(ValueError, match="heads spatial"):
            vaekit.DiffusersVAE(vae)


@pytest.mark.filterwarnings("ignore")  # of diffusers
def test_a_pipeline_of_diffusers_draws_with_it(vae):
    pytest.importorskip("diffusers")
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
    )
    pipeline = LDMPipeline(vqvae=DiffusersVAE(vae), unet=unet, scheduler=DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    pictures = pipeline(batch_size=2, generator=generator, num_inference_steps=3, output_type="pil").images
    assert [picture.size for picture in pictures] == [(16, 16)] * 2


@pytest.mark.filterwarnings("ignore")
def test_pictures_go_through_the_image_processor_of_diffusers_and_back(vae, photos):
    pytest.importorskip("diffusers")
    from diffusers.image_processor import VaeImageProcessor
    from PIL import Image

    adapter = DiffusersVAE(vae)
    processor = VaeImageProcessor(vae_scale_factor=2 ** (len(adapter.config.block_out_channels) - 1))
    assert processor.config.vae_scale_factor == 4  # pixels a position
    with Image.open(sorted(photos.iterdir())[0]) as picture:
        x = processor.preprocess(picture, height=16, width=16)
    (again,) = processor.postprocess(adapter(x).sample, output_type="pil")
    assert again.size == (16, 16)
