"""The hierarchical VAE of two levels: the upper one as in the proposed method, the lower one expected by the upper."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.objectives.likelihood import LikelihoodTerms, likelihood_weights
from vaekit.objectives.moments import kl_global
from vaekit.system.ranks import mean_over_images

FREE_NATS = 0.05  # an entry of a picture that costs nothing, or the lower level is never begun to be used
FREE_FOR = 0.2  # of the run


@dataclass(frozen=True)
class Hierarchical(LikelihoodTerms):
    """KL_G and KL_I of the upper level z_2, KL(q(z_1|x) || p(z_1|z_2)) of the lower one, and the likelihood of eq. 22.

    Of two levels, as LVAE, BIVA and NVAE have several (Havtorn et al., ICML 2021, eq. 4); q(z_1|x) does not depend on
    z_2. Free nats (Kingma et al., NeurIPS 2016, app. C.8) are those of each picture and entry, so that micro-batches
    add up; they end after the first fifth of a run, as Havtorn's do after 400 epochs.
    """

    kl_global: float = 1.0
    kl_individual: float = 0.5
    kl_lower: float = 1.0
    l1: float = 5000.0
    realism: float = 100.0
    features: float = 0.0
    moments: str = "total"
    free_nats: float = FREE_NATS

    def at(self, progress: float) -> Hierarchical:
        """Without free nats once a fifth of the run is over."""
        return self if progress < FREE_FOR else dataclasses.replace(self, free_nats=0.0)

    @property
    def weights(self) -> dict[str, float]:
        own = {"kl_global": self.kl_global, "kl_individual": self.kl_individual, "kl_lower": self.kl_lower}
        return own | self.likelihood_weights

    def latent_terms(self, posterior: Posterior, z: Tensor, shared: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
        """KL_G (eq. 20) and the batch mean of KL_I (eq. 21) of the upper level, nats."""
        upper = Posterior(*(part.chunk(2, 1)[0] for part in posterior.tensors))
        return {
            "kl_global": kl_global(upper, z.chunk(2, 1)[0], self.moments),
            "kl_individual": mean_over_images(upper.kl_individual()),
        }

    def image_terms(
        self, x: Tensor, x_hat: Tensor, judged: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The batch mean of the KL of the lower level, nats, and those of eq. 22."""
        others = {name: term for name, term in judged.items() if name != "kl_lower"}
        nats = judged["kl_lower"].clamp(min=self.free_nats).sum(1)
        return {"kl_lower": mean_over_images(nats)} | super().image_terms(x, x_hat, others, statistics)


def build_hierarchical(config: Config, beside: None) -> Hierarchical:
    """The objective with the weights of a config."""
    weights = config.weights
    return Hierarchical(
        weights.kl_global,
        weights.kl_individual,
        weights.kl_lower,
        **likelihood_weights(config),
        moments=config.moments,
    )
