"""Models that other programs have downloaded: the Hugging Face cache, Ollama's blobs, LM Studio's folder. Never online.

Names are 'hf-cache:org/name', 'ollama:name:tag' and 'lmstudio:org/name'. Each program's own environment variables for
its folder are honoured. Nothing outside those folders is opened, whatever a manifest or a reference says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from types import MappingProxyType
from typing import Any

from fitcalc.errors import ModelFileError, UnknownNameError
from fitcalc.frozen import replace
from fitcalc.readers.files import model_from_path, open_regular
from fitcalc.readers.folder import model_from_folder
from fitcalc.readers.safetensors_header import parsed_object
from fitcalc.spec.model import ModelSpec
from fitcalc.units import format_gib

_WORD = re.compile(r"[A-Za-z0-9_](?:[\w.+-]*\w)?", re.ASCII)
_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_LARGEST_MANIFEST_BYTES = 4 * 2**20
_LARGEST_REFERENCE_BYTES = 4096
_MOST_ENTRIES = 20_000
_MODEL_LAYER = "application/vnd.ollama.image.model"
_BESIDE_LAYERS = MappingProxyType(
    {"application/vnd.ollama.image.projector": "projector", "application/vnd.ollama.image.adapter": "adapter"}
)


def model_from_cache(name: str) -> ModelSpec:
    """The model of a name with a cache's prefix.

    Raises UnknownNameError with what the cache holds under similar names, ModelFileError for a broken entry.
    """
    prefix, _, inner = name.partition(":")
    return _CACHES[prefix](inner.strip())


def _words(name: str, separator: str = "/") -> list[str] | None:
    """The parts of a name, each a plain word; None for anything that could lead out of a folder."""
    parts = name.split(separator)
    return parts if all(_WORD.fullmatch(part) for part in parts) else None


def _folders(path: str) -> list[str]:
    """Folders in a folder, at most some thousands; none where it is not there."""
    try:
        with os.scandir(path) as found:
            return sorted(entry.name for entry in islice(found, _MOST_ENTRIES) if _is_dir(entry))
    except OSError:
        return []


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _unknown(what: str, name: str, known: list[str], place: str) -> UnknownNameError:
    close = tuple(get_close_matches(name, known[:_MOST_ENTRIES], 3, 0.4))
    held = f"{len(known)} model{'s' if len(known) != 1 else ''} in {place}" if known else f"nothing in {place}"
    return UnknownNameError(what, name[:200], close, hint=held)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def hub_folder() -> str:
    """The folder of the Hugging Face cache: HF_HUB_CACHE, else hub in HF_HOME, else the usual place."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return os.path.expanduser(os.environ[variable])
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")
    return os.path.join(os.path.expanduser(home), "hub")


def cached_snapshot(repo: str) -> str | None:
    """The folder of a repository's files in the Hugging Face cache; None where it is not there.

    'org/name@revision' asks for a branch, tag or commit; by default that of main, else the only one there is.
    """
    name, _, revision = repo.partition("@")
    words = _words(name)
    if words is None or len(words) > 2 or (revision and _words(revision) is None):
        return None
    base = os.path.join(hub_folder(), "--".join(("models", *words)))
    snapshots = _folders(os.path.join(base, "snapshots"))
    commit = _reference(os.path.join(base, "refs", revision or "main")) or revision
    if commit in snapshots:
        return os.path.join(base, "snapshots", commit)
    return os.path.join(base, "snapshots", snapshots[0]) if len(snapshots) == 1 and not revision else None


def _reference(path: str) -> str:
    try:
        with open_regular(path) as file:
            commit = file.read(_LARGEST_REFERENCE_BYTES).decode("ascii", "replace").strip()
    except ModelFileError:
        return ""
    return commit if _words(commit) is not None and _words(commit) == [commit] else ""


def model_from_hub_cache(repo: str) -> ModelSpec:
    """The model of a repository that has been downloaded before; its command names the repository."""
    folder = cached_snapshot(repo)
    if folder is None:
        held = [name[len("models--") :].replace("--", "/") for name in _folders(hub_folder()) if name[:8] == "models--"]
        raise _unknown("model in the Hugging Face cache", repo, held, hub_folder())
    name = repo.partition("@")[0]
    spec = model_from_folder(folder)
    called = name.rpartition("/")[2]
    return replace(spec, id=called, name=called, hf_repo=name, source=folder)


# --- Ollama -----------------------------------------------------------------------------------------------------------


def _ollama_folders() -> tuple[str, ...]:
    stated = os.environ.get("OLLAMA_MODELS")
    if stated:
        return (os.path.expanduser(stated),)
    usual = (os.path.expanduser(os.path.join("~", ".ollama", "models")), "/usr/share/ollama/.ollama/models")
    return tuple(place for place in usual if os.path.isdir(place)) or usual[:1]


def model_from_ollama(name: str) -> ModelSpec:
    """The model that Ollama runs under a name, 'llama3.1:8b', 'user/model' or 'hf.co/org/name:tag'."""
    path, _, tag = name.partition(":")
    words, tag = _words(path), tag or "latest"
    if words is None or len(words) > 3 or _words(tag) != [tag]:
        raise UnknownNameError("Ollama model", name[:200], hint="a name is model:tag, such as ollama:llama3.1:8b")
    places = ["registry.ollama.ai", "library"][: 3 - len(words)] + words
    for folder in _ollama_folders():
        manifest = os.path.join(folder, "manifests", *places, tag)
        if os.path.lexists(manifest):
            return _from_manifest(folder, manifest, name)
    held = [found for folder in _ollama_folders() for found in _ollama_names(folder)]
    raise _unknown("Ollama model", name, held, " and ".join(_ollama_folders()))


def _ollama_names(folder: str) -> Iterator[str]:
    base = os.path.join(folder, "manifests", "registry.ollama.ai", "library")
    for model in _folders(base)[:1000]:
        try:
            tags = sorted(os.listdir(os.path.join(base, model)))
        except OSError:
            continue
        yield from (f"{model}:{tag}" for tag in tags[:100])


def _from_manifest(folder: str, manifest: str, name: str) -> ModelSpec:
    with open_regular(manifest) as file:
        raw = file.read(_LARGEST_MANIFEST_BYTES)
    layers = parsed_object(manifest, raw, "the manifest").get("layers")
    listed = [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    models = [layer for layer in listed if layer.get("mediaType") == _MODEL_LAYER]
    if not models:
        hint = "models that Ollama keeps in another way than as one GGUF are not read"
        raise ModelFileError(f"{manifest}: names no GGUF of a model", hint=hint)
    spec = model_from_path(_blob(folder, manifest, models[0]))
    notes = [
        f"its {kind} takes {format_gib(size)} more and is not counted"
        for layer in listed
        for kind in [_BESIDE_LAYERS.get(str(layer.get("mediaType")))]
        for size in [layer.get("size")]
        if kind and type(size) is int and size > 0
    ]
    return replace(spec, id=name, name=name, notes=(*spec.notes, *notes))


def _blob(folder: str, manifest: str, layer: Mapping[str, Any]) -> str:
    match = _DIGEST.fullmatch(str(layer.get("digest", "")))
    if match is None:
        raise ModelFileError(f"{manifest}: the model's digest is no sha256", hint="pull the model again")
    found = [os.path.join(folder, "blobs", f"sha256{sign}{match['hex']}") for sign in "-:"]
    blob = next((path for path in found if os.path.exists(path)), "")
    if not blob:
        raise ModelFileError(
            f"{manifest}: its blob sha256-{match['hex'][:12]}… is missing", hint="pull the model again"
        )
    return blob


# --- LM Studio --------------------------------------------------------------------------------------------------------


def _lmstudio_folders() -> tuple[str, ...]:
    usual = (os.path.join("~", ".lmstudio", "models"), os.path.join("~", ".cache", "lm-studio", "models"))
    places = [os.path.expanduser(place) for place in usual]
    return tuple(place for place in places if os.path.isdir(place)) or (places[0],)


def model_from_lmstudio(name: str) -> ModelSpec:
    """The model in LM Studio's folder: 'org/name', 'org/name/file.gguf', or the name alone where only one has it."""
    words = _words(name)
    if words is None or len(words) > 3:
        raise UnknownNameError("LM Studio model", name[:200], hint="a name is org/name, as in its models folder")
    held = [(f"{owner}/{model}", os.path.join(folder, owner, model))
            for folder in _lmstudio_folders() for owner in _folders(folder)
            for model in _folders(os.path.join(folder, owner))]  # fmt: skip
    wanted = "/".join(words[:2])
    paths = [path for known, path in held if wanted in (known, known.partition("/")[2] if len(words) == 1 else known)]
    if len(paths) != 1 and not (paths and len(words) > 1):
        raise _unknown("LM Studio model", name, [known for known, _ in held], " and ".join(_lmstudio_folders()))
    if len(words) == 3:
        return model_from_path(os.path.join(paths[0], words[2]))
    return replace(model_from_folder(paths[0]), id=words[-1], name=words[-1])


_CACHES: Mapping[str, Callable[[str], ModelSpec]] = MappingProxyType(
    {"hf-cache": model_from_hub_cache, "ollama": model_from_ollama, "lmstudio": model_from_lmstudio}
)
