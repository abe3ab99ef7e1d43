"""A folder -> ModelSpec: a model's own folder, or one line that says what it is instead and what to give."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.readers.folder_kinds import adapter_error, diffusers_error
from fitcalc.readers.hf_config import model_from_config
from fitcalc.readers.safetensors import model_from_index, model_from_shards, shard_names
from fitcalc.spec.model import ModelSpec

__all__ = ["model_from_folder", "model_from_index"]

_MOST_ENTRIES = 20_000
_MOST_NAMED = 6
_INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_NOT_WEIGHTS = ("adapter_model.safetensors", "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt")


def model_from_folder(path: str) -> ModelSpec:
    """The model in a folder: its safetensors with the config.json beside them, a GGUF file, or a config.json alone.

    Raises ModelFileError (what else the folder is, in one line) and UnsupportedModelError (parts of a pipeline).
    """
    names, folders = _listing(path)
    if "model_index.json" in names:
        raise diffusers_error(path)
    weights = _safetensors(path, names)
    if "adapter_config.json" in names and not weights:
        raise adapter_error(path)
    if weights:
        return _from_weights(path, names, weights)
    ggufs = _ggufs(path, names)
    if ggufs:
        return _from_ggufs(path, ggufs)
    pickled = [name for name in names if name.endswith(_PICKLED) and name not in _NOT_WEIGHTS]
    if "config.json" in names:
        return _from_config(path, pickled)
    raise _no_model(path, names, folders, pickled)


def _listing(path: str) -> tuple[list[str], list[str]]:
    """(files, folders) in a folder, sorted; a link that leads nowhere is neither."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(path) as found:
            for count, entry in enumerate(found):
                if count >= _MOST_ENTRIES:
                    raise ModelFileError(f"{path}: more than {_MOST_ENTRIES:,} entries", hint="give the model's folder")
                if _is(entry.is_file):
                    files.append(entry.name)
                elif _is(entry.is_dir):
                    folders.append(entry.name)
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror or error}", hint="is the folder readable?") from error
    return sorted(files), sorted(folders)


def _is(asked: object) -> bool:
    """is_file or is_dir of an entry; False for links that loop."""
    try:
        return bool(asked())  # type: ignore[operator]
    except OSError:
        return False


def _safetensors(path: str, names: Sequence[str]) -> list[str]:
    """The files of one checkpoint: those an index or their own numbers name, else model.safetensors, else all."""
    found = [name for name in names if name.endswith(".safetensors") and name not in _NOT_WEIGHTS]
    if _INDEX in names:
        return [_INDEX]
    numbered = [name for name in found if "-of-" in name]
    if numbered:
        sets = {tuple(shard_names(path, name)) for name in numbered}
        if len(sets) > 1:
            raise _several(path, sorted(names[0] for names in sets))
        return list(sets.pop())
    if "model.safetensors" in found:
        return ["model.safetensors"]
    if len(found) > 1:
        raise _several(path, found)
    return found


def _several(path: str, names: Sequence[str]) -> ModelFileError:
    listed = ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")
    hint = f"give one of them, such as {os.path.join(path, names[0])}"
    return ModelFileError(f"{path}: several models: {listed}", hint=hint)


def _from_weights(path: str, names: Sequence[str], weights: Sequence[str]) -> ModelSpec:
    places = [os.path.join(path, name) for name in weights]
    spec = model_from_index(places[0]) if weights == [_INDEX] else model_from_shards(places)
    ggufs = [name for name in names if name.endswith(".gguf")]
    if not ggufs:
        return spec
    note = f"the folder also holds {', '.join(ggufs[:_MOST_NAMED])}: give a file's own path to size it"
    return replace(spec, notes=(*spec.notes, note))


def _ggufs(path: str, names: Sequence[str]) -> list[str]:
    """GGUF files by content, whatever they are called; projectors and later parts of a split file left out."""
    found = []
    for name in names:
        if not name.endswith((".gguf", *_PICKLED)) or "mmproj" in name.lower():
            continue
        if "-of-" in name and "-00001-of-" not in name:
            continue
        try:
            with open(os.path.join(path, name), "rb") as file:
                starts = file.read(4) in (b"GGUF", b"FUGG")
        except OSError:
            continue
        if starts or name.endswith(".gguf"):
            found.append(name)
    return found


def _from_ggufs(path: str, names: Sequence[str]) -> ModelSpec:
    if len(names) > 1:
        raise _several(path, names)
    from fitcalc.readers.files import model_from_path

    return model_from_path(os.path.join(path, names[0]))


def _from_config(path: str, pickled: Sequence[str]) -> ModelSpec:
    spec = model_from_config(os.path.join(path, "config.json"))
    if pickled:
        note = f"{pickled[0]} is a pickle and never opened: sizes follow from config.json"
        return replace(spec, notes=(*spec.notes, note))
    return spec


def _no_model(path: str, names: Sequence[str], folders: Sequence[str], pickled: Sequence[str]) -> ModelFileError:
    inner = [name for name in folders if _holds_model(os.path.join(path, name))]
    if inner:
        more = f" (also {', '.join(inner[1:_MOST_NAMED])})" if len(inner) > 1 else ""
        said = f"{path}: the model lies one folder deeper, in {inner[0]}{more}"
        return ModelFileError(said, hint=f"give {os.path.join(path, inner[0])}")
    if pickled:
        hint = "pickled weights are never opened; put the model's config.json beside them, or use safetensors"
        return ModelFileError(f"{path}: only {pickled[0]}, and no config.json", hint=hint)
    if not names and not folders and os.listdir(path):
        hint = "was the download interrupted, or the folder copied without what it links to?"
        return ModelFileError(f"{path}: only links to files that are not there", hint=hint)
    if not names and not folders:
        return ModelFileError(f"{path}: an empty folder, without a config.json", hint="was the download interrupted?")
    return ModelFileError(
        f"{path}: no config.json, *.safetensors or *.gguf in it", hint="give the folder that holds the model's files"
    )


def _holds_model(path: str) -> bool:
    try:
        names, _ = _listing(path)
    except ModelFileError:
        return False
    return any(name == "config.json" or name.endswith((".safetensors", ".gguf")) for name in names)
