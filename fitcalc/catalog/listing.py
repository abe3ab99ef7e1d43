"""Rows for lists of profiles (`fitcalc models`, `devices`, `quants`, `engines`): reads every file of a kind."""

from __future__ import annotations

from typing import Any

from fitcalc.catalog.files import read_toml
from fitcalc.catalog.finding import Found, ids, resolve
from fitcalc.errors import FitcalcError

_COLUMNS = {
    "models": ("name", "family", "params", "params_active", "hf_repo"),
    "pipelines": ("name", "components"),
    "gpus": ("name", "vendor", "kind", "segment", "memory", "usable", "bandwidth"),
    "cpus": ("name", "vendor", "kind", "segment", "memory", "usable", "bandwidth"),
    "nodes": ("name", "device", "cards", "interconnect", "ram", "network", "provider"),
    "quants": ("name", "kind", "bits", "method", "engines"),
    "engines": ("name", "version", "device_kinds", "quant_kinds"),
    "prices": ("name", "provider"),
}


def rows(kind: str) -> list[dict[str, Any]]:
    """A dict per profile: id and the columns of its kind, as written in the file; a broken user file says so."""
    found = [resolve(kind, profile) for profile in ids(kind)]
    return [{"id": place.id, **_columns(place)} for place in found]


def _columns(found: Found) -> dict[str, Any]:
    try:
        content = read_toml(found.path)
    except FitcalcError as error:
        return dict.fromkeys(_COLUMNS[found.kind]) | {"name": str(error)}
    row = {column: content.get(column) for column in _COLUMNS[found.kind]}
    if found.kind == "models":
        config = content.get("config", {})
        row["params"] = row["params"] or content.get("params_published")
        row["model_type"] = config.get("model_type") or config.get("_class_name", "")
    if found.kind == "pipelines":
        row["components"] = [part.get("model") for part in row["components"] or []]
    return row
