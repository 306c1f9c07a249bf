"""The networks that a config names; their weights follow from torch's global seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from vaekit.config.settings import FINER, Config
from vaekit.config.variants import OBJECTIVES
from vaekit.models.codebook import Codebook
from vaekit.networks.chain import Chain
from vaekit.networks.heads import PointHead
from vaekit.networks.maps import BrenierMap, CouplingFlow
from vaekit.networks.patchgan import PatchDiscriminator
from vaekit.networks.pixelshuffle import PixelShuffleDecoder, PixelShuffleEncoder, stage_widths
from vaekit.networks.pseudoinputs import PseudoInputs
from vaekit.networks.resnetv2 import Decoder, Encoder
from vaekit.networks.two_levels import TwoLevelDecoder, TwoLevelEncoder


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
    row, entries = OBJECTIVES[config.objective], config.latent_dim
    of_level = entries // 2 if row.two_levels else entries
    encoder: Any = make_encoder(config.image_shape, of_level, identity_blocks=network.encoder_blocks, **settings)
    decoder: Any = make_decoder(config.image_shape, of_level, identity_blocks=network.decoder_blocks, **settings)
    if row.points:  # after the other is made, so that all weights are those of a VAE
        encoder.add_module("logvar", PointHead(of_level))
    if row.two_levels:
        channels = finer_channels(config)
        lower = of_level // (FINER * math.prod(config.grid))
        encoder = TwoLevelEncoder(encoder, channels, lower, points=row.points)
        decoder = TwoLevelDecoder(decoder, channels, lower, expects=not row.points)
    if row.front == "codes":
        decoder.front = Codebook(entries, config.positions, network.codes, config.code_entries)
    elif row.front is not None:
        decoder.front = {"coupling": CouplingFlow, "brenier": BrenierMap}[row.front](entries)
    for layer in (*encoder.modules(), *decoder.modules()):
        if isinstance(layer, Chain):
            layer.recompute = config.checkpoint_activations
    return encoder, decoder


def finer_channels(config: Config) -> int:
    """Channels of the features of the grid that is twice as fine as the coarsest."""
    network = config.network
    if network.kind == "resnetv2":
        return network.channels
    return stage_widths(network.channels, config.num_stages, network.max_channels)[-2]


def build_pseudo_inputs(config: Config) -> PseudoInputs | None:
    """Untrained learned pictures, where the objective has some."""
    if "network.pseudo_inputs" not in OBJECTIVES[config.objective].settings:
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
