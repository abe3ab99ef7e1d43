"""The catalogue: profiles by name, read and turned into specs.

An exact id opens one file; another spelling goes through profiles/index.json and opens one file. Packaged profiles are
held to their forms by the tests and built directly; files of a user's own folders go through pydantic first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fitcalc.catalog import building
from fitcalc.catalog.files import packaged_folder, read_toml, use_folders, user_folders
from fitcalc.catalog.finding import KINDS, Found, ids, known, resolve
from fitcalc.catalog.generated import indexed
from fitcalc.catalog.names import canonical
from fitcalc.catalog.quants import QuantRow, quant_rows
from fitcalc.errors import ProfileError, UnitError, UnknownNameError
from fitcalc.frozen import replace
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Node
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import GgmlTable, Scheme
from fitcalc.units import GIB, MIB, parse_size

if TYPE_CHECKING:
    from fitcalc.spec.pipeline import Pipeline

__all__ = [
    "KINDS",
    "Found",
    "QuantRow",
    "check",
    "device_from_size",
    "ids",
    "is_bare_size",
    "known",
    "larger_devices",
    "load_device",
    "load_engine",
    "load_ggml",
    "load_model",
    "load_node",
    "load_pipeline",
    "load_scheme",
    "quant_rows",
    "resolve",
    "smaller_models",
    "summaries",
    "unusable_bytes",
    "use_folders",
]

_SAME_SERIES = 6
"""Ids that begin with as many like characters are taken for relatives (deepseek-v3, deepseek-v2)."""
_BARE_SIZE = r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(i?)b\s*"


def load_model(name: str) -> ModelSpec:
    """The model of a catalogue id, alias or repository name.

    A repository that is known by its shapes only keeps its own name in `hf_repo`. Raises UnknownNameError,
    ProfileError, or what `architectures.from_config` raises.
    """
    spec: ModelSpec = _built(resolve("models", name))
    if "/" in name and not name.lower().endswith(".toml") and canonical(name) != canonical(spec.hf_repo):
        return replace(spec, hf_repo=name.strip(), quantized_repos=())
    return spec


def _model(content: dict[str, Any], found: Found) -> ModelSpec:
    from fitcalc.architectures import from_config

    named = {"architectures": [content["model_class"]]} if content.get("model_class") else {}
    spec = from_config(named | building.config_of(content))
    notes = [*([found.note] if found.note else []), *content.get("notes", ()), *spec.notes]
    params = content.get("params")
    if params is not None and spec.params_total != params and not spec.unknowns:
        notes.append(f"the tensors count {spec.params_total:,} parameters, the profile says {params:,}")
    published = content.get("params_published") or spec.published_params
    return replace(
        spec,
        id=found.id,
        name=content["name"],
        family=content.get("family") or spec.family,
        hf_repo=content.get("hf_repo", ""),
        quantized_repos=tuple(content.get("quantized_repos", {}).items()),
        license=content.get("license", ""),
        source=content.get("source", ""),
        stores_tied_head=content.get("stores_tied_head", False) or spec.stores_tied_head,
        published_params=published or (None if spec.tensors else params),
        notes=tuple(notes),
    )


def load_device(name: str) -> Device:
    """The device of an id, an alias, or a bare size of memory ('24GB'); its first note is about the name, if any."""
    if is_bare_size(name):
        return device_from_size(name)
    device: Device = _built(resolve("device", name))
    return device


def is_bare_size(name: str) -> bool:
    """'24GB': a device known by its memory only."""
    return name.lstrip()[:1].isdecimal() and re.fullmatch(_BARE_SIZE, name, re.IGNORECASE) is not None


def load_node(name: str) -> Node:
    """The node (a server with its cards) of an id or alias."""
    node: Node = _built(resolve("nodes", name))
    return node


def load_scheme(name: str) -> Scheme:
    """The quantization of an id or alias; a group size may follow ('gptq-g32')."""
    from fitcalc.spec.quant import split_group, with_group

    try:
        found = resolve("quants", name)
    except UnknownNameError:
        base, group = split_group(name.strip().lower())
        if not group:
            raise
        return with_group(_built(resolve("quants", base)), group)
    scheme: Scheme = _built(found)
    return scheme


def _device(content: dict[str, Any], found: Found) -> Device:
    device = building.device_of(content, found.id)
    return replace(device, notes=(found.note, *device.notes)) if found.note else device


def _scheme(content: dict[str, Any], found: Found) -> Scheme:
    from fitcalc.spec.quant import scheme_from_form

    return scheme_from_form(content, found.id, load_ggml() if content["kind"] in ("gguf", "float") else None)


@lru_cache(maxsize=1)
def load_ggml() -> GgmlTable:
    """llama.cpp's storage types and families (profiles/ggml.toml)."""
    from fitcalc.spec.quant import ggml_from_form

    return ggml_from_form(read_toml(os.path.join(packaged_folder(), "ggml.toml")))


def load_engine(name: str) -> EngineProfile:
    """The engine of an id or alias."""
    engine: EngineProfile = _built(resolve("engines", name))
    return engine


def load_pipeline(name: str) -> Pipeline:
    """The pipeline (models that run together) of an id or alias."""
    pipeline: Pipeline = _built(resolve("pipelines", name))
    return pipeline


def _engine(content: dict[str, Any], found: Found) -> EngineProfile:
    """An engine with the one that it starts."""
    name = content.get("starts", "")
    try:
        if name and read_toml(resolve("engines", name).path).get("starts"):
            raise ProfileError(f"starts: {name} itself starts another engine", hint="name that other engine")
    except UnknownNameError as error:
        raise ProfileError(f"starts: {error}", hint=error.hint) from error
    return building.engine_of(content, found.id, load_engine(name) if name else None)


_BUILD: dict[str, Callable[[dict[str, Any], Found], Any]] = {
    "models": _model,
    "pipelines": lambda content, found: building.pipeline_of(content, found.id),
    "gpus": _device,
    "cpus": _device,
    "nodes": lambda content, found: building.node_of(content, found.id),
    "quants": _scheme,
    "engines": _engine,
}


def _built(found: Found) -> Any:
    """The spec of a file: one of fitcalc's own is built once, a user's is read anew and validated first."""
    if os.path.dirname(os.path.dirname(found.path)) == packaged_folder():
        return _built_once(found)
    from fitcalc.catalog.validation import hold_to_form

    content = read_toml(found.path)
    hold_to_form(found.kind, content, found.path)
    return _spec_of(content, found, sensible=True)


@lru_cache(maxsize=512)
def _built_once(found: Found) -> Any:
    return _spec_of(read_toml(found.path), found)


def _spec_of(content: dict[str, Any], found: Found, *, sensible: bool = False) -> Any:
    try:
        spec = _BUILD[found.kind](content, found)
        if sensible:
            from fitcalc.catalog.sense import hold_sense

            hold_sense(found.kind, content, spec)
        return spec
    except ProfileError as error:
        raise ProfileError(f"{found.path}: {error}", hint=error.hint) from error


def device_from_size(text: str) -> Device:
    """A card known by its memory only: '24GB' is how it is sold, in truth GiB; '24564MiB' is a driver's total.

    What no process gets comes off, the most that is seen on cards of that size.
    """
    match = re.fullmatch(_BARE_SIZE, text, re.IGNORECASE)
    if match is None:
        raise UnitError(f"{text!r} is not a size of memory", hint="write it like 24GB or 24564MiB")
    number, prefix, binary = match[1], match[2].upper(), match[3].lower()
    memory_bytes = parse_size(f"{number} {prefix}iB")
    kept_bytes = unusable_bytes(memory_bytes, sold=not binary)
    total = f"{memory_bytes / GIB:.5g} GiB"
    sold = "a driver's total" if binary else "sold"
    return Device(
        id=f"custom-{number}{prefix}{binary}b".lower(),
        name=f"{number} {prefix}{binary}B card",
        vendor="custom",
        kind="gpu",
        segment="custom",
        memory_bytes=memory_bytes,
        usable_bytes=max(memory_bytes - kept_bytes, 0),
        usable_basis="derived",
        source="profiles/driver_reserve.toml",
        notes=(
            f"{text.strip()} is taken as {total} {sold}, less {kept_bytes // MIB} MiB that no process gets "
            "(inline ECC would take 6 % more); bandwidth and compute are not known",
        ),
    )


def unusable_bytes(memory_bytes: int, *, sold: bool = False) -> int:
    """The most that no process gets of a card: of the driver's total, or of the GiB it is sold by.

    From profiles/driver_reserve.toml; never more than a sixth.
    """
    column = "of_sold" if sold else "reserve"
    steps = read_toml(os.path.join(packaged_folder(), "driver_reserve.toml"))["step"]
    step = next((step for step in steps if memory_bytes <= parse_size(step["up_to"])), steps[-1])
    return min(parse_size(step[column]), memory_bytes // 6)


def larger_devices(device: Device) -> tuple[str, ...]:
    """Cards of the same kind, class and maker with more memory: fewest GiB first, of those the cheapest at launch."""
    mine = [device.kind, device.segment, device.vendor]
    more = [
        (round(size / GIB), price is None, price, name)
        for name, (*same, size, price) in indexed("sizes/gpus").items()
        if same == mine and (size or 0) > (device.usable_bytes or 0)
    ]
    return tuple(name for *_, name in sorted(more, key=lambda card: (card[0], card[1], card[2] or 0, card[3])))


def smaller_models(model: ModelSpec) -> tuple[str, ...]:
    """Models with clearly fewer parameters: first those whose ids begin most like its own, then of its model type."""
    rows = [
        (count, name)
        for name, (family, model_type, count) in indexed("sizes/models").items()
        if count
        and (family == model.family or model_type == model.model_type or _alike(name, model.id) >= _SAME_SERIES)
    ]
    params = model.params_total or model.published_params or 0
    related = _thinned(sorted(rows, key=lambda row: (-_alike(row[1], model.id), -row[0])), params)
    others = _thinned(sorted((row for row in rows if row[1] not in related), reverse=True), params)
    return (*related, *others)


def _alike(name: str, other: str) -> int:
    """Characters that two ids have in common at the start."""
    return next(
        (place for place, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other))
    )


def _thinned(rows: Sequence[tuple[int, str]], params: int) -> list[str]:
    """Names in steps of at least a quarter down from `params`, so that a search through them stays short."""
    names: list[str] = []
    for count, name in rows:
        if count <= params * 0.75:
            names.append(name)
            params = count
    return names


def summaries(kind: str) -> list[dict[str, Any]]:
    """One row per profile of a kind, for lists: id, name and the columns that tell its profiles apart."""
    from fitcalc.catalog.listing import rows

    return rows(kind)


def check(folder: str | None = None) -> tuple[int, tuple[str, ...]]:
    """How many profiles `folder` (by default the user's own folders) holds, and one line for each that is wrong."""
    from fitcalc.catalog.prices import book_from_file
    from fitcalc.catalog.validation import problems_in

    load = {
        "models": load_model,
        "pipelines": load_pipeline,
        "gpus": load_device,
        "cpus": load_device,
        "nodes": load_node,
        "quants": load_scheme,
        "engines": load_engine,
        "prices": book_from_file,
    }
    return problems_in(user_folders() if folder is None else (folder,), load)
