"""Folders that hold no model of their own: what they are, in one line, and what to size instead."""

from __future__ import annotations

import os
from typing import Any

from fitcalc.errors import FitcalcError, ModelFileError, UnsupportedModelError
from fitcalc.readers.hf_config import read_config
from fitcalc.units import format_gib

_MOST_COMPONENTS = 12


def adapter_error(path: str) -> ModelFileError:
    """A LoRA adapter: its rank and modules, and the base model that it needs."""
    config = read_config(os.path.join(path, "adapter_config.json"))
    kind = config.get("peft_type")
    named = f"a {kind} adapter" if isinstance(kind, str) and kind.isalnum() and kind != "LORA" else "a LoRA adapter"
    rank, base = config.get("r"), config.get("base_model_name_or_path")
    words = [f"rank {rank}"] if type(rank) is int else []
    modules = config.get("target_modules")
    if isinstance(modules, list) and modules:
        words.append(f"on {', '.join(str(name) for name in modules[:4])}" + (" …" if modules[4:] else ""))
    said = f"{named}{f' ({chr(32).join(words)})' if words else ''}, not a model"
    if not isinstance(base, str) or not base:
        return ModelFileError(f"{path}: {said}", hint="size the model it was made for; its config does not name it")
    size = _adapter_bytes(path)
    more = f"; the adapter adds {format_gib(size)}" if size else ""
    return ModelFileError(f"{path}: {said}; it needs its base {base}", hint=f"fitcalc {base}{more}")


def _adapter_bytes(path: str) -> int:
    from fitcalc.readers.safetensors_header import read_header

    try:
        return read_header(os.path.join(path, "adapter_model.safetensors")).file_bytes
    except FitcalcError:
        return 0


def diffusers_error(path: str) -> UnsupportedModelError:
    """A pipeline of several models: its components with the size of their weights, and how to size one of them."""
    index = read_config(os.path.join(path, "model_index.json"))
    parts = [name for name, entry in index.items() if _is_component(entry)][:_MOST_COMPONENTS]
    sizes = {name: _weights_bytes(os.path.join(path, name)) for name in parts}
    models = [name for name in parts if sizes[name]]
    listed = ", ".join(f"{name} {format_gib(sizes[name])}" for name in models) or ", ".join(parts)
    kind = index.get("_class_name")
    said = f"{path}: {kind if isinstance(kind, str) else 'a pipeline'} runs several models together: {listed}"
    known = index.get("_name_or_path")
    hint = f"fitcalc {known} sizes it whole if the catalogue has it" if isinstance(known, str) and known else ""
    if models:
        largest = max(models, key=lambda name: sizes[name])
        hint = f"{hint}; " * bool(hint) + f"{os.path.join(path, largest)} is a folder that can be read alone"
    return UnsupportedModelError(said, hint=hint or "fitcalc models lists the pipelines it knows")


def _is_component(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)


def _weights_bytes(path: str) -> int:
    """Bytes of the safetensors files in a component's folder; of each variant (fp16, non_ema) only the plain one."""
    try:
        names = sorted(name for name in os.listdir(path) if name.endswith(".safetensors"))
    except OSError:
        return 0
    plain = [name for name in names if not any(word in name for word in (".fp16", ".non_ema", ".bf16"))] or names
    try:
        return sum(os.path.getsize(os.path.join(path, name)) for name in plain)
    except OSError:
        return 0
