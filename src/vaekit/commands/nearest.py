"""Which pictures are most like one, by their latents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vaekit.commands.using import batches_of, load, means_of, read_picture, spread_of
from vaekit.reports.mosaic import grid, save_png, to_rgb
from vaekit.runs.prior import Say
from vaekit.system.devices import float32_products
from vaekit.system.ranks import check_one_process


def nearest_run(
    run: str | Path,
    picture: str | Path,
    pictures: Sequence[str | Path],
    count: int = 8,
    out: str | Path | None = None,
    say: Say = lambda line: None,
) -> list[tuple[str, float]]:
    """The names of the `count` pictures that are most like one, and their distances, nearest first.

    The distance is that of the posteriors' means, each entry in units of its spread over the training set where the
    model knows it, and divided by the root of their number: two pictures of that set have about 1.4. With `out`, a PNG
    with the picture and those beside it. Raises `ValueError` for a folder without a model and what is no picture.
    """
    check_one_process("nearest")
    if count < 1:
        raise ValueError(f"{count} pictures; ask for one or more")
    vae = load(run)
    spread = spread_of(vae)
    scale = torch.ones(vae.latent_dim) if spread is None else spread[1].clamp(min=1e-6)
    x = read_picture(picture, vae)
    best: list[tuple[float, str, Tensor]] = []
    with float32_products(), batches_of(vae, pictures, say, "comparing") as batches:
        wanted = means_of(vae, x)
        for batch in batches:
            distances = ((means_of(vae, batch.x) - wanted) / scale).square().mean(1).sqrt().tolist()
            best += zip(distances, batch.names, batch.x, strict=True)
            best = sorted(best, key=lambda found: found[:2])[:count]
    if out is not None:
        save_png(grid(to_rgb(torch.cat([x, torch.stack([found[2] for found in best])])), columns=count + 1), out)
    return [(name, distance) for distance, name, _ in best]
