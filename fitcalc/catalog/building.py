"""From the content of a profile file to its spec: one function per kind, for packaged and users' files alike.

The content has the form of its kind (catalog.forms): packaged files are held to it by the tests, users' by pydantic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fitcalc.errors import FitcalcError, ProfileError
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Node
from fitcalc.units import parse_rate, parse_size

if TYPE_CHECKING:
    from fitcalc.spec.pipeline import Pipeline

_SIZES = {"memory": "memory_bytes", "usable": "usable_bytes", "context": "context_bytes"}
_RATES = {
    "bandwidth": ("bandwidth_bytes_per_s", "B"),
    "read_bandwidth": ("read_bandwidth_bytes_per_s", "B"),
    "fp32": ("fp32_flop_per_s", "FLOP"),
    "fp16": ("fp16_flop_per_s", "FLOP"),
    "fp16_fast": ("fp16_fast_flop_per_s", "FLOP"),
    "bf16": ("bf16_flop_per_s", "FLOP"),
    "fp8": ("fp8_flop_per_s", "FLOP"),
    "fp4": ("fp4_flop_per_s", "FLOP"),
    "int8": ("int8_op_per_s", "OP"),
    "nvlink": ("nvlink_bytes_per_s", "B"),
    "pcie": ("pcie_bytes_per_s", "B"),
}
_AS_WRITTEN = (
    "name", "vendor", "kind", "arch", "compute_capability", "isa", "usable_basis",
    "cores", "tdp_watt", "list_price_usd", "source", "node_cards",
)  # fmt: skip


def device_of(content: Mapping[str, Any], profile_id: str) -> Device:
    """The Device of a profile; raises ProfileError with the key's name for a size or rate that cannot be read."""
    values: dict[str, Any] = {key: content[key] for key in _AS_WRITTEN if key in content}
    values |= {field: _read(key, content[key], parse_size) for key, field in _SIZES.items() if key in content}
    for key, (field, unit) in _RATES.items():
        if key in content:
            values[field] = _read(key, content[key], parse_rate, unit)
    values = {"memory_bytes": None, "usable_bytes": None} | values
    notes = tuple(content.get("notes", ()))
    return Device(id=profile_id, segment=content.get("segment", "custom"), notes=notes, **values)


def node_of(content: Mapping[str, Any], profile_id: str) -> Node:
    """The Node of a profile; raises ProfileError with the key's name for a size or rate that cannot be read."""
    as_written = ("name", "device", "cards", "interconnect", "hosts", "cpu", "vcpus", "provider", "source")
    values: dict[str, Any] = {key: content[key] for key in as_written if key in content}
    rates = {"link": "link_bytes_per_s", "network": "network_bytes_per_s"}
    values |= {field: _read(key, content[key], parse_rate, "B") for key, field in rates.items() if key in content}
    if "ram" in content:
        values["ram_bytes"] = _read("ram", content["ram"], parse_size)
    cards, hosts = values["cards"], values.get("hosts", 1)
    if cards < 1 or hosts < 1 or cards % hosts:
        raise ProfileError(f"cards: {cards} are not divided evenly over {hosts} hosts", hint="both start at 1")
    return Node(id=profile_id, notes=tuple(content.get("notes", ())), **values)


def engine_of(content: Mapping[str, Any], profile_id: str, starts: EngineProfile | None = None) -> EngineProfile:
    """The EngineProfile of a profile; constants that are sizes become bytes. `starts` is the engine that it starts."""
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items() if key != "ambiguous"
    }
    types = {name: (int(elems), int(size)) for name, (elems, size) in content.get("kv_types", {}).items()}
    constants = {name: _constant(name, value) for name, value in content.get("constants", {}).items()}
    return EngineProfile(id=profile_id, **{**values, "kv_types": types, "constants": constants, "starts": starts})


def pipeline_of(content: Mapping[str, Any], profile_id: str) -> Pipeline:
    """The Pipeline of a profile."""
    from fitcalc.spec.pipeline import Component, Pipeline

    own = {key: value for key, value in content.items() if key not in ("aliases", "ambiguous", "components", "notes")}
    parts = tuple(Component(**part) for part in content["components"])
    return Pipeline(id=profile_id, components=parts, notes=tuple(content.get("notes", ())), **own)


def config_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model's profile with its nulls put back."""
    config = dict(content["config"])
    for path in content.get("null_keys", ()):
        *tables, key = path.split(".")
        place = config
        for name in tables:
            inner = place.get(name)
            if not isinstance(inner, dict):
                raise ProfileError(f"null_keys: {path!r} leads to no table of config", hint="dots step into tables")
            # Copied on the way, so that the content itself stays as read.
            place[name] = dict(inner)
            place = place[name]
        place[key] = None
    return config


def _constant(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _constant(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, str) and value[:1].isdigit() and not value.endswith("/s"):
        return _read(f"constants.{name}", value, parse_size)
    return value


def _read(name: str, text: Any, parse: Callable[..., Any], *unit: str) -> Any:
    try:
        return parse(text, *unit)
    except FitcalcError as error:
        raise ProfileError(f"{name}: {error}", hint=error.hint) from error
