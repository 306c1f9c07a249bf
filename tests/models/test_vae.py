"""The VAE without a run: networks of the user's own, one pass of training, batched encoding and decoding."""

import numpy as np
import pytest
import torch
from torch import nn

from vaekit.models.batches import decode_batches, encode_batches
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE, build_vae


class OwnEncoder(nn.Module):
    """Two linear maps of the pixels; dropout shows whether it is in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.heads = nn.Linear(48, 6)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.heads(self.dropout(x.flatten(1))).chunk(2, 1)


def own_vae():
    return VAE(OwnEncoder(), nn.Sequential(nn.Linear(3, 48), nn.Unflatten(1, (3, 4, 4))), (3, 4, 4), 3)


@pytest.fixture
def x(generator):
    return torch.rand(7, 3, 4, 4, generator=generator) * 2 - 1


def test_networks_of_ones_own_encode_decode_and_sample(x):
    vae = own_vae()
    assert vae.encode(x).mean.shape == (7, 3)
    assert vae.decode(vae.encode(x).mean).shape == vae.sample(7).shape == x.shape
    with pytest.raises(ValueError, match=r"this model takes \(B, 3, 4, 4\)"):
        vae.encode(x[:, :, :3])


def test_the_shape_of_the_images_may_come_as_a_list(x):
    vae = VAE(own_vae().encoder, own_vae().decoder, [3, 4, 4], 3)
    assert vae.encode(x).mean.shape == (7, 3)


def test_networks_of_ones_own_are_saved_and_need_to_be_given_again(tmp_path, x):
    vae = own_vae().eval()
    vae.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    other = own_vae()
    again = VAE.from_pretrained(tmp_path, encoder=other.encoder, decoder=other.decoder)
    assert torch.equal(again.encode(x).mean, vae.encode(x).mean)
    assert (again.image_shape, again.latent_dim) == ((3, 4, 4), 3)
    with pytest.raises(ValueError, match="saved with networks of its own; give them as encoder and decoder"):
        VAE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give both the encoder and the decoder, or neither"):
        VAE.from_pretrained(tmp_path, encoder=other.encoder)
    with pytest.raises(ValueError, match="do not fit these networks"):
        VAE.from_pretrained(tmp_path, encoder=other.encoder, decoder=nn.Linear(3, 3))


def test_a_pass_names_what_it_gives_and_is_the_encoder_the_noise_and_the_decoder(tiny, generator):
    vae = build_vae(tiny)
    x = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    eps = torch.randn(2, 16, generator=generator)
    seen = vae(x, eps)
    posterior = vae.encode(x)
    assert torch.equal(seen.latents[0], posterior.mean)
    assert torch.equal(seen.latents[1], posterior.logvar)
    assert torch.equal(seen.z, posterior.mean + eps * posterior.std)
    assert torch.equal(seen.x_hat, vae.decode(seen.z))
    assert torch.equal(vae.latents_of(seen.latents).std, posterior.std)


def test_a_pass_of_training_asks_nothing_of_networks_of_your_own(generator):
    vae = own_vae()
    x, eps = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, generator=generator)
    seen = vae(x, eps)
    assert torch.equal(seen.x_hat, vae.decode(seen.z))
    assert (vae.codebook, seen.shared, dict(seen.measured), seen.fakes) == (None, (), {}, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_of_any_type_takes_pictures_and_latents_of_any_type(tiny, generator, dtype, given):
    vae = build_vae(tiny).to(dtype)
    x = (torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1).to(given)
    posterior = vae.encode(x)
    assert posterior.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert vae.decode(posterior.sample(generator=generator)).dtype == dtype
    assert vae.sample(2).shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"torch.uint8; .* floats in \[-1, 1\]: give x / 127.5 - 1"),
        (torch.zeros(0, 3, 16, 16), r"no picture: .* this model takes \(B, 3, 16, 16\)"),
        (np.zeros((2, 3, 16, 16), np.float32), r"pictures as ndarray; this model takes a torch.Tensor"),
        (torch.zeros(3, 16, 16), r"shape \(3, 16, 16\)"),
    ],
)
def test_pictures_that_a_model_cannot_take_are_refused(tiny, x, message):
    with pytest.raises(ValueError, match=message):
        build_vae(tiny).encode(x)


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(0, 16), r"no latents: a tensor of shape \(0, 16\)"),
        (torch.zeros(2, 15), r"shape \(2, 15\); this model takes \(B, 16\)"),
        (torch.zeros(2, 16, dtype=torch.int64), r"torch.int64; this model takes floats"),
    ],
)
def test_latents_that_a_model_cannot_take_are_refused(tiny, z, message):
    with pytest.raises(ValueError, match=message):
        build_vae(tiny).decode(z)


@pytest.mark.parametrize(
    ("scale", "shift", "cure"), [(1, 0, r"2 \* x - 1"), (255, 0, r"x / 127.5 - 1"), (200, -100, r"x / 127.5 - 1 for")]
)
def test_pixels_that_are_not_in_minus_one_to_one_bring_a_warning(tiny, generator, scale, shift, cure):
    x = torch.rand(2, 3, 16, 16, generator=generator) * scale + shift
    with pytest.warns(UserWarning, match=rf"this model takes pictures in \[-1, 1\]: give {cure}"):
        build_vae(tiny).encode(x)


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 16, 16), torch.linspace(-1.3, 1.3, 768).view(1, 3, 16, 16)])
def test_pixels_that_may_be_in_minus_one_to_one_bring_none(tiny, x, recwarn):
    build_vae(tiny).encode(x)
    assert not recwarn.list


def test_pixels_without_values_are_encoded_and_cannot_be_warned_of(tiny):
    vae = build_vae(tiny)
    assert vae.to("meta").encode(torch.zeros(2, 3, 16, 16, device="meta")).mean.shape == (2, 16)


def test_a_model_that_was_saved_comes_without_gradients_until_it_is_asked_to_train(tiny, generator, tmp_path):
    build_vae(tiny).save_pretrained(tmp_path)
    vae = VAE.from_pretrained(tmp_path)
    x = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    assert vae.encode(x).mean.grad_fn is None
    assert vae.decode(vae.encode(x).mean).numpy().shape == (2, 3, 16, 16)
    vae.requires_grad_()
    assert vae.encode(x).mean.requires_grad


def test_encoding_in_batches_is_encoding_at_once_in_evaluation_mode_and_without_gradients(x):
    vae = own_vae().train()
    posterior = encode_batches(vae, x.split(3))
    assert vae.encoder.dropout.training
    torch.testing.assert_close(posterior.mean, vae.eval().encode(x).mean.detach())
    assert not posterior.mean.requires_grad


def test_decoding_in_batches_is_decoding_at_once(generator):
    vae, z = own_vae(), torch.randn(7, 3, generator=generator)
    parts = list(decode_batches(vae, z, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(parts), vae.decode(z).detach())
    assert not parts[0].requires_grad


def test_every_module_gets_its_own_mode_back_also_after_an_error():
    vae = own_vae().train()
    vae.decoder.eval()
    with pytest.raises(ValueError, match="this model takes"):
        encode_batches(vae, [torch.zeros(1, 3, 2, 2)])
    assert vae.encoder.dropout.training
    assert not vae.decoder.training


def test_a_posterior_is_its_tensors_and_its_kl_that_of_its_entries(generator):
    posterior = Posterior(torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator))
    assert torch.equal(Posterior(*posterior.tensors).logvar, posterior.logvar)
    torch.testing.assert_close(posterior.kl_entries().sum(1), posterior.kl_standard())
