"""Settings as plain values: checked one by one, flattened to dotted names, written to and read from JSON."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal


def nearest_multiple(value: int, multiple: int) -> int:
    """The multiple nearest to `value`, at least one."""
    return max(1, round(value / multiple)) * multiple


def check_at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:
        raise ValueError(f"{name} is {value}; it must be at least {lowest}")


def check_above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be above zero, and finite")


def check_between(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; it must lie between {lowest} and {highest}")


@dataclass(frozen=True)
class OnResume:
    """How a resumed run may change a setting; without this metadata, only where the caller allows changes.

    `free`: the setting may always change, since it does not affect what is computed. With a `reason` the run cannot
    change it: to no other value at all, or, where `values` are given, to none of those.
    """

    free: bool = False
    reason: str = ""
    values: tuple[Any, ...] = ()

    def refuses(self, value: Any) -> bool:
        """Whether the run cannot take `value`."""
        return bool(self.reason) and (not self.values or value in self.values)


ON_RESUME = "on_resume"  # the key of the metadata of a field
FREE = {ON_RESUME: OnResume(free=True)}


def fixed(reason: str, *values: Any) -> dict[str, OnResume]:
    """Metadata of a setting that a run cannot change once it has begun, or cannot change to one of `values`."""
    return {ON_RESUME: OnResume(reason=reason, values=values)}


def metadata_by_name(cls: Any, key: str, prefix: str = "") -> dict[str, Any]:
    """What the metadata of a (nested) dataclass hold under `key`, by dotted name; that of a group is for all in it."""
    hints = typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    for setting in dataclasses.fields(cls):
        name, group = prefix + setting.name, hints[setting.name]
        inner = [name]
        if dataclasses.is_dataclass(group):
            inner = [f"{name}.{field.name}" for field in dataclasses.fields(group)]
            found |= metadata_by_name(group, key, f"{name}.")
        if key in setting.metadata:
            found |= dict.fromkeys(inner, setting.metadata[key])
    return found


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def from_dict(cls: Any, values: Any, prefix: str = "") -> Any:
    """Build a (nested) dataclass from plain JSON values, checking names and types."""
    if not isinstance(values, dict):
        raise ValueError(f"not a vaekit config: {prefix or 'the file'} holds no settings but {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"unknown setting in config: {', '.join(prefix + name for name in unknown)}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = from_dict(hints[name], value, f"{prefix}{name}.")
            continue
        value = tuple(value) if isinstance(value, list) else value
        if not fits(value, hints[name]):
            raise ValueError(f"setting {prefix}{name} is {value!r}, not {in_words(hints[name])}")
        arguments[name] = value
    return cls(**arguments)


def in_words(hint: Any) -> str:
    """What values a type of a setting has, for people."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, arguments))
    if typing.get_origin(hint) is tuple:
        return f"{len(arguments)} values"
    if arguments:
        return " or ".join(map(in_words, arguments))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    return words.get(hint, str(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has the type of a setting: numbers, text, None, choices and tuples of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, argument) for argument in arguments)
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(arguments)
            and all(fits(item, argument) for item, argument in zip(value, arguments, strict=True))
        )
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
