"""The variational autoencoder: encode, decode, sample; save and load with the config beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.networks.chain import Chain
from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.networks.pixelshuffle import PixelShuffleDecoder, PixelShuffleEncoder
from vaekit.networks.resnetv2 import Decoder, Encoder
from vaekit.system.files import read_tensors, write_tensors, write_text

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


class VAE(nn.Module):
    """An encoder q(z|x) and a decoder p(x|z) over pictures (B, C, H, W) in [-1, 1] and latents (B, d)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, config: Config) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.config = config

    @property
    def latent_dim(self) -> int:
        """Entries of the latent vector, d."""
        return self.config.latent_dim

    def encode(self, x: Tensor) -> Posterior:
        """x (B, C, H, W) in [-1, 1] -> the posterior of each picture. Raises `ValueError` for another shape."""
        if x.ndim != 4 or x.shape[1:] != self.config.image_shape:
            expected = ", ".join(map(str, self.config.image_shape))
            raise ValueError(f"pictures of shape {tuple(x.shape)}; this model takes (B, {expected}) in [-1, 1]")
        return Posterior(*self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """z (B, d) -> x_hat (B, C, H, W), about [-1, 1] but not clamped. Raises `ValueError` for another shape."""
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"latents of shape {tuple(z.shape)}; this model takes (B, {self.latent_dim})")
        return self.decoder(z)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass of training: x (B, C, H, W), noise (B, d) -> mean, logvar, z (B, d) and x_hat (B, C, H, W).

        Everything a training step needs goes through here, since DistributedDataParallel only sees `forward`.
        """
        posterior = self.encode(x)
        z = posterior.sample(eps)
        return posterior.mean, posterior.logvar, z, self.decode(z)

    @torch.no_grad()
    def sample(self, num_images: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode z ~ N(0, I): (num_images, C, H, W). `generator` must live on the model's device.

        KL_G matches two moments of the aggregate posterior and not its shape, so N(0, I) is not quite where the
        latents of real pictures lie.
        """
        device = next(self.parameters()).device
        return self.decode(torch.randn(num_images, self.latent_dim, generator=generator, device=device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors, with the config in its metadata, and config.json for people."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config.to_json()
        write_tensors(self.state_dict(), folder / WEIGHTS_FILE, {"config": config})
        write_text(config + "\n", folder / CONFIG_FILE)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> VAE:
        """Load what `save_pretrained` or a training run wrote, in evaluation mode.

        Raises `ValueError` if the folder holds no model, or one whose weights do not fit its config.
        """
        path = Path(folder) / WEIGHTS_FILE
        if not path.is_file():
            raise ValueError(f"no model in {folder}: {WEIGHTS_FILE} is missing; give the folder of a finished run")
        weights, metadata = read_tensors(path)
        vae = build_vae(Config.from_json(metadata.get("config", "")))
        try:
            vae.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights in {path} do not fit its config: {error}") from error
        # As in training: the same kernels, so the same pixels to the last bit, and the faster ones.
        return vae.to(device).to(memory_format=torch.channels_last).eval()


def build_vae(config: Config) -> VAE:
    """An untrained VAE; its weights follow from torch's global seed."""
    network = config.network
    settings: dict[str, Any] = {"stages": config.num_stages, "channels": network.channels}
    make_encoder: Callable[..., nn.Module]
    make_decoder: Callable[..., nn.Module]
    if network.kind == "pixelshuffle":
        make_encoder, make_decoder = PixelShuffleEncoder, PixelShuffleDecoder
        settings |= {"max_channels": network.max_channels, "dense": network.heads == "dense"}
    else:
        make_encoder, make_decoder = Encoder, Decoder
        settings["norm"] = network.norm
    vae = VAE(
        make_encoder(config.image_shape, config.latent_dim, identity_blocks=network.encoder_blocks, **settings),
        make_decoder(config.image_shape, config.latent_dim, identity_blocks=network.decoder_blocks, **settings),
        config,
    )
    for layer in vae.modules():
        if isinstance(layer, Chain):
            layer.recompute = config.checkpoint_activations
    return vae


def build_discriminator(config: Config) -> PatchDiscriminator:
    """An untrained discriminator; its weights follow from torch's global seed."""
    settings = config.discriminator
    return PatchDiscriminator(
        config.channels,
        channels=settings.channels,
        kernel=settings.kernel,
        norm=settings.norm,
        norm_first=settings.norm_first,
        norm_logits=settings.norm_logits,
        dropout=settings.dropout,
    )
