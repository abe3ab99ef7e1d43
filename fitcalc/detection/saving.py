"""Keeping what was measured as the user's own profiles, so that later estimates are of this computer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from fitcalc.catalog import resolve
from fitcalc.catalog.files import config_folder, packaged_folder, read_toml
from fitcalc.catalog.validation import hold_to_form
from fitcalc.detection.known import facts
from fitcalc.detection.matching import plain_cpu_name
from fitcalc.errors import FitcalcError, ProfileError
from fitcalc.spec.detected import Detection, Measured

_MARK = "# Written by fitcalc detect --measure --save"
_AGREES = 0.15
"""A measurement that suggests a peak nearer than this to the data sheet's confirms it."""


def save_all(found: Detection, measured: Sequence[Measured]) -> tuple[str, ...]:
    """Write a profile for each device that was timed; one note per file.

    Raises ProfileError where a profile of the user's own stands in the way or the folder cannot be written.
    """
    notes: list[str] = []
    by_device: dict[str, list[Measured]] = {}
    for one in measured:
        by_device.setdefault(one.device, []).append(one)
    for device, figures in by_device.items():
        if not any(one.kind in ("read", "copy") for one in figures):
            continue
        unified = found.machine.gpus[0] if found.machine.gpus and found.machine.gpus[0].kind == "unified" else None
        if device == "cpu" and unified is not None:
            # One memory, of which a CPU cannot read all that its GPU can.
            notes += [] if len(by_device) > 1 else [f"nothing is kept: a CPU does not show what {unified.name} reads"]
            continue
        path = _saved_cpu(found, figures) if device == "cpu" else _saved_gpu(found, device, figures)
        notes.append(f"kept in {path}" if path else f"{device} has no profile of its own to keep figures in")
    return tuple(notes)


def _saved_cpu(found: Detection, figures: Sequence[Measured]) -> str:
    name = plain_cpu_name(found.cpu.name)
    if found.cpu.device is not None:
        stem, content = found.cpu.device.id, _packaged("cpus", found.cpu.device.id)
    else:
        stem, content = _stem(name), {}
    if not content:
        content = {"name": name, "vendor": "", "kind": "cpu", "segment": "custom", "aliases": [name]}
        content |= {"cores": found.cpu.cores} if found.cpu.cores else {}
    products = next((one for one in figures if one.kind == "multiply"), None)
    if products is not None and "fp32" not in content:
        content["fp32"] = _rate(products.per_s, "FLOP")
    return _written("cpus", stem, _with_read(content, figures, facts()["measure"]["cpu_share"]))


def _saved_gpu(found: Detection, name: str, figures: Sequence[Measured]) -> str:
    """The path of the GPU's profile; '' where there is none to add the figure to."""
    gpu = next((gpu for gpu in found.gpus if gpu.name == name and gpu.device and gpu.profiled), None)
    content = _packaged("gpus", gpu.device.id) if gpu and gpu.device else {}
    if gpu is None or gpu.device is None or not content:
        return ""
    return _written("gpus", gpu.device.id, _with_read(content, figures, facts()["measure"]["gpu_share"]))


def _with_read(content: dict[str, Any], figures: Sequence[Measured], share: float) -> dict[str, Any]:
    """The profile with the measured rate, and with the peak that it suggests unless the data sheet's agrees."""
    one = next(figure for figure in figures if figure.kind in ("read", "copy"))
    usual = _bytes_per_s(content.get("read_bandwidth"))
    peak = _bytes_per_s(content.get("bandwidth"))
    implied = one.per_s * peak / usual if usual and peak else one.per_s / share
    kept = peak is not None and abs(implied / peak - 1) <= _AGREES
    low, high = one.low_per_s / 1e9, one.high_per_s / 1e9
    note = f"Measured on {date.today().isoformat()}: {one.per_s / 1e9:.1f} GB/s ({low:.1f} to {high:.1f}) {one.what}"
    note += (
        "" if kept else f"; the peak is what this suggests, {'as on such boards' if usual else f'{share:.0%} of it'}"
    )
    source = content.get("source", "")
    measured = "fitcalc detect --measure"
    changed = {
        "bandwidth": content["bandwidth"] if kept else _rate(implied, "B"),
        "read_bandwidth": _rate(one.per_s, "B"),
        "source": f"{source}; {measured}" if source else measured,
        "notes": [*content.get("notes", ()), note],
    }
    return content | changed


def _packaged(kind: str, stem: str) -> dict[str, Any]:
    """The content of fitcalc's own profile, whatever the user's folders hold; {} for none."""
    path = os.path.join(packaged_folder(), kind, f"{stem}.toml")
    return read_toml(path) if os.path.exists(path) else {}


def _written(kind: str, stem: str, content: dict[str, Any]) -> str:
    folder = os.path.join(config_folder(), kind)
    path = os.path.join(folder, f"{stem}.toml")
    hold_to_form(kind, content, path)
    if os.path.lexists(path) and not _is_ours(path):
        rate = content["read_bandwidth"]
        raise ProfileError(
            f"{path} is your own profile: it is left as it is", hint=f'add read_bandwidth = "{rate}" to it'
        )
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(toml_text(content))
    except OSError as error:
        raise ProfileError(
            f"{path}: {error.strerror or error}", hint="set XDG_CONFIG_HOME to a folder of yours"
        ) from error
    _check(kind, stem)
    return path


def _check(kind: str, stem: str) -> None:
    """The new file must be what its name now leads to."""
    try:
        resolve(kind, stem)
    except FitcalcError as error:  # a defect, were it ever seen
        raise ProfileError(f"{kind}/{stem} cannot be read back: {error}", hint=error.hint) from error


def _is_ours(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().startswith(_MARK)
    except (OSError, ValueError):
        return False


def toml_text(content: dict[str, Any]) -> str:
    """A profile as TOML: scalars and lists first, then tables. JSON's strings are TOML's."""
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    lines = [_MARK, *(f"{key} = {_value(value)}" for key, value in content.items() if key not in tables)]
    for key, table in tables.items():
        lines += ["", f"[{key}]", *(f"{json.dumps(name)} = {_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _rate(per_s: float, unit: str) -> str:
    return f"{per_s / 1e9:.4g} G{unit}/s" if per_s < 1e13 else f"{per_s / 1e9:.0f} G{unit}/s"


def _bytes_per_s(text: Any) -> float | None:
    from fitcalc.units import parse_rate

    return parse_rate(text, "B") if isinstance(text, str) else None


def _stem(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "this-cpu"
