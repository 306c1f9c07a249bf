"""Settings of small runs, beside the fixtures of `conftest`."""

from __future__ import annotations

import dataclasses

from vaekit.config.groups import Network
from vaekit.config.presets import model_config
from vaekit.config.settings import Config
from vaekit.config.variants import COMPARED, GAN, OBJECTIVES

POSITIONS = 16  # of the grid of 16x16 pictures


def tiny_resnet(config: Config, norm: str) -> Config:
    """The same run with the paper's blocks."""
    network = Network(kind="resnetv2", latent_dim=6, heads="dense", channels=8, norm=norm)  # type: ignore[arg-type]
    return dataclasses.replace(config, network=network)


def of_objective(config: Config, name: str) -> Config:
    """The same run of 16x16 pictures with another objective, and entries that its levels can share."""
    return dataclasses.replace(shared_by_levels(config, name), objective=name)


def of_model(config: Config, model: str) -> Config:
    """The same run as a model of a comparison, likewise."""
    return model_config(shared_by_levels(config, COMPARED[model.removesuffix(GAN)]["objective"]), model)


def shared_by_levels(config: Config, objective: str) -> Config:
    """The config with a latent vector that two levels can share, where the objective has two."""
    if not OBJECTIVES[objective].two_levels:
        return config
    return dataclasses.replace(config, network=dataclasses.replace(config.network, latent_dim=8 * POSITIONS))
