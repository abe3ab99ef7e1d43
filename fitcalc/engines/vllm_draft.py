"""Speculative decoding in vLLM: what proposes tokens, its weights, and the cache layers that it adds to the pool.

`speculative_config` is vLLM's own option: JSON with method, model and num_speculative_tokens. Multi-token-prediction
layers (method mtp) are the model's own, left out of the weights otherwise; a draft model is one by name; n-grams need
neither weights nor cache.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fitcalc.engines import shards
from fitcalc.engines.shards import Rank
from fitcalc.errors import RequestError
from fitcalc.formulas import runtime
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Term, computed
from fitcalc.quantization import assign
from fitcalc.quantization.linear_layers import assign_linear
from fitcalc.quantization.stored import Stored
from fitcalc.spec.model import CacheLayer, ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

_HINT = 'write it as JSON: {"method": "mtp", "num_speculative_tokens": 2} or with "model": an id'
_WITHOUT_WEIGHTS = ("ngram", "ngram_gpu", "suffix")
_SHARED_ROLES = ("embedding", "lm_head")
"""Multi-token-prediction layers use the model's own embedding and head, though files may hold copies."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What proposes tokens: its tensors as stored, the model they belong to, its cache layers, tokens per step."""

    model: ModelSpec
    stored: tuple[Stored, ...]
    cache_layers: tuple[CacheLayer, ...]
    tokens: int
    label: str
    own_layers: bool
    """Layers of the model itself, which share its rotary table."""


def speculation(value: Any) -> Mapping[str, Any]:
    """The option as a mapping; empty where it is not given. Raises RequestError for what cannot be read."""
    if not value:
        return {}
    found = value
    if isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            raise RequestError(f"speculative_config {value[:60]!r} cannot be read", hint=_HINT) from None
    if not isinstance(found, Mapping):
        raise RequestError("speculative_config is no mapping", hint=_HINT)
    tokens = found.get("num_speculative_tokens", 1)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= 64:
        raise RequestError(f"num_speculative_tokens is {tokens!r}", hint="give a whole number from 1 to 64")
    return found


def is_mtp(config: Mapping[str, Any]) -> bool:
    """The model's own multi-token-prediction layers propose."""
    method = str(config.get("method", ""))
    return method == "mtp" or method.endswith("_mtp")


def draft_name(value: Any) -> str:
    """The model that proposes, by name; '' where none is named or needed."""
    config = speculation(value)
    if not config or is_mtp(config) or config.get("method") in _WITHOUT_WEIGHTS:
        return ""
    name = config.get("model", "")
    if not isinstance(name, str) or not name:
        raise RequestError("speculative_config names no model", hint=_HINT)
    return name


def command_text(asked: Workload) -> str:
    """The option as vLLM reads it, the draft model by its repository."""
    config = dict(speculation(asked.options["speculative_config"]))
    if asked.draft is not None:
        config["model"] = asked.draft[0].hf_repo or config["model"]
    return json.dumps(config)


def draft_of(model: ModelSpec, scheme: Scheme, asked: Workload) -> Draft | None:
    """What proposes tokens for this workload. Raises RequestError where the model has nothing of the kind."""
    config = speculation(asked.options["speculative_config"])
    if not config or config.get("method") in _WITHOUT_WEIGHTS:
        return None
    tokens = int(config.get("num_speculative_tokens", 1))
    if is_mtp(config):
        return _own_layers(model, scheme, tokens)
    if asked.draft is None:
        raise RequestError(f"draft model {draft_name(config)!r} is not known here", hint="give a catalogue id or path")
    spec, own = asked.draft
    return Draft(spec, assign(spec, own), spec.cache_layers, tokens, spec.name, own_layers=False)


def _own_layers(model: ModelSpec, scheme: Scheme, tokens: int) -> Draft:
    """The model's multi-token-prediction layers, quantized as the checkpoint does."""
    tensors = [tensor for tensor in model.tensors if tensor.part == "mtp" and tensor.role not in _SHARED_ROLES]
    if not tensors:
        hint = "name a draft model, or use method ngram"
        raise RequestError(f"{model.name} has no multi-token-prediction layers", hint=hint)
    stored = tuple(
        replace(entry, tensor=replace(entry.tensor, part="text")) for entry in assign_linear(model, scheme, tensors)
    )
    count = len({layer for entry in stored for layer in entry.layers}) or 1
    kinds = [layer for layer in model.cache_layers if layer.kind in ("full", "mla", "compressed")]
    cache = (replace(kinds[-1], layers=tuple(range(count))),) if kinds else ()
    label = f"{count} multi-token-prediction layer{'s' if count > 1 else ''}"
    return Draft(model, stored, cache, tokens, label, own_layers=True)


def draft_term(draft: Draft | None, rank: Rank, elem_bytes: int) -> tuple[Term, ...]:
    """Weights of what proposes tokens, on the ranks that hold the head."""
    if draft is None or not rank.is_last:
        return ()
    whole = replace(rank, first=0, stop=2**31, is_first=True)
    # The model's own layers share its rotary table.
    own = replace(draft.model, rope=None) if draft.own_layers else draft.model
    held = shards.rank_weights(own, draft.stored, whole, elem_bytes)
    term = computed(
        "draft_model", runtime.rank_weights, "derived", tensor_bytes=held.tensor_bytes,
        absorbed_bytes=held.absorbed_bytes, rotary_bytes=held.rotary_bytes, booking_bytes=held.booking_bytes,
        note=f"{draft.label}, {draft.tokens} tokens a step; its cache is in the blocks of the pool",
    )  # fmt: skip
    return (term,)
