"""Reading a config.json's keys: required and optional values of the right type, with the file's own words in errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fitcalc.errors import ModelFileError, UnsupportedModelError

Config = Mapping[str, Any]
_LARGEST = 2**31
_LARGEST_SIZE = 2**24
MOST_LAYERS = 10_000
DEFAULT_NOTE = "not in the config, so the class default counts:"
"""How a note starts that names the keys which the family's own defaults filled in."""


class MissingKeyError(ModelFileError):
    """A key that a config has to state is not there; `keys` are its spellings."""

    def __init__(self, keys: tuple[str, ...], kind: str) -> None:
        super().__init__(f"config: {' or '.join(keys)} is missing", hint=f"{kind} cannot be sized without it")
        self.keys = keys


def _checked(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        hint = f"{key} has to be a whole number"
        raise ModelFileError(f"config: {key} is {value!r:.40}", hint=hint)
    if not 0 <= value < _LARGEST:
        raise ModelFileError(f"config: {key} is {value}", hint=f"{key} has to lie between 0 and 2^31")
    return value


def integer(config: Config, *keys: str) -> int:
    """The first of `keys` that is present and not null; an error that names them when none is."""
    for key in keys:
        if config.get(key) is not None:
            return _checked(key, config[key])
    raise MissingKeyError(keys, str(config.get("model_type", "this model")))


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
        raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to be true or false")
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


def _bounded(config: Config, keys: tuple[str, ...], most: int) -> int:
    value = integer(config, *keys)
    if not 1 <= value <= most:
        named = next(key for key in keys if config.get(key) is not None)
        raise ModelFileError(f"config: {named} is {value}", hint=f"{named} has to lie between 1 and {most:,}")
    return value


def size(config: Config, *keys: str) -> int:
    """A width, a number of heads or a vocabulary: the first of `keys` that is present, between 1 and 2^24."""
    return _bounded(config, keys, _LARGEST_SIZE)


def layer_count(config: Config, *keys: str) -> int:
    """The number of layers: between 1 and 10,000, so that no file makes an inventory of millions of them."""
    return _bounded(config, keys or ("num_hidden_layers",), MOST_LAYERS)


def kv_heads_of(config: Config, heads: int, *keys: str) -> int:
    """Key/value heads from `keys` (num_key_value_heads); as many as heads when missing or null. Divides the heads."""
    named = next((key for key in keys or ("num_key_value_heads",) if config.get(key) is not None), None)
    if named is None:
        return heads
    kv_heads = _bounded(config, (named,), heads)
    if heads % kv_heads:
        raise ModelFileError(f"config: {named} is {kv_heads}", hint=f"{named} has to divide the {heads} heads")
    return kv_heads


def mapping(config: Config, key: str) -> Config:
    """A nested object; empty when the key is missing or null."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to be an object")
    return value


def fraction(config: Config, key: str, default: float) -> float:
    """A share between 0 and 1 (partial_rotary_factor, rotary_pct)."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ModelFileError(f"config: {key} is {value!r:.40}", hint=f"{key} has to be a number between 0 and 1")
    return float(value)


def layer_kinds(config: Config, count: int, fallback: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """The kind of each layer from `layer_types`, `fallback` when the file has none.

    Raises ModelFileError when the list does not name `count` layers, UnsupportedModelError for a kind not in `known`.
    """
    listed = config.get("layer_types")
    if listed is None:
        return tuple(fallback)
    if not isinstance(listed, list | tuple) or len(listed) != count:
        length = len(listed) if isinstance(listed, list | tuple) else "no list"
        raise ModelFileError(f"config: layer_types has {length} entries for {count} layers", hint="one entry a layer")
    strange = [kind for kind in listed if not isinstance(kind, str) or kind not in known]
    if strange:
        hint = f"this family knows {', '.join(sorted(known))}"
        raise UnsupportedModelError(f"config: layer_types holds {strange[0]!r:.40}", hint=hint)
    return tuple(listed)
