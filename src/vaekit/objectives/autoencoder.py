"""The autoencoder: reconstruction alone, of latents that are points."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.objectives.likelihood import LikelihoodTerms, likelihood_weights


@dataclass(frozen=True)
class Autoencoder(LikelihoodTerms):
    """The likelihood of eq. 22 and no term of the latents: nothing says where they lie, or what is between them."""

    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """None."""
        return {}


def build_autoencoder(config: Config, beside: None) -> Autoencoder:
    """The objective with the weights of a config."""
    return Autoencoder(**likelihood_weights(config))
