"""The Wasserstein autoencoder whose points are pulled to N(0, I) by a discriminator of latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.networks.latent_discriminator import LatentDiscriminator
from vaekit.objectives.likelihood import LikelihoodTerms, cross_entropy, likelihood_weights


@dataclass(frozen=True)
class WassersteinGAN(LikelihoodTerms):
    """Reconstruction and -log D_z(z), where D_z tells latents from draws of N(0, I) (Tolstikhin et al., 2018, alg. 1).

    `judge` is D_z, which learns in a step of its own (`training.adversarial`). Their code adds log N(z; 0, I) to its
    logits; at 512 entries that is hundreds of nats for points that are not there yet, and it is left out. The
    reconstruction is that of eq. 22 instead of their squared error.
    """

    judge: LatentDiscriminator
    latent_realism: float = 100.0
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return {"latent_realism": self.latent_realism} | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """The mean cross-entropy of the logits of the latents against 1, nats; D_z itself gets no gradient."""
        self.judge.requires_grad_(False)
        logits = self.judge(z)
        self.judge.requires_grad_(True)
        return {"latent_realism": cross_entropy(logits, 1.0)}


def build_wae_gan(config: Config, judge: LatentDiscriminator) -> WassersteinGAN:
    """The objective with the weights of a config, and the discriminator of latents of the run."""
    return WassersteinGAN(judge, config.weights.latent_realism, **likelihood_weights(config))
