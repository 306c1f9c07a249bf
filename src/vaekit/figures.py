"""The paper's figures, drawn from a trained VAE: tensors in, pixels out.

Shapes: N images x of (C, H, W) in [-1, 1], latents of d entries. A figure is a function that returns uint8
(height, width, 3). Pictures are tiled as whole pixels and pasted in place, so no figure resamples them;
matplotlib draws only labels and charts, on canvases of its own. Random draws come from a generator on the CPU
(seed 0 if none is given): the same run draws the same picture on any device.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from vaekit.pixels import to_uint8

if TYPE_CHECKING:
    from vaekit.vae import VAE

Pixels = np.ndarray  # uint8: one picture (H, W, 3), or several (N, H, W, 3)
Records = Sequence[Mapping[str, Any]]

INK, FAINT = "#222222", "#9a9a9a"
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe-Ito: told apart with any colour vision
DASHES = (0, (4, 3))
BATCH = 16  # images through the network at once: 256x256 is costly
POSITIONS = ("images_seen", "elapsed_sec", "step", "num_images")  # entries of a record that are no curve


@contextmanager
def _evaluating(vae: VAE) -> Iterator[torch.device]:
    """No gradients, evaluation mode, and every module's own mode restored after; gives the VAE's device."""
    modes = [(module, module.training) for module in vae.modules()]
    try:
        vae.eval()
        with torch.no_grad():
            yield next(vae.parameters()).device
    finally:
        for module, training in modes:
            module.training = training


def _encode(vae: VAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C, H, W) -> mean and std of q(z|x), (N, d) each, on the CPU."""
    with _evaluating(vae) as device:
        posteriors = [vae.encode(part.to(device)) for part in x.split(BATCH)]
    mean = torch.cat([q.mean.float().cpu() for q in posteriors])
    return mean, torch.cat([q.std.float().cpu() for q in posteriors])


def _decode(vae: VAE, z: torch.Tensor) -> Pixels:
    """(N, d) -> (N, H, W, 3)."""
    with _evaluating(vae) as device:
        return np.concatenate([to_rgb(vae.decode(part.to(device))) for part in z.split(BATCH)])


def _noise(shape: Sequence[int], generator: torch.Generator | None) -> torch.Tensor:
    return torch.randn(*shape, generator=generator or torch.Generator().manual_seed(0))


def _check_entries(a: int, b: int, d: int) -> None:
    if not (0 <= a < d and 0 <= b < d):
        raise ValueError(f"entries {a} and {b} of a latent of {d}; choose from 0 to {d - 1}")


def to_rgb(x: torch.Tensor) -> Pixels:
    """Images (N, C, H, W) in [-1, 1] as uint8 (N, H, W, 3): the first three channels, or one as grey."""
    x = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
    x = x.detach().float().cpu().nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
    return to_uint8(x).permute(0, 2, 3, 1).numpy()


def grid(images: Pixels, columns: int | None = None, pad: int = 2) -> Pixels:
    """Tile uint8 (N, H, W, 3) in reading order, white between; about square unless `columns` is given."""
    n, h, w, _ = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    out = np.full((rows * (h + pad) - pad, columns * (w + pad) - pad, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (h + pad), i % columns * (w + pad)
        out[top : top + h, left : left + w] = image
    return out


def _enlarge(images: Pixels, target: int) -> Pixels:
    """Repeat pixels a whole number of times, while a side is at most `target` (never less than once)."""
    factor = max(1, target // max(images.shape[1:3]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def save(pixels: Pixels, path: str | Path) -> Path:
    """Write uint8 (H, W, 3) as PNG, creating the folder; a reader sees the old file or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        Image.fromarray(pixels).save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _figure(width: float, height: float, layout: Any = None) -> Figure:
    return Figure((width, height), dpi=128, facecolor="white", layout=layout)  # n / 128 is exact: n pixels are n


def _pixels(figure: Figure) -> Pixels:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _text_width(text: str, size: float) -> int:
    figure = _figure(1, 1)
    renderer = FigureCanvasAgg(figure).get_renderer()
    return math.ceil(figure.text(0, 0, text, fontsize=size).get_window_extent(renderer).width)


def _labelled(
    tiles: Pixels,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    top: str = "",
    side: str = "",
    target: int = 160,
) -> Pixels:
    """Tile (rows * columns, H, W, 3), with a label at each row and column and a title along each axis."""
    tiles = _enlarge(tiles, target)
    n, h, w, _ = tiles.shape
    pad = 3
    body = grid(tiles, n // len(rows), pad)
    line = int(np.clip(0.19 * w, 18, 30))  # height of a line of text in pixels
    size = 0.6 * line * 72 / 128  # in points
    names = max(_text_width(name, size) for name in rows)
    over_x = max(0, _text_width(top, size) - body.shape[1]) // 2  # a title may be longer than its axis
    over_y = max(0, _text_width(side, size) - body.shape[0]) // 2
    left = max(over_x, line // 2 + line * bool(side) + (names + line // 2) * bool(names))
    above = max(over_y, line // 4 + line * (bool(top) + bool(columns)))
    width = left + body.shape[1] + max(over_x, line // 2)
    height = above + body.shape[0] + max(over_y, line // 2)
    labels = [
        (left + body.shape[1] / 2, above - line * (bool(columns) + 0.5), top, "center", 0),
        (line * 0.9, above + body.shape[0] / 2, side, "center", 90),
        *((left + i * (w + pad) + w / 2, above - line / 2, name, "center", 0) for i, name in enumerate(columns)),
        *((left - line / 2, above + i * (h + pad) + h / 2, name, "right", 0) for i, name in enumerate(rows)),
    ]
    figure = _figure(width / 128, height / 128)
    for x, y, text, ha, angle in labels:
        at = x / width, 1 - y / height
        figure.text(*at, text, fontsize=size, color=INK, va="center", ha=ha, rotation=angle)
    out = _pixels(figure)
    out[above : above + body.shape[0], left : left + body.shape[1]] = body
    return out


def reconstructions(vae: VAE, x: torch.Tensor, generator: torch.Generator | None = None) -> Pixels:
    """The first 8 images of x (N, C, H, W) above reconstructions from a sampled z (eq. 6) and the mean."""
    x = x[:8]
    mean, std = _encode(vae, x)
    z = mean + _noise(mean.shape, generator) * std  # eq. 6
    tiles = np.concatenate([to_rgb(x), _decode(vae, z), _decode(vae, mean)])
    return _labelled(tiles, rows=("original", "sampled z", "mean"))


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
    entries 0 and 1, the text 0 and 2; we follow the caption. 20 std is no distance in the data: a narrow
    posterior moves nothing, a wide one leaves the data. `scale` (d,), the spread of each entry over many
    images, stands in for std; deltas of (-2, 0, 2) then cover it. Raises ValueError if a or b is no entry.
    """
    mean, std = _encode(vae, x if x.ndim == 4 else x[None])
    _check_entries(a, b, mean.shape[1])
    unit = std[0] if scale is None else scale.float().cpu()
    down = deltas if a != b else (0,)
    z = (mean + _noise(mean.shape, generator) * std).repeat(len(down) * len(deltas), 1)
    for i, (delta_b, delta_a) in enumerate(product(down, deltas)):
        z[i, b] = mean[0, b] + delta_b * unit[b]
        z[i, a] = mean[0, a] + delta_a * unit[a]
    symbol, meaning = (r"\sigma", "posterior std") if scale is None else ("s", "spread over the data")
    top, side = (rf"$z_{{{j}}}$   (${symbol}={unit[j]:.2g}$, {meaning})" for j in (a, b))
    offsets = [rf"$\mu{delta:+g}\,{symbol}$" if delta else r"$\mu$" for delta in deltas]
    rows, side = (offsets, side) if a != b else ([""], "")
    return _labelled(_decode(vae, z), rows, offsets, top, side, target=192)


def transitions(
    vaes: Mapping[str, VAE], x_pairs: torch.Tensor, steps: int = 6, generator: torch.Generator | None = None
) -> Pixels:
    """Fig. 5: z_k = (1 - k/5) z_1 + (k/5) z_2 between sampled latents of two images, x_pairs (P, 2, C, H, W).

    A row is a pair under a model and has the model's name; rows of a pair are neighbours and share noise.
    """
    alpha = torch.linspace(0, 1, steps)[:, None]  # k / (steps - 1)
    eps: dict[torch.Size, torch.Tensor] = {}
    rows = []
    for vae in vaes.values():
        mean, std = _encode(vae, x_pairs.flatten(0, 1))
        if mean.shape not in eps:
            eps[mean.shape] = _noise(mean.shape, generator)
        z_1, z_2 = (mean + eps[mean.shape] * std).unflatten(0, (-1, 1, 2)).unbind(2)  # (P, 1, d) each
        x_hat = _decode(vae, ((1 - alpha) * z_1 + alpha * z_2).flatten(0, 1))
        rows.append(x_hat.reshape(len(x_pairs), steps, *x_hat.shape[1:]))
    tiles = np.stack(rows, axis=1)  # (P, models, steps, H, W, 3)
    columns = ["$z_1$", *(rf"$\alpha={value:.2g}$" for value in alpha[1:-1].flatten().tolist()), "$z_2$"]
    return _labelled(tiles.reshape(-1, *tiles.shape[3:]), [*vaes] * len(x_pairs), columns)


def samples(vae: VAE, n: int = 64, generator: torch.Generator | None = None) -> Pixels:
    """A square of n decoded z ~ N(0, I).

    KL_G (eq. 20) matches two moments of the aggregate posterior, not its shape: expect less than in fig. 5.
    """
    return grid(_enlarge(_decode(vae, _noise((n, vae.latent_dim), generator)), target=128))


def _style(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    ax.set_title(title, fontsize=9, loc="left", color=INK)
    ax.set_xlabel(xlabel, fontsize=8, color=INK)
    ax.set_ylabel(ylabel, fontsize=8, color=INK)
    ax.tick_params(which="both", labelsize=7.5, color=FAINT, labelcolor=INK, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def joint_histogram(z: torch.Tensor, a: int = 0, b: int = 1) -> Pixels:
    """Fig. 6: joint histogram of two entries of latents z (N, d) with marginals, and N(0, I) for reference.

    Raises ValueError if a or b is no entry.
    """
    _check_entries(a, b, z.shape[1])
    pair = torch.as_tensor(z).detach().double().cpu().numpy()[:, [a, b]]
    pair = pair[np.isfinite(pair).all(1)]
    edges = max(3.2, 1.05 * np.abs(pair).max(initial=0)) * np.linspace(-1, 1, 36)
    counts, _, _ = np.histogram2d(pair[:, 0], pair[:, 1], bins=(edges, edges))
    figure = _figure(5, 5)
    main = figure.add_axes((0.115, 0.1, 0.66, 0.66))
    most = max(1, counts.max())
    main.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="Blues", vmin=-0.25 * most, vmax=most)
    for mass in (0.5, 0.95):  # in two dimensions P(|z| < r) = 1 - exp(-r^2 / 2)
        radius = math.sqrt(-2 * math.log(1 - mass))
        main.add_patch(Circle((0, 0), radius, fill=False, color=ORANGE, linewidth=1, linestyle=DASHES))
    _style(main, xlabel=f"$z_{{{a}}}$", ylabel=f"$z_{{{b}}}$")
    _draw_marginal(figure.add_axes((0.115, 0.78, 0.66, 0.19), sharex=main), pair[:, 0], edges, upright=True)
    _draw_marginal(figure.add_axes((0.795, 0.1, 0.19, 0.66), sharey=main), pair[:, 1], edges, upright=False)
    main.set(xlim=(edges[0], edges[-1]), ylim=(edges[0], edges[-1]))
    key = {f"{len(pair)} images": BLUE, f"darkest: {most:.0f} in a bin": BLUE}
    key |= {r"$\mathcal{N}(0, 1)$": ORANGE, "circles: 50 %, 95 %": ORANGE}
    for i, (text, color) in enumerate(key.items()):
        figure.text(0.795, 0.95 - 0.033 * i, text, fontsize=7.5, color=color, va="center")
    return _pixels(figure)


def _draw_marginal(ax: Axes, values: np.ndarray, edges: np.ndarray, upright: bool) -> None:
    """Density of one entry (N,) and of N(0, 1), along the horizontal if upright."""
    density = np.histogram(values, edges)[0] / (max(1, len(values)) * (edges[1] - edges[0]))
    t = np.linspace(edges[0], edges[-1], 400)
    normal = np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
    ax.stairs(density, edges, fill=True, color=BLUE, alpha=0.75, orientation="vertical" if upright else "horizontal")
    ax.plot(*((t, normal) if upright else (normal, t)), color=ORANGE, linewidth=1.4)
    _style(ax)
    ax.tick_params(labelbottom=False, labelleft=False, length=0)
    ax.spines["left" if upright else "bottom"].set_visible(False)


def latent_statistics(mean: torch.Tensor, std: torch.Tensor) -> Pixels:
    """Three views of q(z|x) over the images, mean and std (N, d) each, that tell how a latent collapses.

    std near 1 with no KL and no variance of the mean: the entry ignores the image. std near 0: the posteriors
    are points. Values that are not finite are drawn as the prior's and counted in a title.
    """
    lost = int((~(mean.isfinite() & std.isfinite())).sum())
    mean = mean.detach().double().cpu().nan_to_num(0, 0, 0)
    std = std.detach().double().cpu().nan_to_num(1, 1, 1).clamp(min=1e-12)
    kl, order = (0.5 * (std**2 + mean**2 - 1 - 2 * std.log())).mean(0).sort(descending=True)  # eq. 11, by entry
    within, between = (std**2).mean(0)[order].numpy(), mean.var(0, correction=0)[order].numpy()
    figure = _figure(9.6, 2.9, layout="constrained")
    spread, divergence, variance = figure.subplots(1, 3)
    _draw_std(spread, std.flatten().numpy())
    edges = np.arange(len(kl) + 1)
    divergence.stairs(kl.numpy(), edges, fill=True, color=BLUE, alpha=0.75)
    _style(divergence, f"KL by entry: {kl.sum():.1f} nats in all", "entry, largest KL first", "nats")
    both = within + between
    variance.stairs(within, edges, fill=True, color=ORANGE, alpha=0.75, label="mean of std²")
    variance.stairs(both, edges, baseline=within, fill=True, color=BLUE, alpha=0.75, label="variance of the mean")
    variance.axhline(1, color=INK, linewidth=1, linestyle=DASHES)
    _style(variance, "aggregate variance by entry", "entry, largest KL first")
    variance.set_ylim(0, 1.3 * max(1, both.max()))
    variance.legend(fontsize=7.5, frameon=False, loc="upper right", ncols=2, columnspacing=1, handlelength=1.2)
    for ax in (divergence, variance):
        ax.set_xlim(0, len(kl))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if lost:
        figure.suptitle(f"{lost:,} of {mean.numel():,} entries are not finite", fontsize=9, color=ORANGE)
    return _pixels(figure)


def _draw_std(ax: Axes, std: np.ndarray) -> None:
    """Histogram of the posterior std of all entries and images, with the shares below 0.05 and above 0.95."""
    upper = max(1.1, 1.05 * float(np.quantile(std, 0.999)))
    counts, edges = np.histogram(std.clip(0, upper), bins=60, range=(0, upper))
    ax.stairs(counts / len(std), edges, fill=True, color=BLUE, alpha=0.75)
    for at in (0.05, 0.95):
        ax.axvline(at, color=ORANGE, linewidth=1, linestyle=DASHES)
    below, above = 100 * np.mean(std < 0.05), 100 * np.mean(std > 0.95)
    _style(ax, f"std: {below:.0f} % < 0.05,  {above:.0f} % > 0.95", "posterior std", "share")
    ax.set_xlim(0, upper)


def _series(records: Records) -> dict[str, dict[str, np.ndarray]]:
    """{name: {"train": (n, 2), "test": (m, 2)}}: rows of images seen and value, only where that is finite."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for record in sorted(records, key=lambda record: record["images_seen"]):
        for key, value in record.items():
            if key.removeprefix("test/") in POSITIONS or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            split = "test" if key.startswith("test/") else "train"
            panel = panels.setdefault(key.removeprefix("train/").removeprefix("test/"), {})
            panel.setdefault(split, []).append((record["images_seen"], value))
    return {name: {split: np.array(p) for split, p in panel.items()} for name, panel in panels.items()}


def curves(records: Records) -> Pixels:
    """A panel for each name in the log, over the images seen; `name` (train) and `test/name` share one.

    A record has `images_seen` and floats by name. Raises ValueError if no value is finite.
    """
    panels = _series(records)
    if not panels:
        raise ValueError(f"no finite value in the {len(records)} records of the log; nothing to draw")
    columns = min(len(panels), min((4, 3), key=lambda c: -len(panels) % c))  # the fewest empty places
    rows = math.ceil(len(panels) / columns)
    width, height, strip = 2.7 * columns, 1.9 * rows + 0.2, 0.2
    figure = _figure(width, height, ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - strip / height)))
    last = max(record["images_seen"] for record in records)
    for i, (name, panel) in enumerate(panels.items()):
        ax = figure.add_subplot(rows, columns, i + 1)
        _draw_curve(ax, panel)
        _style(ax, name)
        ax.set_xlim(0, 1.02 * max(1, last))
    figure.supxlabel("images seen", fontsize=8, color=INK)
    for text, color, inches in (("train", BLUE, 0.45), ("test", ORANGE, 0.05)):
        at = (1 - inches / width, 1 - strip / 2 / height)
        figure.text(*at, text, fontsize=9, color=color, ha="right", va="center")
    return _pixels(figure)


def _draw_curve(ax: Axes, panel: Mapping[str, np.ndarray]) -> None:
    for split, points in panel.items():
        x, y = points.T
        color = BLUE if split == "train" else ORANGE
        half = len(y) // 50  # of the running mean, where steps are too many to be seen one by one
        if half > 1:
            ax.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
            window = np.ones(2 * half + 1)
            y = np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")
        ax.plot(x, y, color=color, linewidth=1.4, marker="o" if len(y) <= 12 else "", markersize=3)
    values = np.concatenate([points[:, 1] for points in panel.values()])
    if values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(color="#ececec", linewidth=0.8)


def draw_all(vae: VAE, x: torch.Tensor, records: Records, folder: str | Path, seed: int = 0) -> list[Path]:
    """Draw every figure from test images x (N, C, H, W), 400 in the paper, and the log; return the files.

    Left out is what cannot be drawn: transitions and a spread over the data need two images, a joint
    histogram two entries, curves a finite value. Raises ValueError if x is empty.
    """
    if not len(x):
        raise ValueError("no test images to draw; give at least one, and 400 for the paper's figures")

    def draws() -> torch.Generator:  # afresh for each figure, so that leaving one out changes no other
        return torch.Generator().manual_seed(seed)

    mean, std = _encode(vae, x)
    z = mean + _noise(mean.shape, draws()) * std
    n, d = z.shape
    figures = {
        "reconstructions": reconstructions(vae, x, draws()),
        "variants": variants(vae, x[0], 0, min(1, d - 1), generator=draws()),
        "samples": samples(vae, generator=draws()),
        "latents": latent_statistics(mean, std),
    }
    if n > 1:
        a, b = most_varying(mean)
        figures["variants_data"] = variants(vae, x[0], a, b, (-2, 0, 2), z.std(0), draws())
        pairs = x[: min(8, n // 2 * 2)].unflatten(0, (-1, 2))
        figures["transitions"] = transitions({"": vae}, pairs, generator=draws())
    if d > 1:
        figures["joint_histogram"] = joint_histogram(z)
    if _series(records):
        figures["curves"] = curves(records)
    return [save(pixels, Path(folder) / f"{name}.png") for name, pixels in figures.items()]
