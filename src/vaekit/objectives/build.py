"""The objective that a config names."""

from __future__ import annotations

from torch import nn

from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES, code_of
from vaekit.objectives.losses import Objective


def build_objective(config: Config, beside: nn.Module | None = None) -> Objective:
    """The objective of `config` with its weights.

    `beside` is what it needs of the state of a run, see `TrainState.beside`: the memory of batch moments, or the
    discriminator of latents.
    """
    return code_of("objectives", OBJECTIVES[config.objective].builder)(config, beside)
