"""Fixtures of many tests: a folder of small pictures, a cache for the tests alone, runs that train in seconds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from vaekit.commands import draw
from vaekit.config.groups import Discriminator, Network
from vaekit.config.presets import preset
from vaekit.config.settings import Config
from vaekit.export import explorer

# Shells let jobs in the background ignore Ctrl-C, and what those start too: tests that send it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests run in parallel, and tiny tensors gain nothing from threads that wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


DRAW, DRAW_FIGURES = FigureCanvasAgg.draw, draw.draw_figures


@pytest.fixture(autouse=True, scope="session")
def undrawn() -> Iterator[None]:
    """Trainings draw no figures, and charts stay blank: both take longer than a small training; `drawn` undoes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "draw_figures", lambda *_: [])
        patch.setattr(explorer, "FIGURE_IMAGES", 24)  # draws that a page shows
        patch.setattr(FigureCanvasAgg, "draw", lambda canvas: setattr(canvas, "renderer", canvas.get_renderer()))
        yield


@contextmanager
def with_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "draw_figures", DRAW_FIGURES)
        yield


@pytest.fixture(scope="session")
def figures() -> Callable[[], AbstractContextManager[None]]:
    """A context whose trainings draw their figures, charts blank."""
    return with_figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Figures of trainings, and charts as matplotlib draws them."""
    monkeypatch.setattr(FigureCanvasAgg, "draw", DRAW)
    with with_figures():
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures, 20x20, each a smooth random pattern of its own."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i in range(20):
        coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        coarse.resize((20, 20), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def tiny() -> Config:
    """A run of six steps on 16x16 pictures that takes a second."""
    return preset(
        "fast",
        size=16,
        images=24,
        batch=4,
        device="cpu",
        precision="fp32",
        log_every_steps=1,
        draws=1,
        network=Network(latent_dim=16, channels=8, max_channels=16),
        discriminator=Discriminator(channels=(8, 8, 8, 8, 8), start=0.5),
    )


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
