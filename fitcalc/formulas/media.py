"""Encoders of text, images and sound: what one pass keeps alive, and what that adds to the text model's own peak."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import most


@formula(
    "requests * tokens * (elem_bytes * (mlp_states * width + block_states * hidden + input_elems)"
    " + mask_bytes * tokens)"
)
def encoder_bytes(
    *,
    requests: Any,
    elem_bytes: Any,
    tokens: Any,
    mlp_states: Any,
    width: Any,
    block_states: Any,
    hidden: Any,
    input_elems: Any,
    mask_bytes: Any,
) -> Any:
    """A bidirectional block at its MLP: `mlp_states` of its width and `block_states` of the hidden width per token,
    beside what the token was made from and a mask of tokens × tokens."""
    states = mlp_states * width + block_states * hidden + input_elems
    return requests * tokens * (elem_bytes * states + mask_bytes * tokens)


@formula("elem_bytes * tokens * (heads * tokens * (1 + 2 * requests) + requests * (3 * heads * head_dim + 3 * hidden))")
def scored_bytes(*, requests: Any, elem_bytes: Any, tokens: Any, heads: Any, head_dim: Any, hidden: Any) -> Any:
    """Attention that keeps its scores, before and after the softmax, and one learned bias for all requests (T5)."""
    return elem_bytes * tokens * (heads * tokens * (1 + 2 * requests) + requests * (3 * heads * head_dim + 3 * hidden))


@formula("most(outputs_bytes, pass_bytes - text_bytes)")
def added_bytes(*, outputs_bytes: Any, pass_bytes: Any, text_bytes: Any) -> Any:
    """What encoders add to the peak of a text model that runs after them: outputs, which stay, or their excess."""
    return most(outputs_bytes, pass_bytes - text_bytes)
