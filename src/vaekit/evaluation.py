"""Measure a VAE on pictures it has not seen: one flat dictionary of numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from vaekit import metrics
from vaekit.posterior import Posterior, kl_global
from vaekit.vae import VAE

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016): an entry is active if its mean varies by more than this over the data


@torch.no_grad()
def evaluate(vae: VAE, batches: Iterable[Tensor], seed: int = 0) -> dict[str, float]:
    """Reconstruction and latents of `vae` over `batches` of pictures (B, C, H, W) in [-1, 1], at least two in all.

    Returns, as means over the images:
    - `l1`, `psnr` (dB): of reconstructions from *sampled* z; `l1_mean`, `psnr_mean`: from the mean;
    - `laplacian_ratio`: Laplacian energy of sampled reconstructions over that of the originals, 1 is as sharp;
    - `kl_global` (over all the pictures at once, eq. 20 with `moments="total"`), `kl_individual`, `kl_standard`, nats;
    - `std`: mean posterior standard deviation; `active_units`: entries whose mean has a variance above 0.01;
    - `num_images`.

    The noise comes from `seed`, so the same model and pictures give the same numbers.
    """
    training = vae.training
    vae.eval()
    sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    posteriors = []
    generator = torch.Generator().manual_seed(seed)
    for x in batches:
        posterior = vae.encode(x)
        eps = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        sampled, mean = vae.decode(posterior.sample(eps)).float(), vae.decode(posterior.mean).float()
        for name, values in {
            "l1": metrics.l1(x, sampled),
            "psnr": metrics.psnr(x, sampled),
            "l1_mean": metrics.l1(x, mean),
            "psnr_mean": metrics.psnr(x, mean),
            "laplacian_original": metrics.laplacian_energy(x),
            "laplacian_sampled": metrics.laplacian_energy(sampled),
        }.items():
            sums[name] += values.cpu().double().sum()  # some devices have no float64
        posteriors.append(posterior)
    vae.train(training)

    posterior = Posterior(*(torch.cat([getattr(p, name) for p in posteriors]) for name in ("mean", "logvar")))
    num_images = len(posterior.mean)
    sharpness = sums.pop("laplacian_sampled") / sums.pop("laplacian_original")
    return {name: total.item() / num_images for name, total in sums.items()} | {
        "laplacian_ratio": sharpness.item(),
        "kl_global": kl_global(posterior, posterior.mean, "total").item(),
        "kl_individual": posterior.kl_individual().mean().item(),
        "kl_standard": posterior.kl_standard().mean().item(),
        "std": posterior.std.mean().item(),
        "active_units": int((posterior.mean.var(0, correction=0) > ACTIVE_VARIANCE).sum()),
        "num_images": num_images,
    }
