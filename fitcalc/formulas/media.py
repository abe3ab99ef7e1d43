"""Encoders of text, images and sound: what one pass keeps alive."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula


@formula(
    "elem_bytes * requests * (tokens * (mlp_states * width + block_states * hidden + kept_states * hidden)"
    " + mask_heads * tokens * tokens)"
)
def encoder_bytes(
    *,
    elem_bytes: Any,
    requests: Any,
    tokens: Any,
    mlp_states: Any,
    width: Any,
    block_states: Any,
    hidden: Any,
    kept_states: Any,
    mask_heads: Any,
) -> Any:
    """A bidirectional block at its MLP: `mlp_states` of its width and `block_states` of the hidden width per token,
    `kept_states` outputs of earlier layers, and `mask_heads` matrices of tokens × tokens (masks, scores)."""
    states = tokens * (mlp_states * width + (block_states + kept_states) * hidden)
    return elem_bytes * requests * (states + mask_heads * tokens * tokens)
