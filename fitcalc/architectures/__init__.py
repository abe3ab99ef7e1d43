"""config.json -> ModelSpec: a registry of model types, each naming the module and function that builds it.

Modules are imported when their model type is asked for, so that one fit loads one family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from fitcalc.architectures.config import DEFAULT_NOTE, Config, MissingKeyError
from fitcalc.architectures.registry import BUILDERS
from fitcalc.errors import UnsupportedModelError
from fitcalc.frozen import replace
from fitcalc.spec.model import ModelSpec


def from_config(config: Config) -> ModelSpec:
    """The ModelSpec of a config.json's content (id and name are the model_type; a profile replaces them).

    Raises ModelFileError for a key that is missing or of the wrong type, UnsupportedModelError for a model_type
    that no family here builds (`unknown.build` tells what its keys state).
    """
    # parts of image generators name their class instead
    model_type = str(config.get("model_type") or config.get("_class_name") or "")
    if config.get("model_type") != model_type:
        config = {**config, "model_type": model_type}
    place = BUILDERS.get(model_type) or _described(model_type)
    module, _, function = place.partition(":")
    built: Any = getattr(import_module(f"fitcalc.architectures.{module}"), function or "build")
    return _with_quantization(_filled(built, config, model_type), config)


def _described(model_type: str) -> str:
    """The builder of families that are described as data."""
    from fitcalc.architectures.families import is_described

    if not is_described(model_type):
        hint = "fitcalc models lists the families it knows"
        raise UnsupportedModelError(f"model_type {model_type!r:.80} is not known", hint=hint)
    return "described"


def _filled(build: Callable[[Config], ModelSpec], config: Config, model_type: str) -> ModelSpec:
    """The model, with its family's class defaults in place of sizes that the config leaves out, named in a note."""
    used: dict[str, Any] = {}
    while True:
        try:
            spec = build({**used, **config} if used else config)
        except MissingKeyError as error:
            from fitcalc.architectures.families import class_defaults

            defaults = class_defaults(model_type)
            key = next((key for key in error.keys if key in defaults and key not in {**used, **config}), None)
            if key is None:
                raise
            used[key] = defaults[key]
            continue
        if not used:
            return spec
        filled = ", ".join(f"{key} = {value}" for key, value in used.items())
        return replace(spec, notes=(*spec.notes, f"{DEFAULT_NOTE} {filled}"))


def _with_quantization(spec: ModelSpec, config: Config) -> ModelSpec:
    """The model with the scheme its checkpoint is stored in; one that is not understood makes its sizes unknown."""
    if not any("quantization" in key or "compression" in key for key in _all_keys(config)):
        return spec
    from fitcalc.architectures.quant_config import checkpoint_quant

    quant, unknown = checkpoint_quant(config)
    unknowns = (*spec.unknowns, unknown) if unknown and unknown not in spec.unknowns else spec.unknowns
    return replace(spec, quant=quant, unknowns=unknowns)


def _all_keys(config: Config) -> Iterator[str]:
    yield from config
    for value in config.values():
        if isinstance(value, Mapping):
            yield from value
