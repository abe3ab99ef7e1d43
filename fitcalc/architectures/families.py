"""Families described as data: families/<model_type>.toml holds class defaults, and shapes as expressions of keys.

A file with defaults alone serves a family that has a builder of its own; one with tensors is all that a family needs.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}")


@lru_cache(maxsize=1024)
def family(model_type: str) -> Mapping[str, Any]:
    """The description of a model_type; empty where there is none."""
    if not _MODEL_TYPE.fullmatch(model_type):
        return {}
    try:
        with open(os.path.join(_FOLDER, f"{model_type}.toml"), "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}


def is_described(model_type: str) -> bool:
    """Whether a description, and not a builder, makes this family's inventory."""
    found = family(model_type)
    return "tensors" in found or "parts" in found


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """What the family's configuration class puts in place of keys that a config leaves out."""
    defaults: Mapping[str, Any] = family(model_type).get("defaults", {})
    return defaults


@lru_cache(maxsize=1)
def described_types() -> tuple[str, ...]:
    """Every model_type with a description, sorted."""
    if not os.path.isdir(_FOLDER):
        return ()
    stems = (name.removesuffix(".toml") for name in os.listdir(_FOLDER) if name.endswith(".toml"))
    return tuple(sorted(stem for stem in stems if is_described(stem)))
