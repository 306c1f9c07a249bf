"""The proposed objective and the standard one, as compositions of named terms (eqs 3-4, 11, 20-23)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.objectives.likelihood import LikelihoodTerms, likelihood_weights
from vaekit.objectives.moments import MOMENTS, MomentsMemory, kl_global
from vaekit.system.ranks import mean_over_images


@dataclass(frozen=True)
class GlobalELBO(LikelihoodTerms):
    """The proposed objective: KL_G on the moments of the whole batch, KL_I on each image (eq. 23).

    The defaults are the paper's (beta_1, beta_2, beta_3, beta_4) = (1, 0.5, 5000, 100). The author's published
    code has `kl_individual=0.1` and `moments="means"`, with which a nat of information costs far less: see
    `moments.batch_moments`. With a `memory` KL_G sees earlier steps too; then only training steps may compute the
    latent terms, since each call counts as a step.
    """

    kl_global: float = 1.0
    kl_individual: float = 0.5
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0
    moments: str = "samples"
    memory: MomentsMemory | None = None

    def __post_init__(self) -> None:
        if self.moments not in MOMENTS:
            raise ValueError(f"unknown moments {self.moments!r}; choose one of {', '.join(MOMENTS)}")

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_global": self.kl_global, "kl_individual": self.kl_individual} | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """KL_G (eq. 20) and the batch mean of KL_I (eq. 21), nats."""
        return {
            "kl_global": kl_global(posterior, z, self.moments, self.memory),
            "kl_individual": mean_over_images(posterior.kl_individual()),
        }


@dataclass(frozen=True)
class StandardELBO(LikelihoodTerms):
    """The standard VAE objective, weighted (eqs 3-4, 11); with `kl` > 1 it is the beta-VAE.

    The paper's baseline is b = [1, 5000] with L1: the defaults.
    """

    kl: float = 1.0
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_standard": self.kl} | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The batch mean of the standard KL (eq. 11), nats."""
        return {"kl_standard": mean_over_images(posterior.kl_standard())}


def build_global(config: Config, memory: MomentsMemory | None) -> GlobalELBO:
    """The proposed objective with the weights of a config."""
    weights = config.weights
    return GlobalELBO(
        weights.kl_global,
        weights.kl_individual,
        **likelihood_weights(config),
        moments=config.moments,
        memory=memory,
    )


def build_standard(config: Config, memory: MomentsMemory | None) -> StandardELBO:
    """The standard objective with the weights of a config."""
    return StandardELBO(config.weights.kl_standard, **likelihood_weights(config))


def build_beta(config: Config, memory: MomentsMemory | None) -> StandardELBO:
    """The standard objective with its KL times beta."""
    return dataclasses.replace(build_standard(config, memory), kl=config.weights.kl_standard * config.weights.beta)
