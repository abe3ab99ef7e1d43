"""fitcalc: does this model fit on that hardware, how, and how fast. Public names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fitcalc.api import detect, fit, load_device
    from fitcalc.costs import cost
    from fitcalc.curves import curve
    from fitcalc.emission import emit
    from fitcalc.errors import FitcalcError
    from fitcalc.fleets.asking import capacity
    from fitcalc.grids.build import sweep
    from fitcalc.selection import compare, recommend, which
    from fitcalc.sources import load_model
    from fitcalc.spec.capacity_report import CapacityReport
    from fitcalc.spec.cost_report import CostReport
    from fitcalc.spec.hardware import Device, Machine
    from fitcalc.spec.model import ModelSpec
    from fitcalc.spec.report import FitReport
    from fitcalc.training.asking import finetune

__all__ = [
    "CapacityReport",
    "CostReport",
    "Device",
    "FitReport",
    "FitcalcError",
    "Machine",
    "ModelSpec",
    "__version__",
    "capacity",
    "compare",
    "cost",
    "curve",
    "detect",
    "emit",
    "finetune",
    "fit",
    "load_device",
    "load_model",
    "recommend",
    "sweep",
    "which",
]

_HOMES = {
    "capacity": "fitcalc.fleets.asking",
    "CapacityReport": "fitcalc.spec.capacity_report",
    "compare": "fitcalc.selection",
    "cost": "fitcalc.costs",
    "curve": "fitcalc.curves",
    "detect": "fitcalc.api",
    "finetune": "fitcalc.training.asking",
    "emit": "fitcalc.emission",
    "fit": "fitcalc.api",
    "load_model": "fitcalc.sources",
    "recommend": "fitcalc.selection",
    "which": "fitcalc.selection",
    "load_device": "fitcalc.api",
    "sweep": "fitcalc.grids.build",
    "FitcalcError": "fitcalc.errors",
    "CostReport": "fitcalc.spec.cost_report",
    "FitReport": "fitcalc.spec.report",
    "ModelSpec": "fitcalc.spec.model",
    "Device": "fitcalc.spec.hardware",
    "Machine": "fitcalc.spec.hardware",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fitcalc' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
