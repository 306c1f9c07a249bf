"""What differs between two configs, and what of it a run can change on its way."""

from __future__ import annotations

import dataclasses
from typing import Any

from vaekit.config.plain import ON_RESUME, flatten, metadata_by_name
from vaekit.config.settings import Config


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Settings by dotted name whose values differ, as (old, new)."""
    before, after = flatten(dataclasses.asdict(old)), flatten(dataclasses.asdict(new))
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}


def deciding(config: Config) -> dict[str, Any]:
    """The settings by dotted name that decide what a run computes: all that are not `FREE`."""
    return {name: value for name, value in flatten(dataclasses.asdict(config)).items() if not is_free(name)}


def is_free(name: str) -> bool:
    """Whether a setting, by its dotted name, does not affect what is computed."""
    return name in ON_CHANGE and ON_CHANGE[name].free


def changes(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Those of the differences that change what a run computes: the others are `FREE`."""
    return {name: values for name, values in differences(old, new).items() if not is_free(name)}


def refusal(name: str, value: Any) -> str | None:
    """Why a run cannot change the setting `name`, by its dotted name, to `value` on its way; None if it can."""
    rule = ON_CHANGE.get(name)
    return rule.reason if rule is not None and rule.refuses(value) else None


ON_CHANGE = metadata_by_name(Config, ON_RESUME)
