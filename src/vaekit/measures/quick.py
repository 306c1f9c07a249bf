"""Measure a VAE on pictures it has not seen: one flat dictionary of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vaekit.data.loader import Batches
from vaekit.measures.diagnostics import Verdict, entries, kl_of_moments, std_histogram, verdict
from vaekit.measures.pictures import l1, laplacian_energy, psnr
from vaekit.models.batches import ENCODED_AT_ONCE, evaluating
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE
from vaekit.system.devices import float32_products
from vaekit.system.ranks import sum_over_ranks

BATCH = ENCODED_AT_ONCE  # of what is measured
MOST_MEASURED = 10_000  # pictures, at even distances, unless more are asked for: enough to be exact, and soon over
OF_WIDTH = ("kl_individual", "kl_standard", "rate", "std", "near_dirac", "near_prior")  # of the posteriors
PER_IMAGE = ("l1", "psnr", "l1_mean", "psnr_mean", "laplacian_original", "laplacian_sampled")


def reconstruct(vae: VAE, batches: Iterable[Tensor], seed: int) -> Iterator[tuple[Tensor, Posterior, Tensor, Tensor]]:
    """Yield x (B, C, H, W), its posterior, and the reconstructions from a sampled z and from the mean, float32.

    The noise comes from `seed`, on the CPU: the same model and pictures give the same numbers on any device.
    """
    for x, eps in with_noise(vae, batches, seed):
        yield x, *reconstruct_batch(vae, x, eps)


def with_noise(vae: VAE, batches: Iterable[Tensor], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch x (B, C, H, W) with its noise eps (B, d)."""
    generator = torch.Generator().manual_seed(seed)
    for x in batches:
        yield x, torch.randn(len(x), vae.latent_dim, generator=generator).to(x.device)


def reconstruct_batch(vae: VAE, x: Tensor, eps: Tensor) -> tuple[Posterior, Tensor, Tensor]:
    """The posterior of one batch, and its reconstructions from a sampled z and from the mean, float32."""
    posterior = vae.encode(x)
    return posterior, vae.decode(posterior.sample(eps)).float(), vae.decode(posterior.mean).float()


def evaluate(vae: VAE, batches: Iterable[Tensor], seed: int = 0) -> dict[str, float]:
    """Reconstruction and latents of `vae` over `batches` of pictures (B, C, H, W) in [-1, 1], at least two in all.

    Returns, as means over the images:
    - `l1`, `psnr` (dB): of reconstructions from *sampled* z; `l1_mean`, `psnr_mean`: from the mean;
    - `laplacian_ratio`: Laplacian energy of sampled reconstructions over that of the originals, 1 is as sharp;
    - `kl_global` (over all the pictures at once, eq. 20 with `moments="total"`), `kl_individual`, `kl_standard`, nats;
    - `rate`: nats that the entries hold, see `diagnostics.Entries`; `active_units`: those whose mean varies at all;
    - `std`: mean posterior standard deviation; `near_dirac`, `near_prior`: shares of them below 0.05 and above 0.95;
    - `num_images`.
    Of points, an autoencoder's latents, KL_I, KL, rate and stds are left out.

    The noise comes from `seed`, so the same model and pictures give the same numbers. Raises `ValueError` for fewer
    than two pictures and for latents that are not finite.
    """
    return measure(vae, batches, seed)[0]


def measure(
    vae: VAE,
    batches: Iterable[Tensor] | Batches,
    seed: int = 0,
    *,
    objective: str | None = None,
    rank: int = 0,
    world: int = 1,
) -> tuple[dict[str, float], Verdict]:
    """What `evaluate` returns, and a verdict on the latents in words, which names the weights of `objective`.

    With `world` ranks every one of them must call this with the same model and batches; each measures every
    `world`-th batch, and all get the numbers of one process.
    """
    with evaluating(vae) as device, float32_products():
        rows = [
            torch.zeros(len(eps), len(PER_IMAGE) + 2 * vae.latent_dim, device=device)
            if x is None
            else measure_images(vae, x.to(device), eps.to(device))
            for x, eps in shared_out(vae, batches, seed, rank, world)
        ]
    if not rows:
        raise ValueError("no pictures to measure; give at least two")
    # Rows of the images of other ranks are zero, so the sum over the ranks is exact.
    by_image = sum_over_ranks(torch.cat(rows)) if world > 1 else torch.cat(rows)
    return summarise(by_image.cpu().double(), objective)  # some devices have no float64


def shared_out(
    vae: VAE, batches: Iterable[Tensor] | Batches, seed: int, rank: int, world: int
) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Each batch of this rank with its noise eps (B, d), and for those of other ranks None with theirs.

    Of `Batches` only those of this rank are read.
    """
    if not isinstance(batches, Batches):
        for i, (x, eps) in enumerate(with_noise(vae, batches, seed)):
            yield x if i % world == rank else None, eps
        return
    generator = torch.Generator().manual_seed(seed)
    for i in range(len(batches)):
        eps = torch.randn(batches.size(i), vae.latent_dim, generator=generator)
        yield batches[i] if i % world == rank else None, eps


def measure_images(vae: VAE, x: Tensor, eps: Tensor) -> Tensor:
    """x (B, C, H, W), noise (B, d) -> (B, 6 + 2d): of each image the measures `PER_IMAGE`, its mean and its logvar."""
    posterior, sampled, mean = reconstruct_batch(vae, x, eps)
    measures = [
        l1(x, sampled),
        psnr(x, sampled),
        l1(x, mean),
        psnr(x, mean),
        laplacian_energy(x),
        laplacian_energy(sampled),
    ]
    return torch.cat([torch.stack(measures, 1), posterior.mean, posterior.logvar], 1)


def summarise(by_image: Tensor, objective: str | None) -> tuple[dict[str, float], Verdict]:
    """(N, 6 + 2d) as `measure_images` gives it, float64 on the CPU -> what `measure` returns."""
    measures, latents = by_image[:, : len(PER_IMAGE)], by_image[:, len(PER_IMAGE) :]
    means = dict(zip(PER_IMAGE, measures.mean(0), strict=True))
    sharpness = means.pop("laplacian_sampled") / means.pop("laplacian_original")
    posterior = Posterior(*latents.chunk(2, 1))
    by_entry, std = entries(posterior), std_histogram(posterior)
    numbers = {name: mean.item() for name, mean in means.items()} | {
        "laplacian_ratio": sharpness.item(),
        "kl_global": kl_of_moments(by_entry).item(),
        "kl_individual": posterior.kl_individual().mean().item(),
        "kl_standard": posterior.kl_standard().mean().item(),
        "rate": by_entry.rate.sum().item(),
        "active_units": int(by_entry.active.sum()),
        "std": posterior.std.mean().item(),
        "near_dirac": std["near_dirac"],
        "near_prior": std["near_prior"],
        "num_images": len(by_image),
    }
    if posterior.points:  # and nothing that a width would give
        numbers = {name: value for name, value in numbers.items() if name not in OF_WIDTH}
    return numbers, verdict(by_entry, std, objective)
