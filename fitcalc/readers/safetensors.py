"""safetensors files -> ModelSpec: one file, the shards of a set, or those that an index lists; a config.json helps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.readers.files import open_regular, size_of
from fitcalc.readers.hf_config import model_from_config, read_config
from fitcalc.readers.safetensors_header import Entry, parsed_object, read_header
from fitcalc.readers.safetensors_inventory import inventory_of
from fitcalc.readers.safetensors_joined import joined
from fitcalc.readers.safetensors_model import model_from_tensors
from fitcalc.readers.safetensors_packing import weights_of
from fitcalc.spec.model import ModelSpec

LARGEST_INDEX_BYTES = 256 * 2**20
"""The largest real ones, with an entry per expert's matrix, have some 30 MB."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.safetensors)")
_MOST_NAMED = 3
_FETCH = "fetch the missing files into the same folder"


def model_from_safetensors(path: str) -> ModelSpec:
    """The model in a safetensors file, with the other shards where it is one of a set and the config.json beside it."""
    folder, name = os.path.split(path)
    return model_from_shards([os.path.join(folder, shard) for shard in shard_names(folder, name)], name=_stem(name))


def model_from_index(path: str) -> ModelSpec:
    """The model whose shards a model.safetensors.index.json lists; missing ones are named."""
    folder = os.path.dirname(path)
    with open_regular(path) as file:
        size = size_of(file)
        if size > LARGEST_INDEX_BYTES:
            raise ModelFileError(f"{path}: {size:,} bytes", hint="this is no index of safetensors files")
        content = parsed_object(path, file.read(), "the index")
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelFileError(f"{path}: no weight_map from tensors to files", hint="is it a safetensors index?")
    shards = sorted(set(places.values()))
    outside = [name for name in shards if os.path.basename(name) != name or name in ("", ".", "..") or "\\" in name]
    if outside:
        raise ModelFileError(
            f"{path}: names {outside[0]!r:.80}, a file outside its folder", hint="this is not followed"
        )
    _hold_present(folder, shards, os.path.basename(path))
    spec = model_from_shards([os.path.join(folder, name) for name in shards], name="", expected=places)
    return replace(spec, notes=(*spec.notes, *_total_note(content.get("metadata"), spec)))


def model_from_shards(
    paths: Sequence[str], *, name: str = "", expected: dict[str, str] | None = None, config: str | None = None
) -> ModelSpec:
    """The model in a set of files. `expected` maps tensors to files as an index does; `config` is the path of the
    config.json, by default the one beside the files.

    Raises ModelFileError for a broken or incomplete set, or a config.json that cannot be read.
    """
    folder = os.path.dirname(paths[0])
    entries, file_bytes = _entries(paths)
    _hold_index(paths, entries, expected)
    _hold_no_adapter(paths[0], entries)
    beside = config or os.path.join(folder, "config.json")
    spec = _model(entries, file_bytes, beside if os.path.isfile(beside) else None, paths[0])
    has_config = os.path.isfile(beside)
    called = os.path.basename(os.path.abspath(folder)) if has_config or not name or name == "model" else name
    place = folder or "."
    return replace(spec, id=called, name=called, source=place, hf_repo=place if has_config else "")


def shard_names(folder: str, name: str) -> list[str]:
    """The set that a file belongs to, by its name; ModelFileError where part of it is missing."""
    match = _SHARD.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= 10_000:
        raise ModelFileError(f"{os.path.join(folder, name)}: no such part of a set", hint="was the file renamed?")
    shards = [f"{match['stem']}-{part:05d}-of-{count:05d}{match['end']}" for part in range(1, count + 1)]
    _hold_present(folder, shards, name)
    return shards


def _hold_present(folder: str, shards: Sequence[str], source: str) -> None:
    missing = [name for name in shards if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        named = ", ".join(missing[:_MOST_NAMED]) + more
        said = f"{len(missing)} of {len(shards)} files that {source} belongs to or names are missing: {named}"
        raise ModelFileError(f"{folder or '.'}: {said}", hint=_FETCH)


def _entries(paths: Sequence[str]) -> tuple[list[Entry], int]:
    """The tensors of all files and the bytes of the files."""
    entries: list[Entry] = []
    owner: dict[str, str] = {}
    total = 0
    for path in paths:
        header = read_header(path)
        total += header.file_bytes
        for entry in header.entries:
            if entry.name in owner:
                said = f"tensor {entry.name!r:.120} is also in {os.path.basename(owner[entry.name])}"
                raise ModelFileError(f"{path}: {said}", hint="the folder mixes two checkpoints; keep one")
            owner[entry.name] = path
        entries += header.entries
    if not entries:
        raise ModelFileError(f"{paths[0]}: holds no tensors", hint="the file is complete, but empty")
    return entries, total


def _hold_index(paths: Sequence[str], entries: Iterable[Entry], expected: dict[str, str] | None) -> None:
    if expected is None:
        return
    held = {entry.name for entry in entries}
    absent = [name for name in expected if name not in held]
    if absent:
        file = expected[absent[0]]
        said = f"{len(absent)} tensors of the index are not in the files, {absent[0]!r:.120} of {file} among them"
        raise ModelFileError(f"{os.path.dirname(paths[0]) or '.'}: {said}", hint="index and files are of two versions")


def _total_note(metadata: object, spec: ModelSpec) -> tuple[str, ...]:
    """A word where the index's own total is not what its files hold (a header apart, which it does not count)."""
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    if type(stated) is not int or spec.file_bytes is None or 0 <= spec.file_bytes - stated <= spec.file_bytes // 20:
        return ()
    return (f"the index says {stated:,} bytes, the files have {spec.file_bytes:,}: the files are counted",)


def _hold_no_adapter(path: str, entries: Sequence[Entry]) -> None:
    """A LoRA adapter holds pairs of narrow matrices: it is no model, and its base is another download."""
    ranks = [entry.shape[0] for entry in entries if "lora_A" in entry.name and len(entry.shape) == 2]
    if ranks and 2 * len(ranks) >= len(entries) - 2:
        said = f"{path}: a LoRA adapter (rank {max(ranks)}, {len(ranks)} matrices), not a model"
        raise ModelFileError(said, hint="size the model it was made for; adapter_config.json names it")


def _model(entries: Sequence[Entry], file_bytes: int, config: str | None, path: str) -> ModelSpec:
    if config is None:
        spec = model_from_tensors(inventory_of(weights_of(entries)), None, file_bytes)
        note = f"no config.json beside {os.path.basename(path)}: the model is what its tensors show"
        return replace(spec, notes=(note, *spec.notes))
    try:
        described = model_from_config(config, bounded=False)
    except UnsupportedModelError as error:
        stated = read_config(config)
        tensors = inventory_of(weights_of(entries, _bits(stated)))
        spec = model_from_tensors(tensors, stated, file_bytes)
        meant = f" ({error.hint})" if error.hint.startswith("did you mean") else ""
        return replace(spec, notes=(f"{error}{meant}: the model is what its tensors show", *spec.notes))
    bits = described.quant.bits if described.quant else 0
    return joined(described, inventory_of(weights_of(entries, bits), described.tensors), file_bytes)


def _bits(config: dict[str, object]) -> int:
    section = config.get("quantization_config")
    bits = section.get("bits") if isinstance(section, dict) else None
    return bits if type(bits) is int and 1 <= bits <= 16 else 0


def _stem(name: str) -> str:
    match = _SHARD.fullmatch(name)
    return match["stem"] if match else name.removesuffix(".safetensors")
