"""The discriminator that a config names."""

from __future__ import annotations

from vaekit.config.settings import Config
from vaekit.networks.patchgan import PatchDiscriminator


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
