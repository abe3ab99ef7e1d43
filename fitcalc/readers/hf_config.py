"""config.json on disk -> ModelSpec. One line for everything that can be wrong with the file."""

from __future__ import annotations

import json
import os
import stat
from typing import Any, NoReturn

from fitcalc.architectures import from_config
from fitcalc.architectures.config import DEFAULT_NOTE
from fitcalc.architectures.families import described_types
from fitcalc.architectures.registry import BUILDERS
from fitcalc.errors import ModelFileError, UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.readers.folder_typos import misspelled, similar_type
from fitcalc.spec.model import ModelSpec

LARGEST_CONFIG_BYTES = 16 * 2**20
"""The largest real ones (with a module list per tensor) are below 1 MiB."""
_QUANT_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files that exporters write beside a config.json which says nothing of quantization -> the method of the exporter."""


def read_config(path: str) -> dict[str, Any]:
    """The JSON object in a file; ModelFileError for anything that is not one."""
    return parsed_config(_bounded_bytes(path), path)


def parsed_config(raw: bytes, path: str) -> dict[str, Any]:
    """The JSON object in the bytes that were read from `path`; ModelFileError for anything that is not one."""
    try:
        content = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: not UTF-8 at byte {error.start}", hint="a config.json is UTF-8 text") from error
    except RecursionError as error:
        raise ModelFileError(f"{path}: nested too deeply", hint="this is not a model's config.json") from error
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}", hint="it is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: holds a {type(content).__name__}, not an object", hint="is it a config.json?")
    return content


def model_from_config(path: str, *, bounded: bool = True) -> ModelSpec:
    """The model that a config.json describes; its id is the folder's name (or the file's, if that says more).

    `bounded` as in `described`.
    """
    config = _with_quant_file(read_config(path), path)
    spec = described(config, path, bounded=bounded)
    stem = os.path.basename(path).removesuffix(".json")
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    name = folder if stem == "config" and folder else stem
    repo = config.get("_name_or_path")
    return replace(spec, id=name, name=name, hf_repo=repo if isinstance(repo, str) else "", source=path)


def _with_quant_file(config: dict[str, Any], path: str) -> dict[str, Any]:
    """The config with the quantization that an exporter has written into a file of its own beside it."""
    if os.path.basename(path) != "config.json" or any("quantization" in key for key in config):
        return config
    for name, method in _QUANT_FILES.items():
        beside = os.path.join(os.path.dirname(path), name)
        if os.path.isfile(beside):
            said = read_config(beside)
            nested = said.get("quantization")
            section = nested if isinstance(nested, dict) else said
            return {**config, "quantization_config": {"quant_method": method, **section}}
    return config


def described(config: dict[str, Any], path: str, *, bounded: bool = False) -> ModelSpec:
    """The model of a configuration that was read from `path`, which errors name; misspelled keys are noted.

    A model that no family builds is an UnsupportedModelError; with `bounded` it is what its keys state, the rest of it
    unknown, unless its model_type is nearly that of a family.
    """
    try:
        spec = from_config(config)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}", hint=misspelled(config) or error.hint) from error
    except UnsupportedModelError as error:
        spec = _unknown(config, path, _with_hint(error, config), bounded=bounded)
    looks = misspelled(config)
    if looks and any(note.startswith(DEFAULT_NOTE) for note in spec.notes):
        raise ModelFileError(f"{path}: config: {looks.rpartition(' ')[2]} is missing", hint=looks)
    if looks:
        return replace(spec, notes=(*spec.notes, f"{os.path.basename(path)}: {looks} and is not read"))
    return spec


def _with_hint(error: UnsupportedModelError, config: dict[str, Any]) -> UnsupportedModelError:
    """The error, with the family that a misspelled model_type is close to."""
    kind, families = str(config.get("model_type", "")), (*BUILDERS, *described_types())
    close = similar_type(kind, families) if kind not in families else ""
    return UnsupportedModelError(str(error), hint=f"did you mean {close}?" if close else error.hint)


def _unknown(config: dict[str, Any], path: str, error: UnsupportedModelError, *, bounded: bool) -> ModelSpec:
    if not bounded or error.hint.startswith("did you mean"):
        raise error
    from fitcalc.architectures import unknown

    try:
        return unknown.build(config, error)
    except ModelFileError as wrong:
        raise ModelFileError(f"{path}: {wrong}", hint=wrong.hint) from wrong


def _bounded_bytes(path: str) -> bytes:
    try:
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode):
            raise ModelFileError(f"{path}: not a regular file", hint="give the path of a config.json")
        if mode.st_size > LARGEST_CONFIG_BYTES:
            hint = f"a config.json has at most {LARGEST_CONFIG_BYTES // 2**20} MiB"
            raise ModelFileError(f"{path}: {mode.st_size:,} bytes", hint=hint)
        with open(path, "rb") as file:
            return file.read(LARGEST_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileError(f"{path}: {reason}", hint="is the file there and readable?") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r:.80} appears twice")
        found[key] = value
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")
