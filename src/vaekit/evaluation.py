"""Measure a VAE on pictures it has not seen: one flat dictionary of numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vaekit import metrics
from vaekit.data import HeldOut
from vaekit.diagnostics import Verdict, entries, std_histogram, verdict
from vaekit.posterior import Posterior, kl_global
from vaekit.vae import VAE

BATCH = 50


def reconstruct(vae: VAE, batches: Iterable[Tensor], seed: int) -> Iterator[tuple[Tensor, Posterior, Tensor, Tensor]]:
    """Yield x (B, C, H, W), its posterior, and the reconstructions from a sampled z and from the mean, float32.

    The noise comes from `seed`, on the CPU: the same model and pictures give the same numbers on any device.
    """
    generator = torch.Generator().manual_seed(seed)
    for x in batches:
        posterior = vae.encode(x)
        eps = torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        yield x, posterior, vae.decode(posterior.sample(eps)).float(), vae.decode(posterior.mean).float()


@torch.no_grad()
def encode(vae: VAE, held_out: HeldOut) -> Posterior:
    """The posterior of pictures, on the CPU: N pictures -> (N, d)."""
    device = next(vae.parameters()).device
    return gather(vae.encode(x.to(device)) for x in held_out.batches(BATCH))


def gather(posteriors: Iterable[Posterior]) -> Posterior:
    """The posterior of several batches as one, on the CPU."""
    means, logvars = zip(*((p.mean.cpu(), p.logvar.cpu()) for p in posteriors), strict=True)
    return Posterior(torch.cat(means), torch.cat(logvars))


def evaluate(vae: VAE, batches: Iterable[Tensor], seed: int = 0) -> dict[str, float]:
    """Reconstruction and latents of `vae` over `batches` of pictures (B, C, H, W) in [-1, 1], at least two in all.

    Returns, as means over the images:
    - `l1`, `psnr` (dB): of reconstructions from *sampled* z; `l1_mean`, `psnr_mean`: from the mean;
    - `laplacian_ratio`: Laplacian energy of sampled reconstructions over that of the originals, 1 is as sharp;
    - `kl_global` (over all the pictures at once, eq. 20 with `moments="total"`), `kl_individual`, `kl_standard`, nats;
    - `rate`: nats that the entries hold, see `diagnostics.Entries`; `active_units`: those whose mean varies at all;
    - `std`: mean posterior standard deviation; `near_dirac`, `near_prior`: shares of them below 0.05 and above 0.95;
    - `num_images`.

    The noise comes from `seed`, so the same model and pictures give the same numbers. Raises `ValueError` for fewer
    than two pictures and for latents that are not finite.
    """
    return measure(vae, batches, seed)[0]


@torch.no_grad()
def measure(vae: VAE, batches: Iterable[Tensor], seed: int = 0) -> tuple[dict[str, float], Verdict]:
    """What `evaluate` returns, and a verdict on the latents in words."""
    training = vae.training
    vae.eval()
    sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    posteriors = []
    for x, posterior, sampled, mean in reconstruct(vae, batches, seed):
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

    posterior = gather(posteriors)
    by_entry, std = entries(posterior), std_histogram(posterior)
    sharpness = sums.pop("laplacian_sampled") / sums.pop("laplacian_original")
    return {name: total.item() / len(posterior.mean) for name, total in sums.items()} | {
        "laplacian_ratio": sharpness.item(),
        "kl_global": kl_global(posterior, posterior.mean, "total").item(),
        "kl_individual": posterior.kl_individual().mean().item(),
        "kl_standard": posterior.kl_standard().mean().item(),
        "rate": by_entry.rate.sum().item(),
        "active_units": int(by_entry.active.sum()),
        "std": posterior.std.mean().item(),
        "near_dirac": std["near_dirac"],
        "near_prior": std["near_prior"],
        "num_images": len(posterior.mean),
    }, verdict(by_entry, std, vae.config.objective)
