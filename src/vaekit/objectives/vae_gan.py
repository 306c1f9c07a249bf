"""The VAE-GAN: pictures are compared in the features of the discriminator, which judges new pictures too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.objectives.likelihood import LikelihoodTerms, judged_terms
from vaekit.system.ranks import mean_over_images


@dataclass(frozen=True)
class VAEGAN(LikelihoodTerms):
    """KL, distance in features, realism of x_hat and of decoded draws of N(0, I) (Larsen et al., ICML 2016, alg. 1).

    No pixel is compared. The encoder learns from the first two terms alone: the gradient of the third ends at z (see
    `VAE.forward`). Beside Larsen's, all five maps of the discriminator are compared and not one, by their absolute
    difference; and nothing stops the network that is ahead: the weights are fixed.
    """

    kl: float = 1.0
    realism: float = 100.0
    features: float = 8000.0

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_standard": self.kl, "realism": self.realism, "features": self.features}

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The batch mean of the standard KL (eq. 11), nats."""
        return {"kl_standard": mean_over_images(posterior.kl_standard())}

    def image_terms(
        self, x: Tensor, x_hat: Tensor, judged: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What the discriminator gives; see `likelihood_terms`."""
        return judged_terms(**judged)


def build_vae_gan(config: Config, beside: None) -> VAEGAN:
    """The objective with the weights of a config."""
    weights = config.weights
    return VAEGAN(weights.kl_standard, weights.realism, weights.features)
