"""The model card of a run: what it is, how it was made, its numbers with their protocol, and what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

from vaekit.config.priors import PRIORS
from vaekit.config.settings import Config
from vaekit.config.variants import OBJECTIVES
from vaekit.models.kept import WEIGHTS_FILE
from vaekit.models.vae import VAE
from vaekit.reports.evaluation import Evaluation
from vaekit.runs.folder import PICTURES_FILE, config_of, read_pictures
from vaekit.runs.log import last_counters
from vaekit.system.files import printable, sha256

EVALUATION_FILE = "evaluation.json"
NO_LICENCE = "The author of this model has not said under which licence it is."
LIMITS = """\
- It knows pictures like those that it was trained on; others come out as the nearest thing it knows.
- New pictures have what the training pictures had, faults and imbalances included, and may look like one of them:
  where it was measured, the table of new pictures says how many do.
- Small details (text, fingers, single hairs) are invented rather than kept."""


def model_card(run: Path, vae: VAE, name: str, licence: str | None, figures: dict[str, str]) -> str:
    """README.md for the model of a run, called `name`: numbers from its evaluation.json, if there is one.

    `figures` are names of files and what they show. Nothing in it says where on this machine anything was. Raises
    `ValueError` for a run without settings.
    """
    config = config_of(run, vae)
    parts = [
        front_matter(licence),
        f"# {name}\n\n{what_it_is(config, vae)}",
        *(f"![{shows}]({file})\n\n*{shows}*" for file, shows in figures.items()),
        f"## Use\n\n{how_to_use(name, vae)}",
        f"## Training\n\n{how_it_was_made(run, config)}",
        f"## Numbers\n\n{numbers_of(run)}",
        f"## Limits\n\n{LIMITS}",
    ]
    parts += [] if licence else [f"## Licence\n\n{NO_LICENCE}"]
    return "\n\n".join(parts) + "\n"


def front_matter(licence: str | None) -> str:
    """What the Hub reads."""
    lines = ["library_name: vaekit", "pipeline_tag: unconditional-image-generation", "tags:", "- vae", "- pytorch"]
    return "\n".join(["---", *([f"license: {licence}"] if licence else []), *lines, "---"])


def what_it_is(config: Config, vae: VAE) -> str:
    """One paragraph."""
    channels, height, width = vae.image_shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-band")
    millions = sum(p.numel() for p in vae.parameters()) / 1e6
    gan = " against a PatchGAN" if config.gan else ""
    what = "An autoencoder" if OBJECTIVES[config.objective].points else "A variational autoencoder"
    return (
        f"{what} of {kind} pictures of {height}x{width} pixels with {vae.latent_dim} latent entries "
        f"and {millions:.1f} M parameters, trained by vaekit with the objective "
        f"`{config.objective}`{gan} (preset `{config.preset}`)."
    )


def how_to_use(name: str, vae: VAE) -> str:
    """A few lines of Python."""
    priors = ", ".join(f"`{prior}` ({PRIORS[prior].summary})" for prior in vae.priors)
    return f"""```python
import vaekit

vae = vaekit.VAE.from_pretrained("{name}")
x = vaekit.read_picture("picture.jpg", vae)  # {(1, *vae.image_shape)} in [-1, 1]
x_hat = vae.decode(vae.encode(x).mean)
new = vae.sample(16)  # pictures that nobody has taken, in [-1, 1]
```

`pip install "vaekit[hub]"`. New pictures are drawn from the prior `{vae.prior_name}`; it has {priors}."""


def how_it_was_made(run: Path, config: Config) -> str:
    """Pictures, length and settings."""
    counters = last_counters(run)
    lines = []
    if (run / PICTURES_FILE).is_file():
        pictures = read_pictures(run)
        chosen = ", by a hash of their names" if config.split_by == "hash" else ""
        lines.append(
            f"- {pictures.num_images:,} pictures, {config.split:.0%} of each folder to train on{chosen} (fingerprint "
            f"`{pictures.fingerprint}`; {len(pictures.skipped):,} could not be read)"
        )
    if counters.get("images_seen"):
        minutes = counters.get("elapsed_sec", 0.0) / 60
        lines.append(f"- {counters['images_seen']:,.0f} images shown in {minutes:,.0f} minutes, seed {config.seed}")
    weights = {name: value for name, value in vars(config.weights).items() if name in config.weights_read and value}
    lines.append(f"- weights of the loss: {json.dumps(weights)}; all settings are in config.json")
    return "\n".join(lines)


def evaluation_of(run: Path) -> Evaluation | None:
    """What was measured of the model of a run; None if nothing was, or only of weights that it had before.

    Raises `ValueError` for a file that cannot be read.
    """
    path = run / EVALUATION_FILE
    if not path.is_file():
        return None
    try:
        result = Evaluation.from_json(path.read_text(encoding="utf-8"))
        of = result.protocol["model"]["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {printable(str(error))}; run vaekit evaluate again") from error
    return result if of == sha256(run / WEIGHTS_FILE) else None


def numbers_of(run: Path) -> str:
    """The tables of the evaluation and the protocol that they hold under; or that there are none."""
    result = evaluation_of(run)
    if result is None:
        return "This run was not measured: `vaekit evaluate` measures it."
    protocol = result.protocol
    versions = ", ".join(f"{name} {version}" for name, version in protocol["versions"].items())
    names = ", ".join(result.not_measured)  # and not the reasons, which may name places of this machine
    absent = f"Not measured: {names}. " if names else ""
    features = (protocol.get("features") or {}).get("network", "none")
    return (
        f"{result.markdown(notes=False)}\n\n{absent}Measured on {protocol['pictures']['num_images']:,} pictures that "
        f"were not trained on, by `vaekit evaluate` (protocol {protocol['version']}, features {features}, seed "
        f"{protocol['seed']}, "
        f"{protocol['precision']} on {protocol['device']}; {versions})."
    )
