"""What the latent terms ask of one entry, in closed form: its best scale, and the price of a nat.

The decoder can undo any scaling of an entry, so L1 depends on the signal-to-noise ratio r = var(mean) / std^2
alone, and the scale is free to minimise the latent terms. With weights b1, b2, a = b1 / 2, zero global mean, one
std for all images and V the variance that KL_G sees, an entry costs (eqs 20, 21, 23)

    a (V - 1 - log V) + b2 (std^2 - 1 - log std^2),    V = std^2 (1 + r)    for the moments "samples" and "total",
                                                       V = std^2 r          for the moments "means".

Setting the derivative by std^2 to zero, with k = 1 + r or r, gives std^2 = (a + b2) / (a k + b2) and the cost

    C(r) = -a log k + (a + b2) log [(a k + b2) / (a + b2)].

The information that such an entry holds is R = log(1 + r) / 2, the rate of a Gaussian channel in nats.
Its marginal price dC/dR is 2 b2 at a high rate: beta_2 is half a beta. In the standard VAE b (V - 1 - log std^2) / 2
is least at V = 1 and costs b R: its price is b = beta at any rate, so an entry is used only if a nat of it lowers the
other terms by at least b. With `samples` the price rises from zero, so every entry that helps is used; with `means` it
rises from below zero.
"""

from __future__ import annotations

import math

from vaekit.objectives.moments import MOMENTS


def rate(snr: float) -> float:
    """R, the nats that an entry holds at the signal-to-noise ratio `snr`: 0.5 log(1 + snr)."""
    return 0.5 * math.log1p(snr)


def optimal_std(snr: float, kl_global: float = 1.0, kl_individual: float = 0.5, moments: str = "samples") -> float:
    """The standard deviation that minimises the latent terms at `snr` = var(mean) / std^2.

    The weights are those of `GlobalELBO`. Raises `ValueError` for an unknown estimator, a negative number, two weights
    of zero, or an `snr` of zero with `means`, whose KL_G is infinite there.
    """
    a, factor = check_weights(snr, kl_global, kl_individual, moments)
    return math.sqrt((a + kl_individual) / (a * factor + kl_individual))


def latent_cost(snr: float, kl_global: float = 1.0, kl_individual: float = 0.5, moments: str = "samples") -> float:
    """C(r), the weighted KL_G + KL_I of one entry at its best scale, nats. Raises as `optimal_std` does."""
    a, factor = check_weights(snr, kl_global, kl_individual, moments)
    total = a + kl_individual
    return total * math.log((a * factor + kl_individual) / total) - a * math.log(factor)


def price(snr: float, kl_global: float = 1.0, kl_individual: float = 0.5, moments: str = "samples") -> float:
    """dC/dR: what one more nat of rate adds to the loss at `snr`, at the best scale. Raises as `optimal_std` does.

    It tends to 2 `kl_individual` as `snr` grows. `samples`, `total`: 2 a b2 r / (a (1 + r) + b2), from zero.
    `means`: 2 a b2 (1 + r) (r - 1) / (r (a r + b2)), which is negative below r = 1: every entry is pushed to at
    least as much signal as noise. At a high rate the printed weights (b2 = 0.5) thus price a nat as the standard VAE
    does, and the released ones (0.1, `means`) at a fifth of that.
    """
    a, factor = check_weights(snr, kl_global, kl_individual, moments)
    slope = (factor - 1) / factor * a * kl_individual / (a * factor + kl_individual)  # dC/dr
    return 2 * (1 + snr) * slope


def aggregate_variance(
    snr: float, kl_global: float = 1.0, kl_individual: float = 0.5, moments: str = "samples"
) -> float:
    """Variance std^2 (1 + r) of the aggregate posterior at the best scale. Raises as `optimal_std` does.

    With `samples` it rises from 1 to 1 + 2 b2 / b1, for the printed weights as 2 (1 + r) / (2 + r): such a model's
    latents are wider than the prior by design.
    """
    return (1 + snr) * optimal_std(snr, kl_global, kl_individual, moments) ** 2


def check_weights(snr: float, kl_global: float, kl_individual: float, moments: str) -> tuple[float, float]:
    """a = b1 / 2 and V / std^2."""
    if moments not in MOMENTS:
        raise ValueError(f"unknown moments {moments!r}; choose one of {', '.join(MOMENTS)}")
    for name, value in (("snr", snr), ("kl_global", kl_global), ("kl_individual", kl_individual)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be zero or above, and finite")
    if kl_global == kl_individual == 0:
        raise ValueError("kl_global and kl_individual are both 0, so nothing sets the scale; give one a weight")
    if moments == "means" and snr == 0:
        raise ValueError("snr is 0; with moments 'means' it must be above zero, because KL_G is infinite there")
    return kl_global / 2, snr if moments == "means" else 1 + snr
