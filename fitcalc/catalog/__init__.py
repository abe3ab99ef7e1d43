"""Find, read and validate profiles: ids, aliases, did-you-mean, user folders.

An exact id opens one file; another spelling goes through profiles/index.json and opens one file. Packaged profiles are
held to their forms by the tests and built directly; files of a user's own folders go through pydantic first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from fitcalc.catalog import forms
from fitcalc.catalog.files import packaged_folder, read_toml, stems, user_folders
from fitcalc.catalog.files import use_folders as use_folders
from fitcalc.catalog.names import canonical, canonical_device, closest, is_stem
from fitcalc.errors import FitcalcError, ProfileError, UnknownNameError
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.pipeline import Pipeline
from fitcalc.spec.quant import GgmlTable, Scheme
from fitcalc.units import GIB, parse_size

KINDS = ("models", "pipelines", "gpus", "cpus", "quants", "engines")
_GROUPS = {
    "model": ("models", "pipelines"),
    "pipeline": ("pipelines",),
    "device": ("gpus", "cpus"),
    "gpu": ("gpus",),
    "cpu": ("cpus",),
    "quant": ("quants",),
    "engine": ("engines",),
    **{kind: (kind,) for kind in KINDS},
}
_LISTED_BY = {"models": "models", "pipelines": "models", "gpus": "devices", "cpus": "devices"}
_BARE_SIZE = re.compile(r"\s*\d+(\.\d+)?\s*[kmgt]i?b\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """Where a name leads: the profile's kind and id, its file, and what the user has to know about the choice."""

    kind: str
    id: str
    path: str
    note: str = ""


# --- finding ----------------------------------------------------------------------------------------------------------


def ids(kind: str) -> tuple[str, ...]:
    """The ids of a kind, sorted; nothing is parsed."""
    folders = (packaged_folder(), *user_folders())
    return tuple(
        sorted({stem for group in _kinds_of(kind) for folder in folders for stem in stems(os.path.join(folder, group))})
    )


def resolve(kind: str, name: str) -> Found:
    """The profile that `name` means: an id, an alias, a repository, or a path to a profile file (*.toml).

    `kind` is one of KINDS, or 'model' (models and pipelines), 'device' (GPUs and CPUs), 'gpu', 'cpu', 'quant',
    'engine'. Raises UnknownNameError with the closest ids.
    """
    kinds = _kinds_of(kind)
    text = name.strip()
    if text.lower().endswith(".toml"):
        return Found(kinds[0], os.path.basename(text)[: -len(".toml")], text)
    for group in kinds:
        found = _by_id(group, text.lower()) or _by_alias(group, text)
        if found is not None:
            return found
    raise _unknown(kind, kinds, text)


def _by_id(kind: str, stem: str) -> Found | None:
    if not is_stem(stem):
        return None
    for folder in (*reversed(user_folders()), packaged_folder()):
        path = os.path.join(folder, kind, f"{stem}.toml")
        if os.path.lexists(path):
            return Found(kind, stem, path, _shadow_note(kind, stem, folder))
    return None


def _by_alias(kind: str, name: str) -> Found | None:
    key = key_of(kind, name)
    for keys, notes in (_user_keys(kind, user_folders()), _packaged_keys(kind)):
        if key in keys:
            return _noted(kind, keys[key], notes.get(key, ""))
    base = key.rpartition("/")[2]
    if base == key or not base:
        return None
    for keys, notes in (_user_keys(kind, user_folders()), _packaged_keys(kind)):
        if base in keys:
            profile = keys[base]
            note = f"{name} is not in the catalogue: taken as {profile}, which has the same name"
            return _noted(kind, profile, "; ".join(part for part in (note, notes.get(base, "")) if part))
    return None


def _noted(kind: str, profile: str, note: str) -> Found | None:
    found = _by_id(kind, profile)
    if found is None:
        return None
    return replace(found, note="; ".join(part for part in (note, found.note) if part))


def _shadow_note(kind: str, stem: str, folder: str) -> str:
    if folder == packaged_folder():
        return ""
    packaged = os.path.exists(os.path.join(packaged_folder(), kind, f"{stem}.toml"))
    return f"{kind}/{stem} is read from {folder}, not from fitcalc's own profiles" if packaged else ""


def _unknown(kind: str, kinds: tuple[str, ...], name: str) -> UnknownNameError:
    keys: dict[str, str] = {}
    for group in kinds:
        keys |= _packaged_keys(group)[0] | _user_keys(group, user_folders())[0]
    wanted = key_of(kinds[0], name).rpartition("/")[2]
    word = next((single for single, group in _GROUPS.items() if group == kinds and single != kinds[0]), kind)
    listing = _LISTED_BY.get(kinds[0], kinds[0])
    return UnknownNameError(word, name, closest(wanted, keys), hint=f"'fitcalc {listing}' lists them all")


def _kinds_of(kind: str) -> tuple[str, ...]:
    if kind not in _GROUPS:
        raise ProfileError(f"no such kind of profile: {kind!r}", hint=f"kinds are {', '.join(KINDS)}")
    return _GROUPS[kind]


def key_of(kind: str, name: str) -> str:
    """The canonical spelling of a name of this kind."""
    return canonical_device(name) if kind in ("gpus", "cpus") else canonical(name)


# --- the index --------------------------------------------------------------------------------------------------------

Keys = tuple[dict[str, str], dict[str, str]]
"""(canonical spelling -> id, canonical spelling -> note)."""


@lru_cache(maxsize=1)
def _index() -> dict[str, dict[str, Any]]:
    import json

    path = os.path.join(packaged_folder(), "index.json")
    try:
        with open(path, encoding="utf-8") as file:
            index: dict[str, dict[str, Any]] = json.load(file)
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: {error}", hint="the installation is incomplete; install fitcalc again") from error
    return index


def _packaged_keys(kind: str) -> Keys:
    return _index().get(kind, {}), _index()["notes"].get(kind, {})


@cache
def _user_keys(kind: str, folders: tuple[str, ...]) -> Keys:
    """Names that the user's own profiles answer to; a broken file answers to its id only, and is reported when used."""
    keys: dict[str, str] = {}
    notes: dict[str, str] = {}
    for folder in folders:
        for stem in stems(os.path.join(folder, kind)):
            try:
                content = read_toml(os.path.join(folder, kind, f"{stem}.toml"))
            except FitcalcError:
                content = {}
            for name, note in names_of(stem, content).items():
                keys[key_of(kind, name)] = stem
                notes |= {key_of(kind, name): note} if note else {}
    return keys, notes


def names_of(stem: str, content: dict[str, Any]) -> dict[str, str]:
    """Names a profile answers to -> the note that an ambiguous one carries ('' for the others)."""
    listed, noted = content.get("aliases"), content.get("ambiguous")
    plain = {name: "" for name in (stem, *(listed if isinstance(listed, list) else ())) if isinstance(name, str)}
    return plain | ({str(key): str(note) for key, note in noted.items()} if isinstance(noted, dict) else {})


# --- reading ----------------------------------------------------------------------------------------------------------


def _content(found: Found) -> dict[str, Any]:
    """The file's content, validated when the file is not one of fitcalc's own."""
    content = read_toml(found.path)
    if os.path.dirname(os.path.dirname(found.path)) != packaged_folder():
        from fitcalc.catalog.check import check

        check(found.kind, content, found.path)
    return content


def _spec(found: Found, build: Any) -> Any:
    content = _content(found)
    try:
        return build(content)
    except ProfileError as error:
        raise ProfileError(f"{found.path}: {error}", hint=error.hint) from error


# --- loading ----------------------------------------------------------------------------------------------------------


def load_model(name: str) -> ModelSpec:
    """The model of a catalogue id, alias or repository name.

    Raises UnknownNameError, ProfileError, or what `architectures.from_config` raises.
    """
    found = resolve("models", name)
    spec: ModelSpec = _spec(found, lambda content: _model(forms.form_of("models", content), found))
    return spec


def _model(form: forms.ModelForm, found: Found) -> ModelSpec:
    from fitcalc.architectures import from_config

    spec = from_config(forms.config_of(form))
    notes = [*([found.note] if found.note else []), *form.notes, *spec.notes]
    if form.params is not None and spec.params_total != form.params and not spec.unknowns:
        notes.append(f"the tensors count {spec.params_total:,} parameters, the profile says {form.params:,}")
    return replace(
        spec,
        id=found.id,
        name=form.name,
        family=form.family or spec.family,
        hf_repo=form.hf_repo,
        quantized_repos=tuple(form.quantized_repos.items()),
        license=form.license,
        source=form.source,
        stores_tied_head=form.stores_tied_head or spec.stores_tied_head,
        published_params=form.params_published or spec.published_params,
        notes=tuple(notes),
    )


def load_device(name: str) -> Device:
    """The device of an id, an alias, or a bare size of memory ('24GB')."""
    if _BARE_SIZE.fullmatch(name):
        return device_from_size(name)
    found = resolve("device", name)
    device: Device = _spec(found, lambda content: forms.device_of(forms.form_of(found.kind, content), found.id))
    return replace(device, notes=(found.note, *device.notes)) if found.note else device


def load_scheme(name: str) -> Scheme:
    """The quantization of an id or alias; a group size may follow ('gptq-g32')."""
    from fitcalc.spec.quant import split_group, with_group

    base, group = split_group(name.strip().lower())
    try:
        found, group = resolve("quants", name), 0
    except UnknownNameError:
        if not group:
            raise
        found = resolve("quants", base)
    scheme: Scheme = _spec(found, lambda content: _scheme(content, found.id))
    return with_group(scheme, group) if group else scheme


def _scheme(content: dict[str, Any], profile: str) -> Scheme:
    from fitcalc.spec.quant import scheme_from_form

    table = load_ggml() if content["kind"] in ("gguf", "float") else None
    return scheme_from_form(content, profile, table)


@lru_cache(maxsize=1)
def load_ggml() -> GgmlTable:
    """llama.cpp's storage types and families (profiles/ggml.toml)."""
    from fitcalc.spec.quant import ggml_from_form

    return ggml_from_form(read_toml(os.path.join(packaged_folder(), "ggml.toml")))


def load_engine(name: str) -> EngineProfile:
    """The engine of an id or alias."""
    found = resolve("engines", name)
    engine: EngineProfile = _spec(found, lambda content: forms.engine_of(forms.form_of("engines", content), found.id))
    return engine


def load_pipeline(name: str) -> Pipeline:
    """The pipeline (models that run together) of an id or alias."""
    found = resolve("pipelines", name)
    pipeline: Pipeline = _spec(found, lambda content: forms.pipeline_of(forms.form_of("pipelines", content), found.id))
    return pipeline


def device_from_size(text: str) -> Device:
    """A card known by its memory only: '24GB' is sold as 24 GB, so its driver reports about 24 GiB less a reserve."""
    size = text.strip()
    number, unit = re.fullmatch(r"([\d.]+)\s*(\w+)", size).groups() if _BARE_SIZE.fullmatch(size) else ("", "")  # type: ignore[union-attr]
    # Makers count a card's GB as GiB; a unit with an i is taken at its word.
    memory_bytes = parse_size(f"{number} {unit}" if "i" in unit.lower() else f"{number} {unit[0]}iB")
    reserve_bytes = driver_reserve_bytes(memory_bytes)
    note = (
        f"{size} is taken as {memory_bytes / GIB:g} GiB less {reserve_bytes / 2**20:.0f} MiB that a driver keeps; "
        "bandwidth and compute are not known"
    )
    return Device(
        id=f"custom-{number}{unit}".lower(),
        name=f"{number} {unit} card",
        vendor="",
        kind="gpu",
        segment="custom",
        memory_bytes=memory_bytes,
        usable_bytes=max(memory_bytes - reserve_bytes, 0),
        usable_basis="derived",
        source="profiles/driver_reserve.toml",
        notes=(note,),
    )


def driver_reserve_bytes(memory_bytes: int) -> int:
    """The most that a driver keeps for itself on a card of this size (profiles/driver_reserve.toml)."""
    steps = read_toml(os.path.join(packaged_folder(), "driver_reserve.toml"))["step"]
    return next(parse_size(step["reserve"]) for step in steps if memory_bytes <= parse_size(step["up_to"]))


# --- alternatives -----------------------------------------------------------------------------------------------------


def larger_devices(device: Device) -> tuple[str, ...]:
    """Cards of the same kind, class and maker with more memory, smallest first."""
    sizes = _index()["sizes"]["gpus"]
    mine = [device.kind, device.segment, device.vendor]
    more = [
        (size, name)
        for name, (*same, size) in sizes.items()
        if same == mine and (size or 0) > (device.usable_bytes or 0)
    ]
    return tuple(name for _, name in sorted(more))


def smaller_models(model: ModelSpec) -> tuple[str, ...]:
    """Models with fewer parameters: those of the same family, largest first, then those of the same model type."""
    params = model.params_total or model.published_params or 0
    sizes = _index()["sizes"]["models"]
    ranked = [
        (family != model.family, -(count or 0), name)
        for name, (family, model_type, count) in sizes.items()
        if 0 < (count or 0) < params and (family == model.family or model_type == model.model_type)
    ]
    return tuple(name for *_, name in sorted(ranked))
