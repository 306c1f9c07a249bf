"""The models of a comparison by name: an objective, with or without a discriminator, with settings of its own."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from vaekit.config.settings import Config, flatten, from_dict

OBJECTIVES: dict[str, dict[str, Any]] = {
    "samples": {"objective": "global", "moments": "samples"},
    "means": {"objective": "global", "moments": "means"},
    "total": {"objective": "global", "moments": "total"},
    "standard": {"objective": "standard"},
    "beta": {"objective": "beta"},
}
GAN = "+gan"
MODELS = tuple(name + gan for gan in ("", GAN) for name in OBJECTIVES)


def model_config(config: Config, model: str) -> Config:
    """The settings of a model by name, over those of all; see `compare`. Raises `ValueError` for what is unknown."""
    name, _, settings = model.partition(":")
    objective = name.removesuffix(GAN)
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown model {model!r}; choose from {', '.join(OBJECTIVES)}, each also with {GAN}")
    values = dataclasses.asdict(config) | OBJECTIVES[objective] | {"gan": name.endswith(GAN)}
    known = flatten(values)
    for setting in filter(None, settings.split(",")):
        path, equals, value = setting.partition("=")
        path = path.strip().replace("-", "_")
        if not equals or path not in known:
            raise ValueError(f"unknown setting {setting!r} of model {model!r}; settings are {', '.join(known)}")
        *groups, last = path.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        inner[last] = value if isinstance(known[path], str) else plain(value)
    return from_dict(Config, values).resolved()


def plain(text: str) -> Any:
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
