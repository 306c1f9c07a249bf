"""The VAE with a flow between its posterior and its prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vaekit.config.settings import Config
from vaekit.objectives.elbo import StandardELBO
from vaekit.objectives.likelihood import likelihood_weights
from vaekit.system.ranks import mean_over_images


@dataclass(frozen=True)
class FlowELBO(StandardELBO):
    """The KL of f(z) to N(0, I), z ~ q(z|x), f a flow that learns (Rezende and Mohamed, ICML 2015, eqs 13 to 15).

    f is the first layer of the decoder and the same for all pictures; theirs follows from the picture. A posterior that
    is Gaussian, and then f, against N(0, I) is the Gaussian against a prior that is f undone: a learned prior (Chen et
    al., ICLR 2017, section 3.2). The KL is the standard one of z and what f adds to it, by one sample: zero for the
    identity, which f is at first.
    """

    @property
    def weights(self) -> dict[str, float]:
        return {"kl_standard": self.kl, "flow": self.kl} | self.likelihood_weights

    def image_terms(
        self, x: Tensor, x_hat: Tensor, judged: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What f adds to the KL, nats, and those of eq. 22."""
        others = {name: term for name, term in judged.items() if name != "flow"}
        return {"flow": mean_over_images(judged["flow"])} | super().image_terms(x, x_hat, others, statistics)


def build_flow(config: Config, beside: None) -> FlowELBO:
    """The objective with the weights of a config."""
    return FlowELBO(config.weights.kl_standard, **likelihood_weights(config))
