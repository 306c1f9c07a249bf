"""The models that a config names; their weights follow from torch's global seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vaekit.config.settings import Config
from vaekit.models.vae import VAE
from vaekit.networks.chain import Chain
from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.networks.pixelshuffle import PixelShuffleDecoder, PixelShuffleEncoder
from vaekit.networks.resnetv2 import Decoder, Encoder


def build_vae(config: Config) -> VAE:
    """An untrained VAE of `config`; its weights follow from torch's global seed."""
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
        config.image_shape,
        config.latent_dim,
        config.to_json(),
    )
    for layer in vae.modules():
        if isinstance(layer, Chain):
            layer.recompute = config.checkpoint_activations
    return vae


def vae_from_json(text: str) -> VAE:
    """The untrained VAE of a config as JSON. Raises `ValueError` if it is none."""
    return build_vae(Config.from_json(text))


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
