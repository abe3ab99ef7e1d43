"""EngineProfile: what one version of an engine reserves, rounds and supports, read from profiles/engines/."""

from __future__ import annotations

from typing import Any

from fitcalc.frozen import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Facts of an engine version. The rules that differ in kind are code in fitcalc/engines; the numbers are here."""

    id: str
    name: str
    module: str
    """The module of fitcalc.engines that turns this profile into terms."""
    version: str
    device_kinds: tuple[str, ...]
    vendors: tuple[str, ...]
    quant_kinds: tuple[str, ...]
    starts: EngineProfile | None = None
    """The engine that this one starts, whose rules then hold."""
    splits_tensors: bool = False
    """Divides the model over cards by tensor parallelism (False: by layers, or not at all)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Option name -> default value; the names are the engine's own. Where the engine chooses by device or by request,
    the default is 0 ('' for a word)."""
    request_options: dict[str, str] = field(default_factory=dict)
    """Option of the engine -> the field of Workload that already states it (max_model_len -> context_tokens)."""
    constants: dict[str, Any] = field(default_factory=dict)
    """Measured or read constants by name (bytes unless the name says otherwise)."""
    kv_types: dict[str, tuple[int, int]] = field(default_factory=dict)
    """KV cache type -> (block elements, block bytes); the first is the default."""
    min_compute_capability: str = ""
    aliases: tuple[str, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    """Constant or option name -> where its value comes from."""
    source: str = ""
