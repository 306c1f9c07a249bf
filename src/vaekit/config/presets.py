"""Settings by name: the presets, and the models of a comparison."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from vaekit.config.groups import Discriminator, Network, Optimizer, Weights
from vaekit.config.plain import flatten, from_dict
from vaekit.config.settings import Config
from vaekit.config.variants import COMPARED, GAN, OBJECTIVES, OF_DISCRIMINATOR

PAPER_NETWORK = Network(
    kind="resnetv2",
    latent_dim=512,
    heads="dense",
    channels=128,
    max_channels=128,
    encoder_blocks=2,
    decoder_blocks=2,
    norm="batch",
)


PAPER_DISCRIMINATOR = Discriminator(
    channels=(128, 128, 128, 64, 64), kernel=3, norm="batch", norm_first=True, dropout=0.25, start=0.0
)


# beta1 = 0.5 is from the author's code (the paper names none); beta2 is Keras' default.
PAPER_OPTIMIZER = Optimizer(
    kind="adamw",
    beta1=0.5,
    beta2=0.999,
    weight_decay=0.0,
    discriminator_lr=1e-4,
    warmup=0.0,
    decay="constant",
    clip=None,
)


# 24,000 training images; the author's notes speak of 300 to 400 epochs.
PAPER = Config(
    preset="paper",
    size=256,
    images=24_000 * 300,
    batch=20,
    lr=1e-4,
    network=PAPER_NETWORK,
    discriminator=PAPER_DISCRIMINATOR,
    moments="samples",
    weights=Weights(kl_individual=0.5, realism=100.0, features=0.0),
    optimizer=PAPER_OPTIMIZER,
)


RELEASED = dataclasses.replace(
    PAPER,
    preset="released",
    batch=10,
    moments="means",
    network=dataclasses.replace(PAPER_NETWORK, decoder_blocks=1, norm="frozen"),
    discriminator=dataclasses.replace(PAPER_DISCRIMINATOR, norm="frozen", norm_logits=True, dropout=0.0),
    weights=Weights(kl_individual=0.1, realism=100.0, features=0.0),
)


PRESETS = {"fast": Config(), "paper": PAPER, "released": RELEASED}


def preset(name: str = "fast", **changes: Any) -> Config:
    """The settings called `name` ("fast", "paper" or "released") with some of them changed.

    `changes` are fields of `Config`, for instance `preset("released", size=64)`. Raises `ValueError` for an unknown
    name or field, and for values that do not fit together.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    known = [setting.name for setting in dataclasses.fields(Config)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"unknown setting {', '.join(unknown)}; choose from {', '.join(known)}")
    return dataclasses.replace(PRESETS[name], **changes)


def check_all_is_read(config: Config) -> None:
    """Raise `ValueError` for a setting, other than its preset's, that has no effect in a run with `config`."""
    settings, usual = (flatten(dataclasses.asdict(each)) for each in (config, PRESETS[config.preset]))
    for name, value in settings.items():
        if value != usual[name]:
            check_is_read(config, name, value)


def check_one_length(config: Config) -> None:
    """Raise `ValueError` for a length in images, other than its preset's, beside one in minutes."""
    if config.images != PRESETS[config.preset].images:
        check_is_read(config, "images", config.images)


def check_is_read(config: Config, name: str, value: Any) -> None:
    """Raise `ValueError` for a setting, by its dotted name, that has no effect in a run with `config`."""
    why = why_unread(config, name)
    if why is not None:
        shown = f"{value:g}" if isinstance(value, float) else value
        raise ValueError(f"--{name.replace('_', '-')} {shown} has no effect{why}")


def why_unread(config: Config, name: str) -> str | None:
    """Why a setting has no effect, as the end of a sentence; None where it has one."""
    row = OBJECTIVES[config.objective]
    group, _, last = name.partition(".")
    on_objective = f" on --objective {config.objective}"
    if not config.gan and (group == "discriminator" or last in OF_DISCRIMINATOR):
        return ": there is no discriminator"
    if not config.gan and last.startswith("discriminator_") and not row.judges_latents:
        return ": there is no discriminator"
    if name == "discriminator.start" and row.needs_gan:
        return f"{on_objective}, whose discriminator is there from the first step"
    if group == "weights" and last not in config.weights_read:
        owners = " or ".join(other for other, each in OBJECTIVES.items() if last in each.weights)
        return f"{on_objective}: it is a weight of {owners}"
    owners = " or ".join(other for other, each in OBJECTIVES.items() if name in each.settings)
    if owners and name not in row.settings:
        return f"{on_objective}: it is of {owners}"
    if name == "moments" and "kl_global" not in config.weights_read:
        return on_objective
    if name == "images" and config.minutes is not None:
        return ": --minutes is the length of the run"
    if name == "network.max_channels" and config.network.kind == "resnetv2":
        return " on --network.kind resnetv2, whose stages all have --network.channels"
    if name == "optimizer.momentum" and config.optimizer.kind == "adamw":
        return " on --optimizer.kind adamw: it is Muon's"
    return None


def model_config(config: Config, model: str) -> Config:
    """`config` with the settings of `model`; see `compare`. Raises `ValueError` for an unknown model or setting."""
    name, _, settings = model.partition(":")
    objective = name.removesuffix(GAN)
    if objective not in COMPARED:
        raise ValueError(f"unknown model {model!r}; choose from {', '.join(COMPARED)}, each also with {GAN}")
    own = COMPARED[objective]
    gan = name.endswith(GAN) or OBJECTIVES[own["objective"]].needs_gan
    values = {**dataclasses.asdict(config), **own, "gan": gan}
    known = flatten(values)
    named = []
    for setting in filter(None, settings.split(",")):
        path, equals, value = setting.partition("=")
        path = path.strip().replace("-", "_")
        if not equals or path not in known:
            raise ValueError(f"unknown setting {setting!r} of model {model!r}; settings are {', '.join(known)}")
        named.append(path)
        *groups, last = path.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        inner[last] = value if isinstance(known[path], str) else plain_value(value)
    made = from_dict(Config, values).resolved()
    for path in named:
        check_is_read(made, path, flatten(values)[path])
    return made


def plain_value(text: str) -> Any:
    """The value of a setting that is no text: none, or as JSON reads it, else the text for `from_dict` to refuse."""
    if text.lower() == "none":
        return None
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError:
        return text


def folder_name(model: str) -> str:
    """A model's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", model)
