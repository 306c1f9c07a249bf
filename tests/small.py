"""Settings of small runs, beside the fixtures of `conftest`."""

from __future__ import annotations

import dataclasses

from vaekit.config.groups import Network
from vaekit.config.settings import Config


def tiny_resnet(config: Config, norm: str) -> Config:
    """The same run with the paper's blocks."""
    network = Network(kind="resnetv2", latent_dim=6, heads="dense", channels=8, norm=norm)  # type: ignore[arg-type]
    return dataclasses.replace(config, network=network)
