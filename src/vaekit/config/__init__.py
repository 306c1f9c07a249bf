"""Frozen settings, presets, JSON in and out. Imports no torch."""

from vaekit.config.groups import Discriminator, Network, Optimizer, Weights
from vaekit.config.presets import preset
from vaekit.config.settings import Config

__all__ = ["Config", "Discriminator", "Network", "Optimizer", "Weights", "preset"]
