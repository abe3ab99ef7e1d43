"""What an engine was fitted to reach on a class of devices: profiles/speed, one file per family of engines.

A file has tables [decode.CLASS], [prefill.CLASS], [loop.CLASS] and [offline.CLASS] of Parameters, with a class `any`
for devices without records of their own, and [interval.QUANTITY.CLASS] with the factors that held-out records earned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml
from fitcalc.frozen import dataclass
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.report import Estimate
from fitcalc.speeds.steps import Parameters

DEFAULT = "default"
"""The file for engines without records: all engines pooled."""
ANY, UNSEEN = "any", "unseen"


@dataclass(frozen=True, slots=True)
class Found:
    """Parameters, and how near they are: the class they were fitted for ('any' for the family's)."""

    parameters: Parameters
    device_class: str


@lru_cache(maxsize=8)
def _content(name: str) -> dict[str, Any]:
    path = os.path.join(packaged_folder(), "speed", f"{name}.toml")
    if not os.path.isfile(path):
        return _content(DEFAULT)
    content = read_toml(path)
    other = content.get("same_as")
    return _content(other) | {"is_other": True} if other else content


def family_of(engine: EngineProfile) -> dict[str, Any]:
    """The content of the engine's file, of the engine's that it starts, or of the pooled one."""
    return _content((engine.starts or engine).module)


def parameters(family: Mapping[str, Any], kind: str, device_class: str, variants: tuple[str, ...] = ()) -> Found | None:
    """The most specific parameters of a kind; None where the family has none of it.

    `variants` are what a class may be parted by: how weights are stored, the generation of the device.
    """
    tables: Mapping[str, Any] = family.get(kind, {})
    for name in (*(f"{device_class}:{variant}" for variant in variants), device_class, _side(device_class), ANY):
        if name in tables:
            values = {key: value for key, value in tables[name].items() if key != "records"}
            return Found(Parameters(**values), device_class if name.startswith(device_class) else ANY)
    return None


def _side(device_class: str) -> str:
    """CPUs have parameters of their own kind, devices of any other class share the rest."""
    return "any-cpu" if device_class in ("cpu", "board") else ANY


def interval(family: Mapping[str, Any], quantity: str, found: Found, value: float) -> Estimate:
    """The value with the range that 80 % of held-out measurements fell in, wider where nothing alike was seen."""
    tables: Mapping[str, Any] = family["interval"][quantity]
    name = UNSEEN if found.device_class == ANY or family.get("is_other") else found.device_class
    low, high = tables.get(name, tables.get(ANY, tables[UNSEEN]))
    return Estimate(value, value * low, value * high)
