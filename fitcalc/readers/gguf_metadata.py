"""Typed look-ups in a GGUF header: exact keys of the file's architecture, bounded numbers, one or one per layer."""

from __future__ import annotations

import re
from typing import NamedTuple

from fitcalc.errors import ModelFileError
from fitcalc.readers.gguf_header import Array, Value

_LARGEST = 2**31 - 1
_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Metadata(NamedTuple):
    """The key-value pairs of a file and the architecture whose keys are meant."""

    values: dict[str, Value]
    architecture: str


def metadata_of(values: dict[str, Value]) -> Metadata:
    """The metadata with its architecture; ModelFileError where a file does not name one."""
    found = values.get("general.architecture")
    if not isinstance(found, str) or not _ARCHITECTURE.fullmatch(found):
        hint = "every model's GGUF names its architecture; is it a vocabulary or an imatrix alone?"
        raise ModelFileError(f"general.architecture is {_shown(found)}", hint=hint)
    return Metadata(values, found)


def _shown(value: Value) -> str:
    return (
        "missing"
        if value is None
        else f"an array of {value.length:,}"
        if isinstance(value, Array)
        else f"{value!r:.60}"
    )


def whole(value: Value, key: str) -> int:
    """A whole number that a model can have; ModelFileError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFileError(f"{key} is {_shown(value)}", hint="a whole number is expected")
    if not 0 <= value <= _LARGEST:
        raise ModelFileError(f"{key} is {value:,}", hint="no model has such a number")
    return value


def has(metadata: Metadata, name: str) -> bool:
    """Is there a value of this name for the architecture?"""
    return f"{metadata.architecture}.{name}" in metadata.values


def integer(metadata: Metadata, name: str, default: int | None = None) -> int:
    """The number under `name`; without a default it has to be there."""
    key = f"{metadata.architecture}.{name}"
    if default is not None and key not in metadata.values:
        return default
    return whole(metadata.values.get(key), key)


def per_layer(metadata: Metadata, name: str, layers: int, default: int | None = None) -> tuple[int, ...]:
    """The number under `name` for every layer: one for all, or an array of `layers`."""
    key = f"{metadata.architecture}.{name}"
    value = metadata.values.get(key)
    if not isinstance(value, Array):
        return (integer(metadata, name, default),) * layers
    return tuple(whole(each, key) for each in _listed(value, key, layers))


def flags(metadata: Metadata, name: str, layers: int) -> tuple[bool, ...] | None:
    """Yes or no for every layer; None where there is no array of that name."""
    key = f"{metadata.architecture}.{name}"
    value = metadata.values.get(key)
    return tuple(bool(each) for each in _listed(value, key, layers)) if isinstance(value, Array) else None


def _listed(value: Array, key: str, layers: int) -> tuple[int | float | bool, ...]:
    if value.values is None or value.length < layers:
        raise ModelFileError(
            f"{key} lists {value.length:,} values for {layers} layers", hint="one per layer is expected"
        )
    return value.values[:layers]


def word(metadata: Metadata, name: str) -> str:
    """The text under `name`, '' where there is none."""
    value = metadata.values.get(f"{metadata.architecture}.{name}")
    return value if isinstance(value, str) else ""


def number(metadata: Metadata, name: str, default: float) -> float:
    """The number under `name`, which may have a fraction."""
    value = metadata.values.get(f"{metadata.architecture}.{name}", default)
    finite = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
    return float(value) if finite and isinstance(value, int | float) else default
