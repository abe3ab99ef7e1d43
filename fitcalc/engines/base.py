"""What every engine module hands over: a prepared plan (what does not depend on context and concurrency) and ledgers.

An engine module defines the functions of engines.contract.Engine at module level. `context_tokens` and `concurrency` of
`ledgers`, `kv_cache_bytes` and `pool` may be integer arrays: operators, least, most, ceil_div and round_up only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fitcalc.errors import UnknownNameError
from fitcalc.frozen import dataclass
from fitcalc.ledger import Input, Term
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.report import LayerShare


@dataclass(frozen=True, slots=True)
class DeviceLedger:
    """The terms on one device. `capacity_bytes` is the driver's total, `usable_bytes` what a process can get."""

    id: str
    name: str
    rank: int
    capacity_bytes: int | None
    usable_bytes: int | None
    terms: tuple[Term, ...]
    decisive: bool = True
    """False where running out is not an answer: host RAM of unknown size that only carries overhead."""
    layers: LayerShare | None = None
    """The layers on this device, for engines that place whole layers."""


@dataclass(frozen=True, slots=True)
class Pool:
    """How a paged engine counts its cache: bytes it has for KV on the tightest rank, and how many tokens that is."""

    kv_bytes: Any
    tokens: Any
    block_tokens: int


Ask = Callable[[Callable[[Any, Any], Any]], Any]
"""Puts the context and the requests at hand into a function of both and returns what that gives there: a number or a
tuple of numbers. A sweep asks for many points at once and goes on with those that answer alike."""


def at(context_tokens: int, concurrency: int) -> Ask:
    """Asks at one point."""
    return lambda question: question(context_tokens, concurrency)


def kv_block(profile: EngineProfile, kv_dtype: str) -> tuple[int, int]:
    """(elements, bytes) of one block of a KV cache type; '' is the engine's default, the first it lists."""
    types = profile.kv_types
    if not kv_dtype:
        return next(iter(types.values()))
    if kv_dtype not in types:
        from difflib import get_close_matches

        close = tuple(get_close_matches(kv_dtype, types, 3, 0.4))
        raise UnknownNameError("KV cache type", kv_dtype, close, hint=f"{profile.name} has {', '.join(types)}")
    return types[kv_dtype]


def most_requests(profile: EngineProfile) -> int | None:
    """Requests that the engine can run at once at most; None where it sets no limit of its own."""
    limit: int | None = profile.constants.get("max_sequences")
    return limit


def memory_notes(machine: Machine) -> tuple[str, ...]:
    """What is known of memory that devices share with the system: where its limit lies, how it is raised."""
    shared = (device for device in machine.gpus if device.kind == "unified")
    return tuple(dict.fromkeys(note for device in shared for note in device.notes if "memory" in note.lower()))


def repository(model: ModelSpec, scheme: Scheme) -> str:
    """The repository to load: the model's own for its own type, a known quantized one, else a visible placeholder."""
    own = model.quant.scheme if model.quant else ""
    known = dict(model.quantized_repos).get(scheme.id)
    if known:
        return known
    named = model.hf_repo and not model.hf_repo.startswith("-")
    if named and (own == scheme.id or (not own and scheme.kind == "float")):
        return model.hf_repo
    article = "an" if scheme.id[0] in "aefhilmnorsx" else "a"
    return placeholder(f"{article}-{scheme.id.upper()}-repository-of-{model.name}")


_PLAIN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")
"""What a shell takes as it stands."""


def placeholder(said: str) -> str:
    """'<said>' as something to replace by hand: one word, whatever a model's name holds."""
    return f"<{re.sub(r'[^A-Za-z0-9._-]+', '-', said)}>"


def is_placeholder(word: str) -> bool:
    """A word that `placeholder` made."""
    return word.startswith("<") and re.fullmatch(r"<[A-Za-z0-9._-]+>", word) is not None


def as_word(text: str) -> str:
    """The text as one word of a shell's command; a placeholder stays readable, for it is meant to be replaced."""
    if (text and _PLAIN_CHARACTERS.issuperset(text)) or is_placeholder(text):
        return text
    # Not at the top: hardly any word needs it.
    import shlex

    return shlex.quote(text)


def elem_bytes_of(scheme: Scheme) -> int:
    """Bytes of an element of the compute type: 4 in fp32, else 2."""
    return 4 if scheme.kind == "float" and scheme.weight.block_bytes == 4 * scheme.weight.block_elems else 2


def spread(profile: EngineProfile, name: str, constant: str, note: str = "") -> Term:
    """A measured constant with its interval: constants.<constant> = { bytes, low, high }."""
    entry = profile.constants[constant]
    source = profile.sources.get(constant, "")
    inputs = (Input(constant, entry["bytes"], source),)
    return Term(name, entry["bytes"], entry["low"], entry["high"], "estimated", constant, inputs, note)


def context_note(device: Device, note: str) -> str:
    """The note of a term `cuda_context`; it says that the term is the driver's context where that is not CUDA's."""
    return note if device.compute_capability else f"driver context: {note}"


def capability(text: str) -> tuple[int, ...]:
    """(8, 6) from '8.6'; () where a device has none."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()
