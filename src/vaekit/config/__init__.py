"""Frozen settings, presets, JSON in and out. Imports no torch."""

from vaekit.config.settings import Config, Discriminator, Network, Optimizer, Weights, preset

__all__ = ["Config", "Discriminator", "Network", "Optimizer", "Weights", "preset"]
