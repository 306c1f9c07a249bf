"""The networks that a config names; their weights follow from torch's global seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.models.codebook import Codebook
from vaekit.networks.chain import Chain
from vaekit.networks.heads import PointHead
from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.networks.pixelshuffle import PixelShuffleDecoder, PixelShuffleEncoder
from vaekit.networks.pseudoinputs import PseudoInputs
from vaekit.networks.resnetv2 import Decoder, Encoder


def build_encoder_decoder(config: Config) -> tuple[nn.Module, nn.Module]:
    """An untrained encoder, x (B, C, H, W) -> mean, logvar (B, d), and decoder, z (B, d) -> x_hat (B, C, H, W)."""
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
    encoder = make_encoder(config.image_shape, config.latent_dim, identity_blocks=network.encoder_blocks, **settings)
    decoder = make_decoder(config.image_shape, config.latent_dim, identity_blocks=network.decoder_blocks, **settings)
    if OBJECTIVES[config.objective].points:  # after the other is made, so that all weights are those of a VAE
        encoder.add_module("logvar", PointHead(config.latent_dim))
    if OBJECTIVES[config.objective].codes:
        decoder.codebook = Codebook(config.latent_dim, config.positions, network.codes, config.code_entries)
    for layer in (*encoder.modules(), *decoder.modules()):
        if isinstance(layer, Chain):
            layer.recompute = config.checkpoint_activations
    return encoder, decoder


def build_pseudo_inputs(config: Config) -> PseudoInputs | None:
    """Untrained learned pictures, where the objective has some."""
    if config.objective != "vamp":
        return None
    return PseudoInputs(config.network.pseudo_inputs, config.image_shape)


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
