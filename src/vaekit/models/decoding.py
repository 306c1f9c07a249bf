"""What a decoder knows of the latents beside the picture: of a lower level, or of a flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vaekit.models.posterior import Posterior, at_least_float32, kl_of_logvars
from vaekit.networks.maps import CouplingFlow
from vaekit.networks.two_levels import TwoLevelDecoder


def expects_lower(decoder: Any) -> bool:
    """Whether a decoder has p(lower | upper)."""
    return isinstance(decoder, TwoLevelDecoder) and decoder.prior is not None


def flow_of(decoder: Any) -> CouplingFlow | None:
    """The flow that a decoder begins with, if it has one."""
    found = getattr(decoder, "front", None)
    return found if isinstance(found, CouplingFlow) else None


def called_in_training(decoder: Any) -> list[nn.Module]:
    """The modules of a decoder that `decoded` calls: what there is to compile."""
    if expects_lower(decoder):
        return [decoder.coarse, decoder.layers]
    return [decoder if flow_of(decoder) is None else decoder.layers]


def from_above(decoder: Any, posterior: Posterior) -> tuple[Tensor, Tensor]:
    """x_hat (B, C, H, W) of the mean of the upper level with the lower one that it expects, and the KL of the lower
    level of each image to that, (B,), nats; where the decoder is.
    """
    weight = next(decoder.parameters())
    mean, logvar = (part.to(weight.device) for part in posterior.tensors)
    upper, lower_mean = mean.chunk(2, 1)
    expected, expected_logvar = (at_least_float32(part) for part in decoder.prior_of(upper.to(weight.dtype)))
    kl = kl_of_logvars(lower_mean, logvar.chunk(2, 1)[1], expected, expected_logvar)
    return decoder(torch.cat([upper, expected], 1).to(weight.dtype)), kl.sum(1)


def decoded(decoder: Any, posterior: Posterior, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """x_hat (B, C, H, W) of z (B, d), drawn from `posterior`, and what image terms need to know of the latents.

    Of two levels `kl_lower` (B, d / 2): KL(q(z_1|x) || p(z_1|z_2)) of each entry of the lower one, nats. Of a flow f
    `flow` (B,): log N(z; 0, I) - log N(f(z); 0, I) - log |det df/dz|, nats, which the standard KL lacks.
    """
    if expects_lower(decoder):
        x_hat, *expected = decoder.with_prior(z)
        mean, logvar = (at_least_float32(part) for part in expected)
        own_mean, own_logvar = (part.chunk(2, 1)[1] for part in posterior.tensors)
        return x_hat, {"kl_lower": kl_of_logvars(own_mean, own_logvar, mean, logvar)}
    if (flow := flow_of(decoder)) is not None:
        moved, log_det = (at_least_float32(part) for part in flow.with_log_det(z))
        further = 0.5 * (moved.square() - at_least_float32(z).square()).sum(1)
        return decoder.layers(moved.to(z.dtype)), {"flow": further - log_det}
    return decoder(z), {}
