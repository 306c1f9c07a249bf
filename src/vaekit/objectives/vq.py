"""The VQ-VAE: latents become codes, and points are pulled to theirs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.codebook import Codebook
from vaekit.models.posterior import Posterior, at_least_float32
from vaekit.objectives.likelihood import LikelihoodTerms, likelihood_weights
from vaekit.system.ranks import mean_over_images


@dataclass(frozen=True)
class VectorQuantised(LikelihoodTerms):
    """Reconstruction from the nearest codes, and the distance of the points to them (van den Oord et al., 2017, eq. 3).

    The `codebook` is the first layer of the decoder, and learns by moving averages; the reconstruction is that of eq.
    22 instead of their squared error. No density is asked of the latents: codes bound what they hold, to
    log K nats for each.
    """

    codebook: Codebook
    commitment: float = 4.0
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return {"commitment": self.commitment} | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The squared distance of z from its codes, summed over the entries, mean over the images; codes stay."""
        z = at_least_float32(z)
        return {"commitment": mean_over_images((z - self.codebook.nearest(z)).square().sum(1))}


def build_vq(config: Config, codebook: Codebook) -> VectorQuantised:
    """The objective with the weights of a config, and the codebook of the model."""
    return VectorQuantised(codebook, config.weights.commitment, **likelihood_weights(config))
