"""From what a user calls a model to its ModelSpec: a catalogue name, a path, a name in a cache or on the Hub, or -."""

from __future__ import annotations

import os
from importlib import import_module

from fitcalc import arguments, catalog
from fitcalc.errors import UnknownNameError
from fitcalc.spec.model import ModelSpec

_READERS = {
    "hf-cache:": "caches:model_from_cache",
    "ollama:": "caches:model_from_cache",
    "lmstudio:": "caches:model_from_cache",
    "hf:": "hub:model_from_hub",
}
"""Start of a name -> the reader of such names."""
_GIVE_A_MODEL = "give a catalogue id, a Hugging Face repository id or the path of a model's file or folder"


def load_model(name: str | os.PathLike[str], *, online: bool = False) -> ModelSpec:
    """A model by catalogue id, alias or Hugging Face repository id, or from a path: config.json, *.gguf, *.safetensors
    (or its index), or a folder that holds them; or as another program has downloaded it: 'hf-cache:org/name',
    'ollama:name:tag', 'lmstudio:org/name'. A repository that the catalogue does not know is looked for in the Hugging
    Face cache. 'hf:org/name' (with @revision, /file or :Q4_K_M), or `online` for a repository that the catalogue does
    not list, reads headers from the Hugging Face Hub (extra 'hub'). '-' is a config.json on standard input.

    Raises RequestError for what is no name, UnknownNameError with suggestions, ModelFileError for a file that
    cannot be read, HubError where the Hub does not give it.
    """
    text = arguments.text("model", os.fspath(name) if isinstance(name, os.PathLike) else name, _GIVE_A_MODEL)
    if text == "-":
        return _read_by("stdin:model_from_stdin")
    place = next((place for start, place in _READERS.items() if text.startswith(start)), "")
    if not place and online and not is_path(text) and _is_elsewhere(text):
        place, text = _READERS["hf:"], f"hf:{text}"
    if place:
        return _read_by(place, text)
    if not is_path(text) and not isinstance(name, os.PathLike):
        try:
            found = catalog.resolve("model", text)
        except UnknownNameError as error:
            return _downloaded(text, error)
        if found.kind == "pipelines":
            from fitcalc.pipelines import pipeline_model

            return pipeline_model(text)
        return catalog.load_model(text)
    from fitcalc.readers.files import model_from_path

    return model_from_path(os.path.expanduser(text))


def _read_by(place: str, *names: str) -> ModelSpec:
    module, _, function = place.partition(":")
    spec: ModelSpec = getattr(import_module(f"fitcalc.readers.{module}"), function)(*names)
    return spec


def _is_elsewhere(name: str) -> bool:
    """A repository that the catalogue does not list under this very name."""
    from fitcalc.readers.hub_names import is_repository

    if not is_repository(name):
        return False
    try:
        return bool(catalog.resolve("model", name).note)
    except UnknownNameError:
        return True


def _downloaded(name: str, error: UnknownNameError) -> ModelSpec:
    """The repository of this name in the Hugging Face cache; `error` where it is not there."""
    from fitcalc.readers.caches import cached_snapshot, model_from_hub_cache

    if "/" in name and cached_snapshot(name) is not None:
        return model_from_hub_cache(name)
    if os.path.exists(name):
        raise UnknownNameError("model", name, hint=f"for the file or folder here, give ./{name}") from error
    if _is_elsewhere(name):
        error.hint += f"; hf:{name} asks the Hugging Face Hub"
    raise error


def is_path(name: str) -> bool:
    """A file or folder rather than a name: it ends like one, or starts with ./ ../ / or ~, or is '.'."""
    return name.endswith((".json", ".gguf", ".safetensors")) or name.startswith(("./", "../", "/", "~")) or name == "."
