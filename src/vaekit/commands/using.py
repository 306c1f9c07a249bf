"""What the commands that use a finished model share: the model, and pictures of any files as it takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from vaekit.config.settings import Config
from vaekit.data.reading import known_pictures, read_batches
from vaekit.data.sources.folder import Folder
from vaekit.data.view import OWN, View
from vaekit.models.batches import evaluating
from vaekit.models.posterior import Posterior
from vaekit.models.vae import VAE
from vaekit.priors.gaussian import GaussianPrior
from vaekit.runs.folder import view_of
from vaekit.runs.prior import Say
from vaekit.system.devices import available
from vaekit.system.files import printable

SHOWN = 5  # pictures that cannot be read


def read_picture(path: str | Path, vae: VAE) -> Tensor:
    """The picture in a file as a model takes it: upright, cropped to the middle, resized, (1, C, H, W) in [-1, 1].

    Raises `ValueError` for what is no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no picture {path}")
    ((_, x),) = read_batches({path.name: (Folder(path.parent), path.name)}, view_of_model(vae), refuse)
    return x


def refuse(error: ValueError) -> None:
    """Take a picture that cannot be read for the error that it is."""
    raise error


def view_of_model(vae: VAE) -> View:
    """How a model takes pictures, as its config says; one without a config takes them as they usually are."""
    channels, height, width = vae.image_shape
    return View(height, width, channels) if vae.config_json is None else view_of(Config.from_json(vae.config_json))


@dataclass(frozen=True)
class Batch:
    """Some pictures x (B, C, H, W) in [-1, 1], with their names."""

    names: list[str]
    x: Tensor


@contextmanager
def batches_of(
    vae: VAE, pictures: Sequence[str | Path], say: Say, what: str = "reading pictures", own_size: bool = False
) -> Iterator[Iterator[Batch]]:
    """The pictures in files and sources as a model takes them, with a progress bar; `say` hears which are no pictures.

    With `own_size` they stay as large as they are, if they are as large as the model's, and come one by one.

    Raises `ValueError` if there is none.
    """
    known = known_pictures(pictures)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=len(known))

        refused = 0

        def told(error: ValueError) -> None:
            nonlocal refused
            refused += 1
            if refused <= SHOWN:
                say(f"skipped: {printable(str(error))}")
            bar.advance(task)

        def batches() -> Iterator[Batch]:
            view = view_of_model(vae)
            reading = (replace(view, fit=OWN), told, 1) if own_size else (view, told)
            for names, x in read_batches(known, *reading):
                yield Batch(names, x)
                bar.advance(task, len(names))

        yield batches()
        if refused > SHOWN:
            say(f"and {refused - SHOWN:,} more that cannot be read")


def load(run: str | Path) -> VAE:
    """The model of a run, where it is fastest here. Raises `ValueError` for a folder without one."""
    return VAE.from_pretrained(run, available("auto"))


def means_of(vae: VAE, x: Tensor) -> Tensor:
    """The means (B, d) of the posteriors of pictures (B, C, H, W), on the CPU."""
    with evaluating(vae) as device:
        return vae.encode_unchecked(x.to(device)).mean.cpu()


def passed(vae: VAE, x: Tensor) -> tuple[Posterior, Tensor]:
    """The posteriors of pictures x (B, C, H, W), where the model is, and what it makes of their means, on the CPU."""
    with evaluating(vae) as device:
        posterior = vae.encode_unchecked(x.to(device))
        return posterior, vae.decode(posterior.mean).float().cpu()


def reconstructed(vae: VAE, x: Tensor) -> Tensor:
    """What a model makes of pictures x (B, C, H, W) from the means of their posteriors, on the CPU."""
    return passed(vae, x)[1]


def spread_of(vae: VAE) -> tuple[Tensor, Tensor] | None:
    """Mean and std (d,) of each entry over the latents of the training set; None without a Gaussian fitted to those."""
    gaussian = vae.priors.get("gaussian")
    if not isinstance(gaussian, GaussianPrior):
        return None
    return gaussian.mean, gaussian.std
