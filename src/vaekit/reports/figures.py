"""The paper's figures, drawn from a trained VAE: tensors in, pixels out.

Shapes: N images x of (C, H, W) in [-1, 1], latents of d entries. A figure is a function that returns uint8
(height, width, 3). Random draws come from a generator on the CPU (seed 0 if none is given): the same run draws the
same picture on any device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit.data.loader import evenly
from vaekit.models.batches import DECODED_AT_ONCE, decode_batches, encode_batches
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE
from vaekit.reports.charts import Records, check_entries, curves, joint_histogram, latent_statistics, series
from vaekit.reports.mosaic import Pixels, enlarge, grid, labelled, save_png, to_rgb

NO_CIRCLE = 1e-4  # the sine of an angle so near to 0 or a half turn that it spans no circle


def posterior_of(vae: VAE, x: torch.Tensor) -> Posterior:
    """(N, C, H, W) -> q(z|x) of each image, on the CPU."""
    return encode_batches(vae, x.split(DECODED_AT_ONCE))


def decoded(vae: VAE, z: torch.Tensor) -> Pixels:
    """Latents (N, d) -> (N, H, W, 3)."""
    return np.concatenate([to_rgb(x_hat) for x_hat in decode_batches(vae, z)])


def sampled(vae: VAE, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One z (N, d) of the posterior of each image x (N, C, H, W), on the CPU."""
    posterior = posterior_of(vae, x)
    return posterior.sample(noise(posterior.mean.shape, generator))


def noise(shape: Sequence[int], generator: torch.Generator | None) -> torch.Tensor:
    """Standard normal draws, from seed 0 without a generator."""
    return torch.randn(*shape, generator=generator or torch.Generator().manual_seed(0))


def reconstructions(vae: VAE, x: torch.Tensor, generator: torch.Generator | None = None) -> Pixels:
    """The first 8 images of x (N, C, H, W) above reconstructions from a sampled z (eq. 6) and the mean."""
    x = x[:8]
    posterior = posterior_of(vae, x)
    z = posterior.sample(noise(posterior.mean.shape, generator))
    tiles = np.concatenate([to_rgb(x), decoded(vae, z), decoded(vae, posterior.mean)])
    return labelled(tiles, rows=("original", "sampled z", "mean"))


def most_varying(mean: torch.Tensor) -> tuple[int, int]:
    """The two entries whose mean (N, d) varies most over the images, largest first; both 0 if d = 1."""
    variance = mean.nan_to_num(0, 0, 0).var(0, correction=0)
    order = variance.topk(min(2, len(variance))).indices.tolist()
    return order[0], order[-1]


def variants(
    vae: VAE,
    x: torch.Tensor,
    a: int = 0,
    b: int = 1,
    deltas: Sequence[float] = (-20, 0, 20),
    scale: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Pixels:
    """Fig. 4: an image x (C, H, W), its z' ~ q(z|x) fixed but for z_a = mean_a + delta std_a, and z_b alike.

    a runs along the horizontal, b down the vertical (one row only if a = b). The caption of fig. 4 names the
    entries 0 and 1, the text 0 and 2; we follow the caption. 20 std has no fixed size in the data: with a
    narrow posterior nothing changes, with a wide one z leaves the data. `scale` (d,), the spread of each entry over
    many images, replaces std; deltas of (-2, 0, 2) then cover it. Raises ValueError if a or b is no entry.
    """
    posterior = posterior_of(vae, x if x.ndim == 4 else x[None])
    mean = posterior.mean
    check_entries(a, b, mean.shape[1])
    unit = posterior.std[0] if scale is None else scale.float().cpu()
    down = deltas if a != b else (0,)
    z = posterior.sample(noise(mean.shape, generator)).repeat(len(down) * len(deltas), 1)
    for i, (delta_b, delta_a) in enumerate(product(down, deltas)):
        z[i, b] = mean[0, b] + delta_b * unit[b]
        z[i, a] = mean[0, a] + delta_a * unit[a]
    symbol, meaning = (r"\sigma", "posterior std") if scale is None else ("s", "spread over the data")
    top, side = (rf"$z_{{{j}}}$   (${symbol}={unit[j]:.2g}$, {meaning})" for j in (a, b))
    offsets = [rf"$\mu{delta:+g}\,{symbol}$" if delta else r"$\mu$" for delta in deltas]
    rows, side = (offsets, side) if a != b else ([""], "")
    return labelled(decoded(vae, z), rows, offsets, top, side, target=192)


def transitions(
    vaes: Mapping[str, VAE], x_pairs: torch.Tensor, steps: int = 6, generator: torch.Generator | None = None
) -> Pixels:
    """Fig. 5: z_k = (1 - k/5) z_1 + (k/5) z_2 between sampled latents of two images, x_pairs (P, 2, C, H, W).

    A row is a pair under a model and has the model's name; rows of a pair are neighbours and share noise. A model whose
    prior is a flow has a second row, through its noise, which stays where latents are (see `through_noise`).
    """
    alpha = torch.linspace(0, 1, steps)
    eps: dict[torch.Size, torch.Tensor] = {}
    rows: dict[str, Pixels] = {}
    for name, vae in vaes.items():
        posterior = posterior_of(vae, x_pairs.flatten(0, 1))
        shape = posterior.mean.shape
        if shape not in eps:
            eps[shape] = noise(shape, generator)
        z_1, z_2 = posterior.sample(eps[shape]).unflatten(0, (-1, 2)).unbind(1)  # (P, d) each
        straight = torch.lerp(z_1[:, None], z_2[:, None], alpha[:, None])  # (P, steps, d)
        ways = {name: straight}
        if hasattr(vae.prior, "noise_of"):
            through = through_noise(vae.prior, z_1, z_2, alpha)
            ways = {f"{name} straight".strip(): straight, f"{name} through the flow".strip(): through}
        for way, z in ways.items():
            x_hat = decoded(vae, z.flatten(0, 1))
            rows[way] = x_hat.reshape(len(x_pairs), steps, *x_hat.shape[1:])
    tiles = np.stack([*rows.values()], axis=1)  # (P, ways, steps, H, W, 3)
    columns = ["$z_1$", *(rf"$\alpha={value:.2g}$" for value in alpha[1:-1].tolist()), "$z_2$"]
    return labelled(tiles.reshape(-1, *tiles.shape[3:]), [*rows] * len(x_pairs), columns)


def through_noise(flow: Any, z_1: torch.Tensor, z_2: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """From latents z_1 to z_2 (P, d), at shares alpha (S,) of the way between their noises: (P, S, d).

    The way is along a great circle, on which noise keeps its usual length: its middle is as likely as its ends.
    """
    noise_1, noise_2 = flow.noise_of(z_1), flow.noise_of(z_2)
    length_1, length_2 = noise_1.norm(dim=1, keepdim=True), noise_2.norm(dim=1, keepdim=True)
    angle = (noise_1 * noise_2 / (length_1 * length_2)).sum(1, keepdim=True).clamp(-1, 1).acos()[..., None]  # (P, 1, 1)
    share = alpha[:, None]
    around = ((1 - share) * angle).sin() * (noise_1 / length_1)[:, None]
    around = around + (share * angle).sin() * (noise_2 / length_2)[:, None]
    straight = torch.lerp((noise_1 / length_1)[:, None], (noise_2 / length_2)[:, None], share)
    direction = torch.where(angle.sin() > NO_CIRCLE, around, straight)
    length = torch.lerp(length_1[:, None], length_2[:, None], share)
    way = length * direction / direction.norm(dim=-1, keepdim=True).clamp(min=NO_CIRCLE)
    return flow.latent_of(way.flatten(0, 1)).unflatten(0, (len(z_1), -1))


def samples(vae: VAE, n: int = 64, generator: torch.Generator | None = None) -> Pixels:
    """A square of n new pictures, from the best prior that the model has."""
    return square(vae, vae.prior.sample(n, generator or torch.Generator().manual_seed(0)))


def square(vae: VAE, z: torch.Tensor) -> Pixels:
    """A square of decoded latents z (N, d)."""
    return grid(enlarge(decoded(vae, z), target=128))


def side_by_side(vaes: Mapping[str, VAE], x: torch.Tensor) -> Pixels:
    """Images x (N, C, H, W) above their reconstructions from a sampled z, a row for each model by name."""
    rows = [decoded(vae, sampled(vae, x)) for vae in vaes.values()]
    return labelled(np.concatenate([to_rgb(x), *rows]), rows=("original", *vaes))


def latent_rows(vaes: Mapping[str, VAE], latents: Mapping[str, torch.Tensor]) -> Pixels:
    """Decoded latents (n, d) of each model by name, a row each, all of one n."""
    return labelled(np.concatenate([decoded(vae, latents[name]) for name, vae in vaes.items()]), rows=[*vaes])


def joint_histograms(latents: Mapping[str, torch.Tensor], columns: int = 4) -> Pixels:
    """Fig. 6 for several models by name, latents (N, d) each: the two entries of each that vary most."""
    tiles = [joint_histogram(z, *most_varying(z), title=name) for name, z in latents.items()]
    return grid(np.stack(tiles), min(columns, len(tiles)))


def draw_all(vae: VAE, x: torch.Tensor, records: Records, folder: str | Path, seed: int = 0) -> list[Path]:
    """Draw every figure from test images x (N, C, H, W), 400 in the paper, and the log; return the files.

    Left out is what cannot be drawn: variants need posteriors with a std, transitions and a spread over the data two
    images, a joint histogram two entries, curves a finite value. Raises ValueError if x is empty.
    """
    if not len(x):
        raise ValueError("no test images to draw; give at least one, and 400 for the paper's figures")

    def draws() -> torch.Generator:  # afresh for each figure, so that leaving one out changes no other
        return torch.Generator().manual_seed(seed)

    posterior = posterior_of(vae, x)
    z = posterior.sample(noise(posterior.mean.shape, draws()))
    n, d = z.shape
    few = x[evenly(n, 8)]  # from front to back: folders are often sorted by kind
    figures = {
        "reconstructions": reconstructions(vae, few, draws()),
        "samples": samples(vae, generator=draws()),
        "latents": latent_statistics(posterior),
    }
    if not posterior.points:  # whose std of zero would move nothing
        figures["variants"] = variants(vae, x[0], 0, min(1, d - 1), generator=draws())
    if n > 1:
        a, b = most_varying(posterior.mean)
        figures["variants_data"] = variants(vae, x[0], a, b, (-2, 0, 2), z.std(0), draws())
        pairs = few[: len(few) // 2 * 2].unflatten(0, (-1, 2))
        figures["transitions"] = transitions({"": vae}, pairs, generator=draws())
    if d > 1:
        figures["joint_histogram"] = joint_histogram(z)
    if series(records):
        figures["curves"] = curves(records)
    return [save_png(pixels, Path(folder) / f"{name}.png") for name, pixels in figures.items()]
