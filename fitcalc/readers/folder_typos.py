"""Keys of a config.json that look like a known one but are not: a typo silently falls back to a class default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

_KNOWN = (
    "model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "vocab_size", "head_dim", "tie_word_embeddings", "max_position_embeddings",
    "sliding_window", "num_local_experts", "num_experts_per_tok", "quantization_config", "torch_dtype",
)  # fmt: skip
_ANOTHER_KEY = ("num_experts_per_token", "num_position_embeddings", "head_dims", "hidden_sizes")
"""Keys of real configurations that only look like one of the known ones."""
_ALIKE = 0.9
_MOST_KEYS, _LONGEST_KEY = 2000, 64


def misspelled(config: Mapping[str, Any]) -> str:
    """'num_hiden_layers looks like num_hidden_layers' for the keys that are nearly a known one; '' for none."""
    keys = [key for key in _first(config) if len(key) <= _LONGEST_KEY and key not in (*_KNOWN, *_ANOTHER_KEY)]
    pairs = []
    for known in _KNOWN:
        close = get_close_matches(known, keys, 1, _ALIKE) if known not in config else []
        pairs += [f"{key} looks like {known}" for key in close if not _is_longer(key, known)]
    return ", ".join(pairs)


def similar_type(model_type: str, known: Iterable[str]) -> str:
    """The known model_type that a misspelled one is close to; '' for none."""
    close = get_close_matches(model_type[:_LONGEST_KEY], list(known), 1, 0.75) if model_type else []
    return close[0] if close else ""


def _first(config: Mapping[str, Any]) -> list[str]:
    return [key for _, key in zip(range(_MOST_KEYS), config, strict=False)]


def _is_longer(key: str, known: str) -> bool:
    """Another word stands before or behind the known one: a key of its own (v_head_dim), no typo."""
    return key.startswith(f"{known}_") or key.endswith(f"_{known}")
