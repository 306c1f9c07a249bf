"""Charts of latents and of losses, each a function that returns uint8 (height, width, 3).

Shapes: N images, latents of d entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from matplotlib.ticker import EngFormatter, MaxNLocator

from vaekit.models.posterior import Posterior
from vaekit.reports.mosaic import INK, Pixels, new_figure, render

Records = Sequence[Mapping[str, Any]]

FAINT = "#9a9a9a"
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe-Ito: told apart with any colour vision
PALETTE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d3b")  # Okabe-Ito, yellow left out
DASHES = (0, (4, 3))
ROUNDS = ("-", DASHES, "-.", ":", (0, (8, 2)), (0, (6, 2, 1, 2, 1, 2)))  # of lines, where there are more than colours
POSITIONS = ("images_seen", "elapsed_sec", "step", "num_images")  # entries of a record that are no curve


def check_entries(a: int, b: int, d: int) -> None:
    if not (0 <= a < d and 0 <= b < d):
        named = f"entry {a}" if a == b else f"entries {a} and {b}"
        raise ValueError(f"{named} of a latent of {d}; choose from 0 to {d - 1}")


def joint_histogram(z: torch.Tensor, a: int = 0, b: int = 1, title: str = "") -> Pixels:
    """Fig. 6: joint histogram of two entries of latents z (N, d) with marginals, and N(0, I) for reference.

    Raises ValueError if a or b is no entry.
    """
    check_entries(a, b, z.shape[1])
    pair = torch.as_tensor(z).detach().double().cpu().numpy()[:, [a, b]]
    pair = pair[np.isfinite(pair).all(1)]
    edges = max(3.2, 1.05 * np.abs(pair).max(initial=0)) * np.linspace(-1, 1, 36)
    counts, _, _ = np.histogram2d(pair[:, 0], pair[:, 1], bins=(edges, edges))
    figure = new_figure(5, 5)
    main = figure.add_axes((0.115, 0.1, 0.66, 0.66))
    most = max(1, counts.max())
    main.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="Blues", vmin=-0.25 * most, vmax=most)
    for mass in (0.5, 0.95):  # in two dimensions P(|z| < r) = 1 - exp(-r^2 / 2)
        radius = math.sqrt(-2 * math.log(1 - mass))
        main.add_patch(Circle((0, 0), radius, fill=False, color=ORANGE, linewidth=1, linestyle=DASHES))
    set_style(main, xlabel=f"$z_{{{a}}}$", ylabel=f"$z_{{{b}}}$")
    draw_marginal(figure.add_axes((0.115, 0.78, 0.66, 0.19), sharex=main), pair[:, 0], edges, upright=True)
    draw_marginal(figure.add_axes((0.795, 0.1, 0.19, 0.66), sharey=main), pair[:, 1], edges, upright=False)
    main.set(xlim=(edges[0], edges[-1]), ylim=(edges[0], edges[-1]))
    key = {f"{len(pair)} images": BLUE, f"darkest: {most:.0f} in a bin": BLUE}
    key |= {r"$\mathcal{N}(0, 1)$": ORANGE, "circles: 50 %, 95 %": ORANGE}
    for i, (text, color) in enumerate(key.items()):
        figure.text(0.795, 0.95 - 0.033 * i, text, fontsize=7.5, color=color, va="center")
    figure.text(0.02, 0.985, title, fontsize=9, color=INK, va="top")
    return render(figure)


def draw_marginal(ax: Axes, values: np.ndarray, edges: np.ndarray, upright: bool) -> None:
    """Density of one entry (N,) and of N(0, 1), along the horizontal if upright."""
    density = np.histogram(values, edges)[0] / (max(1, len(values)) * (edges[1] - edges[0]))
    t = np.linspace(edges[0], edges[-1], 400)
    normal = np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
    ax.stairs(density, edges, fill=True, color=BLUE, alpha=0.75, orientation="vertical" if upright else "horizontal")
    ax.plot(*((t, normal) if upright else (normal, t)), color=ORANGE, linewidth=1.4)
    set_style(ax)
    ax.tick_params(labelbottom=False, labelleft=False, length=0)
    ax.spines["left" if upright else "bottom"].set_visible(False)


def latent_statistics(posterior: Posterior) -> Pixels:
    """Three views of q(z|x) over the images, (N, d), that tell how a latent collapses; of points the last alone.

    std near 1 with no KL and no variance of the mean: the entry ignores the image. std near 0: the posteriors
    are points. Values that are not finite are drawn as the prior's and counted in a title.
    """
    lost = int((~(posterior.mean.isfinite() & posterior.std.isfinite())).sum())
    mean = posterior.mean.detach().double().cpu().nan_to_num(0, 0, 0)
    std = posterior.std.detach().double().cpu().nan_to_num(1, 1, 1)
    if posterior.points:
        figure = new_figure(4.2, 2.9, layout="constrained")
        draw_variance(figure.subplots(), std, mean, mean.var(0, correction=0).argsort(descending=True))
    else:
        figure = new_figure(9.6, 2.9, layout="constrained")
        spread, divergence, variance = figure.subplots(1, 3)
        drawn = Posterior(mean, 2 * std.clamp(min=1e-12).log())
        kl, order = drawn.kl_entries().mean(0).sort(descending=True)
        draw_std(spread, std.flatten().numpy())
        divergence.stairs(kl.numpy(), np.arange(len(kl) + 1), fill=True, color=BLUE, alpha=0.75)
        set_style(divergence, f"KL by entry: {kl.sum():.1f} nats in all", "entry, largest KL first", "nats")
        draw_variance(variance, std, mean, order, "entry, largest KL first")
        show_entries(divergence, len(kl))
    if lost:
        figure.suptitle(f"{lost:,} of {mean.numel():,} entries are not finite", fontsize=9, color=ORANGE)
    return render(figure)


def draw_variance(
    ax: Axes, std: torch.Tensor, mean: torch.Tensor, order: torch.Tensor, xlabel: str = "entry, largest first"
) -> None:
    """The aggregate variance of the entries in an `order` (d,): its part within the posteriors and that between."""
    within, between = std.square().mean(0)[order].numpy(), mean.var(0, correction=0)[order].numpy()
    both, edges = within + between, np.arange(len(order) + 1)
    if within.any():
        ax.stairs(within, edges, fill=True, color=ORANGE, alpha=0.75, label="mean of std²")
    ax.stairs(both, edges, baseline=within, fill=True, color=BLUE, alpha=0.75, label="variance of the mean")
    ax.axhline(1, color=INK, linewidth=1, linestyle=DASHES)
    set_style(ax, "aggregate variance by entry", xlabel)
    ax.set_ylim(0, 1.3 * max(1, both.max()))
    ax.legend(fontsize=7.5, frameon=False, loc="upper right", ncols=2, columnspacing=1, handlelength=1.2)
    show_entries(ax, len(order))


def show_entries(ax: Axes, d: int) -> None:
    """The numbers of the entries along the horizontal."""
    ax.set_xlim(0, d)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def draw_std(ax: Axes, std: np.ndarray) -> None:
    """Histogram of the posterior std of all entries and images, with the shares below 0.05 and above 0.95."""
    upper = max(1.1, 1.05 * float(np.quantile(std, 0.999)))
    counts, edges = np.histogram(std.clip(0, upper), bins=60, range=(0, upper))
    ax.stairs(counts / len(std), edges, fill=True, color=BLUE, alpha=0.75)
    for at in (0.05, 0.95):
        ax.axvline(at, color=ORANGE, linewidth=1, linestyle=DASHES)
    below, above = 100 * np.mean(std < 0.05), 100 * np.mean(std > 0.95)
    set_style(ax, f"std: {below:.0f} % < 0.05,  {above:.0f} % > 0.95", "posterior std", "share")
    ax.set_xlim(0, upper)


def power_spectra(spectra: Mapping[str, Sequence[float]], models: bool = False) -> Pixels:
    """Radially averaged power spectra by name, each (R,) from 1 cycle a picture up to the Nyquist frequency.

    The spectrum called "original" is drawn in dark grey. The lower panel shows the others relative to it, in decibels:
    0 is as the originals, below 0 detail is missing, above 0 there is too much. `models` draws them as `model_curves`
    does.
    """
    figure = new_figure(6.4, 5.6, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    original = np.asarray(spectra["original"])
    others = {name: np.asarray(values).clip(1e-12) for name, values in spectra.items() if name != "original"}
    cycles = np.arange(1, len(original) + 1)
    above.loglog(cycles, original.clip(1e-12), color=INK, linewidth=1.4, label="original")
    styles = model_styles(others) if models else styles_of(len(others))
    for (name, values), style in zip(others.items(), styles, strict=True):
        above.loglog(cycles, values, **style, linewidth=1.4, label=name)
        below.semilogx(cycles, 10 * np.log10(values / original.clip(1e-12)), **style)
    below.axhline(0, color=INK, linewidth=1)
    for ax in (above, below):
        ax.grid(color="#ececec", linewidth=0.8)
    set_style(above, "power spectrum, mean over the pictures", ylabel="power")
    set_style(below, "relative to the originals", "cycles per picture", "dB")
    above.legend(fontsize=7.5, frameon=False)
    return render(figure)


def series(records: Records) -> dict[str, dict[str, np.ndarray]]:
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
    panels = series(records)
    if not panels:
        raise ValueError(f"no finite value in the {len(records)} records of the log; nothing to draw")
    columns = min(len(panels), min((4, 3), key=lambda c: -len(panels) % c))  # the fewest empty places
    rows = math.ceil(len(panels) / columns)
    across, down, strip = 2.7, 1.9, 0.2  # inches of a panel, and of the line above all
    width, height = across * columns, down * rows + 2 * strip
    figure = new_figure(width, height)
    last = max(record["images_seen"] for record in records)
    for i, (name, panel) in enumerate(panels.items()):
        row, column = divmod(i, columns)
        left, bottom = across * column + 0.5, down * (rows - 1 - row) + 0.45
        ax = figure.add_axes((left / width, bottom / height, 2.1 / width, 1.4 / height))
        draw_curve(ax, panel)
        set_style(ax, name)
        ax.set_xlim(0, 1.02 * max(1, last))
    figure.text(0.5, 0.08 / height, "images seen", fontsize=8, color=INK, ha="center", va="center")
    for text, color, inches in (("train", BLUE, 0.45), ("test", ORANGE, 0.05)):
        at = (1 - inches / width, 1 - strip / 2 / height)
        figure.text(*at, text, fontsize=9, color=color, ha="right", va="center")
    return render(figure)


def draw_curve(ax: Axes, panel: Mapping[str, np.ndarray]) -> None:
    for split, points in panel.items():
        x, y = points.T
        color = BLUE if split == "train" else ORANGE
        half = len(y) // 50  # half the window of a running mean, drawn where there are too many steps to see each
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


def set_style(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    ax.set_title(title, fontsize=9, loc="left", color=INK)
    ax.set_xlabel(xlabel, fontsize=8, color=INK)
    ax.set_ylabel(ylabel, fontsize=8, color=INK)
    ax.tick_params(which="both", labelsize=7.5, color=FAINT, labelcolor=INK, length=2.5)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)


def model_curves(records: Mapping[str, Records], names: Mapping[str, str]) -> Pixels:
    """Test measures of several models by name over the run: against images seen above, against seconds below.

    `names` maps measures of the log, without "test/", to their titles. Models with and without "+gan" share a colour.
    """
    figure = new_figure(3.2 * len(names), 6, layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for (model, log), style in zip(records.items(), model_styles(records), strict=True):
        for row, position in zip(axes, ("images_seen", "elapsed_sec"), strict=True):
            for ax, name in zip(row, names, strict=True):
                points = [(r[position], r[f"test/{name}"]) for r in log if f"test/{name}" in r]
                ax.plot(*zip(*points, strict=True), **style, linewidth=1.3, marker="o", markersize=2.5, label=model)
    for row, xlabel in zip(axes, ("images seen", "seconds of training"), strict=True):
        for ax, title in zip(row, names.values(), strict=True):
            set_style(ax, title, xlabel)
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.grid(color="#ececec", linewidth=0.8)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=7.5, frameon=False
    )
    return render(figure)


def styles_of(lines: int) -> list[dict[str, Any]]:
    """A colour for each line, and dashes where colours come again."""
    return [style_of(i % len(PALETTE), i // len(PALETTE)) for i in range(lines)]


def model_styles(models: Iterable[str]) -> list[dict[str, Any]]:
    """A colour for each objective, two kinds of line for each: with +gan in its name, and without."""
    places: dict[str, int] = {}
    styles = []
    for model in models:
        again, color = divmod(places.setdefault(model.replace("+gan", ""), len(places)), len(PALETTE))
        styles.append(style_of(color, 2 * again + ("+gan" not in model)))
    return styles


def style_of(color: int, turn: int) -> dict[str, Any]:
    return {"color": PALETTE[color], "linestyle": ROUNDS[turn % len(ROUNDS)]}
