"""How much too large KL_G is for a batch of n images, with and without a memory of K steps: theory and Monte Carlo.

The posterior is fixed and Gaussian: means N(0, s^2) over the images, one std in all posteriors, V = s^2 + std^2. The
estimates of V and of the squared mean have errors that cancel in their sum, so the bias is that of the logarithm alone,
-E[log V_b] / 2 + log(V) / 2 for each entry. V_b is a sum of scaled chi-squares: of N = n (K + 1) images,

    samples  N V_b = V chi2(N - K - 1) + std^2 chi2(K + 1) + s^2 chi2(K),
    means    N V_b = s^2 chi2(N - 1), its target is s^2 instead of V,
    total      V_b = std^2 + (s^2 / N) chi2(N - 1),

and E[log X] = integral over t of (e^-t - E[e^-tX]) / t. To first order it is (1 + s^2/V) / 2N, 1 / N and
(s^2/V + s^4/V^2) / 2N.
"""

import vaekit  # noqa: F401  # first, since torch reads how long threads spin when it is loaded

# isort: split
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from scipy.integrate import quad

from common import show
from vaekit.models.posterior import Posterior
from vaekit.objectives.moments import MOMENTS, MomentsMemory, kl_global

CASES = ((4, 0), (8, 0), (20, 0), (10_000, 0), (4, 4), (4, 15), (4, 63))  # n, K


@dataclass(frozen=True)
class SmallBatches:
    """The bias of KL_G at small batches."""

    std: float = 0.61
    """Of every posterior; the default is the mean one of the notebook's 30 minutes on CelebA 64."""
    variance: float = 1.45
    """Of the aggregate posterior; the same model's median."""
    latent_dim: int = 256
    """Entries."""
    draws: int = 400
    """Monte-Carlo repetitions of the cases of few images."""
    json: Path | None = None
    """Write the table here too."""


def expected_log(scales: dict[float, float], constant: float) -> float:
    """E[log(constant + sum_i scale_i chi2(freedom_i))] from {scale: freedom}, both above zero."""

    def integrand(u: float) -> float:  # t = e^u
        t = math.exp(u)
        log_laplace = -constant * t - sum(0.5 * k * math.log1p(2 * scale * t) for scale, k in scales.items())
        return math.exp(-t) - math.exp(log_laplace)

    return quad(integrand, -40, 0, limit=500)[0] + quad(integrand, 0, 40, limit=500)[0]


def bias(settings: SmallBatches, n: int, steps: int, moments: str) -> float:
    """Expected KL_G of n images and the memory of `steps` full steps, less that of all images, nats."""
    noise = settings.std**2
    signal = settings.variance - noise
    total = n * (steps + 1)
    if moments == "samples":
        scales = {settings.variance: total - steps - 1, noise: steps + 1, signal: steps}
        log = expected_log({scale / total: freedom for scale, freedom in scales.items() if freedom}, 0.0)
    else:
        log = expected_log({signal / total: total - 1}, noise if moments == "total" else 0.0)
    target = signal if moments == "means" else settings.variance
    return 0.5 * (math.log(target) - log) * settings.latent_dim


def measured(settings: SmallBatches, n: int, steps: int, moments: str) -> float:
    """The same by drawing images: every entry of every draw is a repetition."""
    entries = settings.latent_dim * max(4, settings.draws // n)
    generator = torch.Generator().manual_seed(0)
    memory = MomentsMemory(steps, entries).double() if steps else None
    signal = settings.variance - settings.std**2
    for _ in range(steps + 1):
        mean = math.sqrt(signal) * torch.randn(n, entries, generator=generator).double()
        posterior = Posterior(mean, torch.full_like(mean, 2 * math.log(settings.std)))
        value = kl_global(posterior, posterior.sample(generator=generator), moments, memory)
    target = signal if moments == "means" else settings.variance
    exact = 0.5 * (target - 1 - math.log(target))
    return (value.item() / entries - exact) * settings.latent_dim


def main(settings: SmallBatches) -> None:
    rows = []
    for n, steps in CASES:
        row: dict[str, float] = {"batch": n, "memory": steps, "images": n * (steps + 1)}
        for moments in MOMENTS:
            row[moments] = bias(settings, n, steps, moments)
            row[f"{moments}, drawn"] = measured(settings, n, steps, moments)
        rows.append(row)
    digits = dict.fromkeys(rows[0], ".3g") | {"batch": ",", "images": ","}
    show(f"Bias of KL_G, nats over {settings.latent_dim} entries", rows, digits, settings.json)


if __name__ == "__main__":
    main(tyro.cli(SmallBatches))
