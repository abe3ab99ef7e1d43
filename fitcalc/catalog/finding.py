"""Names to profiles: ids, aliases, ambiguous short names, repositories, and the closest ids when nothing matches."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml, stems, user_folders
from fitcalc.catalog.generated import indexed
from fitcalc.catalog.names import canonical, canonical_device, closest, is_stem
from fitcalc.errors import FitcalcError, ProfileError, UnknownNameError
from fitcalc.frozen import dataclass

KINDS = ("models", "pipelines", "gpus", "cpus", "nodes", "quants", "engines", "prices")
_GROUPS = {
    "model": ("models", "pipelines"),
    "pipeline": ("pipelines",),
    "device": ("gpus", "cpus"),
    "machine": ("gpus", "cpus", "nodes"),
    "gpu": ("gpus",),
    "cpu": ("cpus",),
    "quant": ("quants",),
    "engine": ("engines",),
    **{kind: (kind,) for kind in KINDS},
}
_WORDS = {
    "quant": "quantization",
    "quants": "quantization",
    "gpu": "GPU",
    "gpus": "GPU",
    "cpu": "CPU",
    "cpus": "CPU",
    "machine": "device",
}
_LISTED_BY = {"pipelines": "models", "gpus": "devices", "cpus": "devices", "nodes": "devices"}

Keys = tuple[dict[str, str], dict[str, str]]
"""(canonical spelling -> id, canonical spelling -> note)."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a name leads: the profile's kind and id, its file, and what the user has to know about the choice."""

    kind: str
    id: str
    path: str
    note: str = ""


def ids(kind: str) -> tuple[str, ...]:
    """The ids of a kind, sorted; nothing is parsed."""
    places = [os.path.join(folder, group) for folder in _folders() for group in _kinds_of(kind)]
    return tuple(sorted({stem for place in places for stem in stems(place)}))


def resolve(kind: str, name: str) -> Found:
    """The profile that `name` means: an id, an alias, a repository, or a path to a profile file (*.toml).

    `kind` is one of KINDS, or 'model' (models and pipelines), 'device' (GPUs and CPUs), 'machine' (these and nodes),
    'gpu', 'cpu', 'quant', 'engine'. Raises UnknownNameError with the closest ids.
    """
    kinds = _kinds_of(kind)
    text = name.strip()
    if text.lower().endswith(".toml"):
        return Found(kinds[0], os.path.basename(text)[: -len(".toml")], text)
    for group in kinds:
        found = _by_id(group, text.lower()) or _by_alias(group, text) or _by_bare_name(group, text)
        if found is not None:
            return found
    raise _unknown(kind, kinds, text)


def variants(kind: str, name: str) -> tuple[str, ...]:
    """Ids that a name may mean when sizes follow it: 'RTX 3060' -> rtx-3060-12gb, rtx-3060-8gb; () for none, sorted."""
    base = key_of(kind, name)
    keys = _packaged_keys(kind)[0] | _user_keys(kind, user_folders())[0]
    sizes = re.compile(rf"{re.escape(base)}(-\d+)*")
    return tuple(sorted({profile for key, profile in keys.items() if base and sizes.fullmatch(key)}))


def known(kind: str, name: str) -> Found | None:
    """The profile that has this very name as its id or alias; None where a name would still be free."""
    text = name.strip()
    found = (_by_id(group, text.lower()) or _by_alias(group, text) for group in _kinds_of(kind))
    return next((place for place in found if place is not None), None)


def key_of(kind: str, name: str) -> str:
    """The canonical spelling of a name of this kind."""
    return canonical_device(name) if kind in ("gpus", "cpus", "nodes") else canonical(name)


def names_of(stem: str, content: dict[str, Any]) -> dict[str, str]:
    """Names a profile answers to -> the note that an ambiguous one carries ('' for the others)."""
    listed, noted = content.get("aliases"), content.get("ambiguous")
    plain = {name: "" for name in (stem, *(listed if isinstance(listed, list) else ())) if isinstance(name, str)}
    return plain | ({str(key): str(note) for key, note in noted.items()} if isinstance(noted, dict) else {})


def _folders() -> tuple[str, ...]:
    return (packaged_folder(), *user_folders())


def _kinds_of(kind: str) -> tuple[str, ...]:
    if kind not in _GROUPS:
        raise ProfileError(f"no such kind of profile: {kind!r}", hint=f"kinds are {', '.join(KINDS)}")
    return _GROUPS[kind]


def _by_id(kind: str, stem: str, *notes: str) -> Found | None:
    if not is_stem(stem):
        return None
    for folder in reversed(_folders()):
        path = os.path.join(folder, kind, f"{stem}.toml")
        if os.path.lexists(path):
            return Found(kind, stem, path, _joined(*notes, _shadow_note(kind, stem, folder)))
    return None


def _by_alias(kind: str, name: str) -> Found | None:
    key = key_of(kind, name)
    mine, packaged = _user_keys(kind, user_folders()), _packaged_keys(kind)
    if key in mine[0]:
        profile, other = mine[0][key], packaged[0].get(key, mine[0][key])
        hidden = f"{name} means your own {profile}, not {other}" if other != profile else ""
        return _by_id(kind, profile, mine[1].get(key, ""), hidden)
    if key not in packaged[0]:
        return None
    profile = packaged[0][key]
    note = packaged[1].get(key, "")
    return _by_id(kind, profile, note or _reading(kind, name, key, profile))


def _reading(kind: str, name: str, key: str, profile: str) -> str:
    """What to say when a spelling matched that could have meant something else."""
    if "/" in key and key not in indexed(f"repositories/{kind}"):
        return f"{name}: tensor shapes are those of {profile}; its own context limit may differ"
    if "." in profile and key == key_of(kind, profile) and _has_point(profile) and not _has_point(name):
        return f"{name} is read as {profile}"
    return ""


def _has_point(name: str) -> bool:
    return re.search(r"\d\.\d", name) is not None


def _by_bare_name(kind: str, name: str) -> Found | None:
    """The profile that has the repository's name under another organisation."""
    organisation, _, base = key_of(kind, name).partition("/")
    if kind not in ("models", "pipelines") or not organisation or not base:
        return None
    for keys, notes in (_user_keys(kind, user_folders()), _packaged_keys(kind)):
        if base in keys:
            note = f"{name} is not in the catalogue: taken as {keys[base]}, whose name it has"
            return _by_id(kind, keys[base], note, notes.get(base, ""))
    return None


def _shadow_note(kind: str, stem: str, folder: str) -> str:
    if folder == packaged_folder() or not os.path.exists(os.path.join(packaged_folder(), kind, f"{stem}.toml")):
        return ""
    return f"{kind}/{stem} is read from {folder}, not from fitcalc's own profiles"


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _packaged_keys(kind: str) -> Keys:
    return indexed(kind), indexed(f"notes/{kind}")


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


def _unknown(kind: str, kinds: tuple[str, ...], name: str) -> UnknownNameError:
    keys: dict[str, str] = {}
    for group in kinds:
        keys |= _packaged_keys(group)[0] | _user_keys(group, user_folders())[0]
    wanted = key_of(kinds[0], name).rpartition("/")[2]
    listing = _LISTED_BY.get(kinds[0], kinds[0])
    word = _WORDS.get(kind, kind.removesuffix("s"))
    return UnknownNameError(word, name, closest(wanted, keys), hint=f"'fitcalc {listing}' lists them all")
