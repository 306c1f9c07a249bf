"""A model as the autoencoder of a latent diffusion: what diffusers calls AutoencoderKL, on the grid of its latents.

It needs nothing of diffusers, whose pipelines and training scripts take it as they take their own. Letters: B pictures,
c entries at each of h x w positions, d = c h w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.config.settings import Config
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE
from vaekit.priors.gaussian import GaussianPrior


@dataclass(frozen=True)
class GridPosterior:
    """The posterior of B pictures on the grid, with the names of diffusers' DiagonalGaussianDistribution.

    All that it gives is (B, c, h, w), in `dtype`.
    """

    flat: Posterior
    grid: tuple[int, int, int]
    dtype: torch.dtype

    def on_grid(self, values: Tensor) -> Tensor:
        """(B, d) -> (B, c, h, w)."""
        return values.unflatten(1, self.grid).to(self.dtype)

    @property
    def mean(self) -> Tensor:
        return self.on_grid(self.flat.mean)

    @property
    def logvar(self) -> Tensor:
        return self.on_grid(self.flat.logvar)

    @property
    def std(self) -> Tensor:
        return self.on_grid(self.flat.std)

    @property
    def var(self) -> Tensor:
        return self.on_grid(self.flat.var)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw z, eq. 6; the generator may be one of the CPU."""
        mean = self.flat.mean
        place = mean.device if generator is None else generator.device
        eps = torch.randn(mean.shape, generator=generator, device=place, dtype=mean.dtype)
        return self.on_grid(self.flat.sample(eps.to(mean.device)))

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def kl(self) -> Tensor:
        """KL to N(0, I) of each picture: (B,), nats (eq. 11)."""
        return self.flat.kl_standard()


class DiffusersVAE(nn.Module):
    """`encode(x).latent_dist` and `decode(z).sample` of a VAE with spatial heads: x (B, C, H, W), z (B, c, h, w).

    `config` has what pipelines ask for, above all `scaling_factor` and `shift_factor`, one number each over all
    entries: (z - shift_factor) * scaling_factor has mean 0 and std 1 over the training set. They come from the fitted
    Gaussian of the latents; without one they are 1 and 0. Raises `ValueError` for a model without a grid.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        config = Config.from_json(vae.config_json) if vae.config_json is not None else None
        if config is None or config.network.heads != "spatial":
            raise ValueError(
                "a latent diffusion needs latents on a grid, and each entry of these belongs to the whole picture; "
                "train with --network.heads spatial"
            )
        self.vae = vae
        h, w = config.grid
        self.grid = (vae.latent_dim // (h * w), h, w)
        channels, height, _ = vae.image_shape
        shift, std = moments_of(vae)
        halvings = round(math.log2(height / h))
        self.config = SimpleNamespace(
            in_channels=channels,
            out_channels=channels,
            latent_channels=self.grid[0],
            sample_size=height,
            block_out_channels=(config.network.channels,) * (1 + halvings),  # as diffusers counts pixels a position
            scaling_factor=1 / std,
            shift_factor=shift,
            force_upcast=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.vae.dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.vae.device

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """x (B, C, H, W) in [-1, 1] -> `latent_dist`; a tuple without `return_dict`."""
        posterior = self.vae.encode(x)
        found = GridPosterior(posterior, self.grid, x.dtype)
        return SimpleNamespace(latent_dist=found) if return_dict else (found,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        """z (B, c, h, w), not scaled -> `sample`, (B, C, H, W); a tuple without `return_dict`. Nothing is drawn."""
        x_hat = self.vae.decode(z.flatten(1)).to(z.dtype)
        return SimpleNamespace(sample=x_hat) if return_dict else (x_hat,)

    def forward(self, x: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None) -> Any:
        """Reconstruct x (B, C, H, W): from the mean, or from a draw of the posterior."""
        posterior = self.encode(x).latent_dist
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode())


def moments_of(vae: VAE) -> tuple[float, float]:
    """Mean and std of all entries together over the training set; 0 and 1 where they are not known."""
    gaussian = vae.priors.get("gaussian")
    if not isinstance(gaussian, GaussianPrior):
        return 0.0, 1.0
    mean = gaussian.mean.mean()
    return mean.item(), (gaussian.std.square() + (gaussian.mean - mean).square()).mean().sqrt().item()
