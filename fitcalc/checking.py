"""`fitcalc profiles check`: every profile of a folder held to its form and its sense, and the folder to its layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from fitcalc import catalog
from fitcalc.catalog.building import config_of
from fitcalc.catalog.files import read_toml, stems, user_folders
from fitcalc.catalog.finding import key_of, names_of
from fitcalc.catalog.names import is_stem
from fitcalc.errors import FitcalcError
from fitcalc.readers.folder_typos import misspelled

_SCHEMAS = "schema"


def check_profiles(folder: str | None = None) -> tuple[int, tuple[str, ...]]:
    """How many profiles `folder` (by default the user's own folders) holds, and a line for each thing that is wrong:
    the file, the field, and what to try."""
    checked, problems = catalog.check(folder)
    folders = user_folders() if folder is None else (folder,)
    found = [*problems]
    for place in folders:
        found += [*_strays(place), *_device_problems(place), *_model_problems(place), *_double_names(place)]
    return checked, tuple(found)


def _strays(folder: str) -> Iterator[str]:
    """Files that look like profiles and are not read, because of their name or place."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name in catalog.KINDS and os.path.isdir(path):
            for entry in sorted(os.listdir(path)):
                if (
                    entry.lower().endswith(".toml")
                    and not (entry.endswith(".toml") and is_stem(entry[:-5]))
                    and entry[0] != "."
                ):
                    hint = "a profile is named like rtx-4090.toml: lower-case letters, digits, dots, - and _"
                    yield f"{os.path.join(path, entry)}: not read ({hint})"
        elif name.endswith(".toml"):
            yield f"{path}: not read (move it into one of {', '.join(f'{kind}/' for kind in catalog.KINDS)})"
        elif os.path.isdir(path) and name != _SCHEMAS and not name.startswith(".") and _has_toml(path):
            meant = get_close_matches(name.lower(), catalog.KINDS, 1)
            hint = f"did you mean {meant[0]}/?" if meant else f"kinds are {', '.join(catalog.KINDS)}"
            yield f"{path}: not read ({hint})"


def _has_toml(path: str) -> bool:
    try:
        return any(name.endswith(".toml") for name in os.listdir(path))
    except OSError:
        return False


def _device_problems(folder: str) -> Iterator[str]:
    """CPUs among the GPUs, and the other way round."""
    for kind, other in (("gpus", "cpus"), ("cpus", "gpus")):
        for path in _paths(folder, kind):
            try:
                device = catalog.load_device(path)
            except FitcalcError:
                continue
            if (device.kind == "cpu") != (kind == "cpus"):
                yield f"{path}: kind: {device.kind!r} does not belong into {kind}/ (move the file to {other}/)"


def _model_problems(folder: str) -> Iterator[str]:
    """Counts that are not those of the tensors, and keys of a configuration that look misspelled."""
    for path in _paths(folder, "models"):
        try:
            content = read_toml(path)
            spec = catalog.load_model(path)
            typos = misspelled(config_of(content))
        except FitcalcError:
            # Told already.
            continue
        params = content.get("params")
        if params is not None and spec.tensors and not spec.unknowns and params != spec.params_total:
            hint = "is every key of the config.json there? params_published is for a count that is not exact"
            yield f"{path}: params: {params:,}, but the tensors of [config] count {spec.params_total:,} ({hint})"
        if typos:
            yield f"{path}: config: {typos} (it is not read)"


def _double_names(folder: str) -> Iterator[str]:
    """Names that two profiles of a kind claim."""
    for kind in catalog.KINDS:
        owners: dict[str, str] = {}
        for path in _paths(folder, kind):
            try:
                content = read_toml(path)
            except FitcalcError:
                continue
            stem = os.path.basename(path).removesuffix(".toml")
            names = names_of(stem, content)
            double = {name: owner for name in names if (owner := owners.setdefault(key_of(kind, name), stem)) != stem}
            if double:
                name, owner = next(iter(double.items()))
                more = f" and {len(double) - 1} more" if len(double) > 1 else ""
                yield f"{path}: aliases: {name!r}{more} also of {owner} (a name leads to one profile)"


def _paths(folder: str, kind: str) -> Sequence[str]:
    place = os.path.join(folder, kind)
    return [os.path.join(place, f"{stem}.toml") for stem in sorted(stems(place))]
