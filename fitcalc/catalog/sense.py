"""What the form of a profile cannot say: sizes that no device has, names that lead nowhere, constants that are missing.

Asked of users' files when they are read; packaged ones are held to it by the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, get_args

from fitcalc.catalog.files import packaged_folder, read_toml, stems
from fitcalc.catalog.finding import ids, resolve
from fitcalc.errors import ProfileError, UnknownNameError
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, DeviceKind, Node
from fitcalc.spec.quant import Scheme, SchemeKind
from fitcalc.units import GIB, MIB, format_gib

Flaw = tuple[str, str]
"""(field and what is wrong with it, what to try)."""

_LEAST_BYTES, _MOST_CARD_BYTES, _MOST_HOST_BYTES = 64 * MIB, 4096 * GIB, 16384 * GIB
_RATES = {"bandwidth_bytes_per_s": (10**8, 10**14), "fp16_flop_per_s": (10**9, 10**17)}
"""Field -> smallest and largest that is believed; real devices lie well inside."""
_UNIT_HINT = "is its unit right (MiB, GiB)?"


def hold_sense(kind: str, content: Mapping[str, Any], spec: Any) -> None:
    """Raise a ProfileError for the first flaw of a profile; it says how many more there are."""
    found = list(_FLAWS[kind](content, spec)) if kind in _FLAWS else []
    if found:
        said, hint = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ProfileError(f"{said}{more}", hint=hint)


def _device_flaws(_: Mapping[str, Any], device: Device) -> Iterator[Flaw]:
    most_bytes = _MOST_HOST_BYTES if device.kind == "cpu" else _MOST_CARD_BYTES
    for field in ("memory", "usable"):
        size = getattr(device, f"{field}_bytes")
        if size is not None and not _LEAST_BYTES <= size <= most_bytes:
            yield f"{field}: no device has {format_gib(size)}", _UNIT_HINT
    if device.memory_bytes and device.usable_bytes and device.usable_bytes > device.memory_bytes:
        said = f"{format_gib(device.usable_bytes)} are more than its memory of {format_gib(device.memory_bytes)}"
        yield f"usable: {said}", "a process gets at most what the driver reports"
    for field, (least, most) in _RATES.items():
        rate = getattr(device, field)
        if rate is not None and not least <= rate <= most:
            said = f"{field.partition('_')[0]}: no device has {rate:.3g} per second"
            yield said, "is its unit right (GB/s, TFLOP/s)?"


def _node_flaws(_: Mapping[str, Any], node: Node) -> Iterator[Flaw]:
    yield from _unknown("device", "device", node.device)
    if node.ram_bytes is not None and not _LEAST_BYTES <= node.ram_bytes <= _MOST_HOST_BYTES:
        yield f"ram: no host has {format_gib(node.ram_bytes)}", _UNIT_HINT


def _quant_flaws(_: Mapping[str, Any], scheme: Scheme) -> Iterator[Flaw]:
    known = ids("engines")
    for engine in scheme.engines:
        if engine not in known:
            yield f"engines: {engine!r} is no engine", f"known ones are {', '.join(known)}"
    if scheme.weight.block_elems < 1 or scheme.weight.block_bytes < 1:
        yield "weight: a block has elements and bytes", "such as block_elems = 32, block_bytes = 18"


def _engine_flaws(content: Mapping[str, Any], engine: EngineProfile) -> Iterator[Flaw]:
    modules = _engine_modules()
    if engine.module not in modules:
        yield f"module: {engine.module!r} is none of fitcalc's", f"known ones are {', '.join(sorted(modules))}"
        return
    for field, kinds in (("device_kinds", get_args(DeviceKind)), ("quant_kinds", get_args(SchemeKind))):
        for kind in getattr(engine, field):
            if kind not in kinds:
                yield f"{field}: {kind!r} is not known", f"known ones are {', '.join(kinds)}"
    for table, needed in modules[engine.module].items():
        held = content.get(table) or {}
        for name, example in needed.items():
            if name not in held:
                yield f"{table}.{name} is missing", f"copy it from fitcalc's own profile of {engine.module}"
            elif isinstance(held[name], dict) != isinstance(example, dict):
                shape = "a table" if isinstance(example, dict) else "no table"
                yield f"{table}.{name} has to be {shape}", f"as in fitcalc's own profile of {engine.module}"
    if not engine.kv_types:
        yield "kv_types is missing", "the first is the default, such as fp16 = [1, 2]"


@cache
def _engine_modules() -> dict[str, dict[str, dict[str, Any]]]:
    """Module -> table -> entries that every packaged profile of the module has."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    place = os.path.join(packaged_folder(), "engines")
    for stem in sorted(stems(place)):
        content = read_toml(os.path.join(place, f"{stem}.toml"))
        tables = {table: content.get(table, {}) for table in ("constants", "options")}
        known = found.setdefault(content["module"], tables)
        for table, entries in tables.items():
            known[table] = {name: value for name, value in known[table].items() if name in entries}
    return found


def _pipeline_flaws(content: Mapping[str, Any], _: Any) -> Iterator[Flaw]:
    for place, part in enumerate(content["components"]):
        yield from _unknown(f"components.{place}.model", "models", part["model"])
        if part.get("count", 1) < 1:
            yield f"components.{place}.count: {part['count']}", "give 1 or more"
    if not content["components"]:
        yield "components is empty", "a pipeline runs at least one model"


def _unknown(field: str, kind: str, name: str) -> Iterator[Flaw]:
    try:
        resolve(kind, name)
    except UnknownNameError as error:
        yield f"{field}: {error}", error.hint


_FLAWS: dict[str, Callable[[Mapping[str, Any], Any], Iterator[Flaw]]] = {
    "gpus": _device_flaws,
    "cpus": _device_flaws,
    "nodes": _node_flaws,
    "quants": _quant_flaws,
    "engines": _engine_flaws,
    "pipelines": _pipeline_flaws,
}
