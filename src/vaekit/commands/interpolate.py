"""From one picture to another, and one picture varied: figs 4 and 5 of the paper for pictures of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vaekit.commands.using import load, means_of, read_picture, spread_of
from vaekit.reports.figures import decoded, most_varying, through_noise, variants
from vaekit.reports.mosaic import Pixels, enlarge, grid, save_png
from vaekit.runs.prior import Say
from vaekit.system.devices import float32_products
from vaekit.system.files import replacing
from vaekit.system.ranks import check_one_process

FRAME_MSEC = 60  # of a film
SIDE = 256  # pixels that a frame is enlarged to, at most
KINDS = (".gif", ".png", ".webp", ".mp4")


def interpolate_run(
    run: str | Path,
    first: str | Path,
    second: str | Path,
    out: str | Path,
    steps: int = 30,
    straight: bool = False,
) -> Path:
    """Draw the way from one picture to another: `steps` pictures between the means of their posteriors.

    Through the flow where the model has one, which stays where latents are, else, or with `straight`, on the straight
    line. `out` is a film, .gif, .webp or .mp4 (there and back), or a .png with one row. Raises `ValueError` for a
    folder without a model, what is no picture, fewer than two steps, and another kind of file.
    """
    check_one_process("interpolate")
    path = Path(out)
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path}: transitions are written as {', '.join(KINDS)}")
    if steps < 2:
        raise ValueError(f"{steps} steps; give two or more, the two ends among them")
    vae = load(run)
    with float32_products():
        z_1, z_2 = (means_of(vae, read_picture(picture, vae)) for picture in (first, second))
        alpha = torch.linspace(0, 1, steps)
        flow: Any = vae.prior
        if hasattr(flow, "noise_of") and not straight:
            z = through_noise(flow, z_1, z_2, alpha)[0]
        else:
            z = torch.lerp(z_1, z_2, alpha[:, None])
        frames = decoded(vae, z)
    return save_strip(frames, path) if path.suffix.lower() == ".png" else save_film(frames, path)


def vary_run(
    run: str | Path,
    picture: str | Path,
    out: str | Path,
    entries: Sequence[int] = (),
    say: Say = lambda line: None,
) -> Path:
    """Draw a picture with two entries of its latent moved over the spread of the training set (fig. 4), as PNG.

    Without `entries` those two that vary most over the training set. Raises `ValueError` for a folder without a model,
    what is no picture, entries that are not there, and a model that knows no spread.
    """
    check_one_process("vary")
    if Path(out).suffix.lower() != ".png":
        raise ValueError(f"{out}: variants are written as .png")
    vae = load(run)
    spread = spread_of(vae)
    if spread is None:
        raise ValueError(f"{run} has no Gaussian of its latents, which says how far to go: vaekit fit-prior {run}")
    chosen = tuple(entries) or most_moving(spread[1])
    if len(chosen) not in (1, 2):
        raise ValueError(f"{len(chosen)} entries; give one or two")
    x = read_picture(picture, vae)
    with float32_products():
        pixels = variants(vae, x, chosen[0], chosen[-1], deltas=(-3, -1.5, 0, 1.5, 3), scale=spread[1])
    say(f"entries {chosen[0]} (across) and {chosen[-1]} (down), up to 3 standard deviations of the training set")
    return save_png(pixels, out)


def most_moving(std: Tensor) -> tuple[int, int]:
    """The two entries with the largest std (d,) over the training set."""
    return most_varying(torch.stack([-std, std]))


def save_strip(frames: Pixels, path: Path) -> Path:
    """Frames (N, H, W, 3) beside each other."""
    return save_png(grid(frames, columns=len(frames)), path)


def save_film(frames: Pixels, path: Path) -> Path:
    """Frames (N, H, W, 3) as a film, there and back, without end. Raises `ValueError` for .mp4 without its package."""
    film = enlarge(np.concatenate([frames, frames[-2:0:-1]]), SIDE)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".mp4":
        return save_mp4(film, path)
    first, *others = (Image.fromarray(frame) for frame in film)
    options: dict[str, Any] = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    with replacing(path) as unfinished:
        kind = path.suffix[1:].upper()
        first.save(unfinished, format=kind, save_all=True, append_images=others, duration=FRAME_MSEC, loop=0, **options)
    return path


def save_mp4(film: Pixels, path: Path) -> Path:
    """Frames as H.264."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ValueError(f"{path} needs imageio-ffmpeg; run: pip install imageio-ffmpeg, or name a .gif") from error
    height, width = film.shape[1:3]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=1000 / FRAME_MSEC, macro_block_size=2)
    writer.send(None)
    for frame in film:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path
