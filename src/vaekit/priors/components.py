"""The mixture of Gaussians that a flow starts from, fitted to whitened latents by expectation and maximisation.

Letters: N latents u of d entries, K components.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.priors.base import Latents
from vaekit.priors.gaussian import GaussianPrior

MOST = 10  # components
MOST_LATENTS = 20_000  # that a fit takes, at even distances: half a minute on two cores for 512 entries
LARGEST = 1024  # entries: beyond, a round of EM takes minutes
LATENTS_AN_ENTRY = 2  # latents that a component has at least, for each entry of its covariance's side
SHRINKAGE = 0.1  # of each covariance towards that of all, I
ROUNDS = 10  # of EM
LEADING = 32  # principal components that the start is found in
STARTS = 2  # of k-means


class Mixture(NamedTuple):
    """sum_k shares_k N(means_k, covariances_k): (K,), (K, d) and (K, d, d)."""

    shares: Tensor
    means: Tensor
    covariances: Tensor


def num_components(num_latents: int, latent_dim: int) -> int:
    """How many components so many latents can tell apart: 0 where one Gaussian is all, or a fit would take too long."""
    components = min(MOST, num_latents // (LATENTS_AN_ENTRY * latent_dim))
    return components if components > 1 and latent_dim <= LARGEST else 0


def fit_components(latents: Latents, gaussian: GaussianPrior, chosen: Tensor, components: int, seed: int) -> Mixture:
    """A mixture of the latents at the places `chosen`, whitened by `gaussian`; the same for the same seed.

    Each round draws the noise of the posteriors anew, so that no covariance is that of one draw. The start is k-means
    in the directions that the means vary most in: in whitened latents, all count alike and no groups are seen.
    """
    from sklearn.cluster import KMeans

    generator = torch.Generator().manual_seed(seed)
    chosen = chosen[:: -(-len(chosen) // MOST_LATENTS)]
    mean, std = latents.mean[chosen], latents.std[chosen]
    centred = mean - mean.mean(0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    leading = (centred @ directions[:, -LEADING:]).numpy()
    groups = KMeans(components, n_init=STARTS, random_state=seed).fit(leading).labels_
    belongs = torch.nn.functional.one_hot(torch.from_numpy(groups).long(), components).float()  # (N, K)

    def drawn() -> Tensor:
        return gaussian.whiten(mean + std * torch.randn(mean.shape, generator=generator))

    with torch.autocast("cpu", enabled=False):  # which the caller may use to encode
        for _ in range(ROUNDS):
            mixture = maximised(drawn(), belongs)
            belongs = expected(drawn(), mixture)
    return mixture


def maximised(u: Tensor, belongs: Tensor) -> Mixture:
    """The mixture of latents u (N, d) that belong to its components to these shares (N, K)."""
    counts = belongs.sum(0).clamp(min=1e-6)
    means = belongs.T @ u / counts[:, None]
    unit = torch.eye(u.shape[1])
    covariances = torch.stack(
        [
            torch.lerp((apart * share[:, None]).T @ apart / count, unit, SHRINKAGE)
            for apart, share, count in ((u - m, belongs[:, k], counts[k]) for k, m in enumerate(means))
        ]
    )
    return Mixture(counts / counts.sum(), means, covariances)


def expected(u: Tensor, mixture: Mixture) -> Tensor:
    """The shares (N, K) to which latents u (N, d) belong to the components."""
    scores = []
    for share, mean, covariance in zip(*mixture, strict=True):
        root = torch.linalg.cholesky(covariance)
        eps = torch.linalg.solve_triangular(root, (u - mean).T, upper=False)
        scores.append(share.log() - 0.5 * eps.square().sum(0) - root.diagonal().log().sum())
    return torch.softmax(torch.stack(scores, 1), 1)
