"""profiles/{index,parsed}.json and profiles/schema/*.json: what is generated from the profiles and their forms.

`python -m fitcalc.catalog` writes them anew; a test holds the files to what this module builds.
"""

from __future__ import annotations

import json
import os
from typing import Any
from zlib import crc32

from fitcalc.catalog.building import device_of
from fitcalc.catalog.files import parse_toml, read_toml, stems
from fitcalc.catalog.finding import KINDS, key_of, names_of
from fitcalc.catalog.generated import INDEX, PARSED
from fitcalc.catalog.prices import PACKED, book_from_file, packed
from fitcalc.catalog.quants import row_of
from fitcalc.catalog.validation import (
    SCHEMA_NAMES,
    capacity_schema,
    cost_schema,
    curve_schema,
    finetune_schema,
    report_schema,
    schema,
    selection_schemas,
)
from fitcalc.errors import ProfileError

_SHARED_NAMES = (("models", "pipelines"), ("gpus", "cpus", "nodes"), ("quants",), ("engines",))
"""Kinds whose names must not collide: one word on the command line may mean either."""


def build_index(folder: str) -> dict[str, Any]:
    """{kind: {canonical name: id}}, 'notes/KIND' of these names, 'sizes/KIND' by which alternatives are looked up, and
    'repositories/models' -> id.

    Raises ProfileError when two profiles claim one name.
    """
    # Prices are looked up by card and model, from a file of their own.
    index: dict[str, Any] = {kind: {} for kind in KINDS if kind != "prices"}
    index |= {name: {} for name in ("sizes/gpus", "sizes/models", "sizes/quants", "repositories/models")}
    for kinds in _SHARED_NAMES:
        contents = [(kind, stem, content) for kind in kinds for stem, content in _profiles(folder, kind)]
        owners: dict[str, str] = {}
        for kind, stem, content in contents:
            for name, note in names_of(stem, content).items():
                key = key_of(kind, name)
                _claim(owners, key, f"{kind}/{stem}", name)
                index[kind][key] = stem
                if note:
                    index.setdefault(f"notes/{kind}", {})[key] = note
        for key, place in _repositories(contents, owners).items():
            kind, _, stem = place.partition("/")
            index[kind][key] = stem
            if "/" not in key and _other_weights(key, key_of(kind, stem)):
                note = f"sized as {stem}, whose tensor shapes it has; the command names {stem}'s repository"
                index.setdefault(f"notes/{kind}", {})[key] = note
    for stem, content in _profiles(folder, "gpus"):
        device = device_of(content, stem)
        index["sizes/gpus"][stem] = [
            device.kind,
            device.segment,
            device.vendor,
            device.usable_bytes,
            device.list_price_usd,
        ]
    for stem, content in _profiles(folder, "quants"):
        index["sizes/quants"][stem] = row_of(content)
    for stem, content in _profiles(folder, "models"):
        counted = content.get("params") or content.get("params_published")
        if repository := content.get("hf_repo"):
            index["repositories/models"][key_of("models", repository)] = stem
        index["sizes/models"][stem] = [content.get("family", ""), content["config"].get("model_type", ""), counted]
    ordered: dict[str, Any] = _sorted(index)
    return ordered


_SAME_WEIGHTS = {"instruct", "chat", "base", "it", "hf", "meta"}
"""Words by which the names of one model's repositories differ."""


def _other_weights(name: str, profile: str) -> bool:
    """Does a name hold a word that the profile's has not (coder, hermes)? Then only the shapes are alike."""
    words = {word for word in name.split("-") if word.isalpha() and len(word) > 1}
    return bool(words - set(profile.split("-")) - _SAME_WEIGHTS)


def _claim(owners: dict[str, str], key: str, place: str, name: str) -> None:
    if not key or owners.setdefault(key, place) != place:
        raise ProfileError(f"{place} and {owners.get(key)} both answer to {name!r}", hint="a name means one profile")


def _repositories(contents: list[tuple[str, str, dict[str, Any]]], owners: dict[str, str]) -> dict[str, str]:
    """Repositories in full, and all names without their organisation, where only one profile has them."""
    places: dict[str, set[str]] = {}
    for kind, stem, content in contents:
        repository = content.get("hf_repo", "")
        names = [*names_of(stem, content), *([repository] if repository else [])]
        for key in (key_of(kind, name) for name in names):
            places.setdefault(key, set()).add(f"{kind}/{stem}")
            places.setdefault(key.rpartition("/")[2], set()).add(f"{kind}/{stem}")
    return {key: next(iter(found)) for key, found in places.items() if key not in owners and len(found) == 1}


def _profiles(folder: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    place = os.path.join(folder, kind)
    return [(stem, read_toml(os.path.join(place, f"{stem}.toml"))) for stem in sorted(stems(place))]


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


def parsed_files(folder: str) -> dict[str, Any]:
    """Path below `folder` -> [checksum of the bytes, content], of every TOML file that JSON can hold."""
    found: dict[str, Any] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".toml"):
                path = os.path.join(place, name)
                with open(path, "rb") as file:
                    raw = file.read()
                content = parse_toml(raw)
                if _is_json(content):
                    found[os.path.relpath(path, folder).replace(os.sep, "/")] = [crc32(raw), content]
    return found


def _is_json(content: Any) -> bool:
    """Not where it has dates."""
    if isinstance(content, dict | list):
        return all(map(_is_json, content.values() if isinstance(content, dict) else content))
    return isinstance(content, str | int | float)


def _by_lines(entries: dict[str, Any]) -> str:
    """JSON with every key of `entries` at the start of a line, sorted, as catalog.generated looks for them."""
    return "{\n" + ",\n".join(sorted(f"{_json(key)}:{_json(value)}" for key, value in entries.items())) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), indent=0 if isinstance(value, dict) else None)


def texts(folder: str) -> dict[str, str]:
    """Path below `folder` -> content, of every generated file."""
    files = {INDEX: _by_lines(build_index(folder)), PARSED: _by_lines(parsed_files(folder))}
    places = (os.path.join(folder, "prices", f"{stem}.toml") for stem in sorted(stems(os.path.join(folder, "prices"))))
    files[PACKED] = packed(map(book_from_file, places))
    for kind, name in SCHEMA_NAMES.items():
        files[f"schema/{name}.json"] = json.dumps(schema(kind), indent=2, ensure_ascii=False) + "\n"
    files["schema/capacity.json"] = json.dumps(capacity_schema(), indent=2, ensure_ascii=False) + "\n"
    files["schema/cost.json"] = json.dumps(cost_schema(), indent=2, ensure_ascii=False) + "\n"
    files["schema/curve.json"] = json.dumps(curve_schema(), indent=2, ensure_ascii=False) + "\n"
    files["schema/finetune.json"] = json.dumps(finetune_schema(), indent=2, ensure_ascii=False) + "\n"
    files["schema/report.json"] = json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"
    for name, content in selection_schemas().items():
        files[f"schema/{name}.json"] = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return files
