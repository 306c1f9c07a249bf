"""The objective that a config names."""

from __future__ import annotations

from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES, code_of
from vaekit.objectives.losses import Objective
from vaekit.objectives.moments import MomentsMemory


def build_objective(config: Config, memory: MomentsMemory | None = None) -> Objective:
    """The objective of `config` with its weights; `memory` is that of the run, for one that sees batch moments."""
    return code_of("objectives", OBJECTIVES[config.objective].builder)(config, memory)
