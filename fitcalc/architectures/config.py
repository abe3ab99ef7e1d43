"""Reading a config.json's keys: required and optional values of the right type, with the file's own words in errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.errors import ModelFileError

Config = Mapping[str, Any]
_LARGEST = 2**31


def _checked(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        hint = f"{key} has to be a whole number"
        raise ModelFileError(f"config: {key} is {value!r}", hint=hint)
    if not 0 <= value < _LARGEST:
        raise ModelFileError(f"config: {key} is {value}", hint=f"{key} has to lie between 0 and 2^31")
    return value


def integer(config: Config, *keys: str) -> int:
    """The first of `keys` that is present and not null; an error that names them when none is."""
    for key in keys:
        if config.get(key) is not None:
            return _checked(key, config[key])
    kind = config.get("model_type", "this model")
    raise ModelFileError(f"config: {' or '.join(keys)} is missing", hint=f"{kind} cannot be sized without it")


def integer_or(config: Config, key: str, default: int) -> int:
    """The value of `key`, `default` when it is missing or null (the class default of the architecture)."""
    value = config.get(key)
    return default if value is None else _checked(key, value)


def flag(config: Config, key: str, default: bool) -> bool:
    """A boolean key; `default` when it is missing or null."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ModelFileError(f"config: {key} is {value!r}", hint=f"{key} has to be true or false")
    return value


def head_dim_of(config: Config, hidden: int, heads: int, key: str = "head_dim") -> int:
    """The head dimension: its own key where present, else hidden / heads."""
    if not heads:
        raise ModelFileError("config: the number of attention heads is 0", hint="attention needs at least one head")
    return integer_or(config, key, hidden // heads)


def window_of(config: Config) -> int:
    """The sliding window in tokens; 0 when absent, null or switched off."""
    if config.get("use_sliding_window") is False:
        return 0
    return integer_or(config, "sliding_window", 0)
