"""What a model takes under MLX (mlx-lm): caches that grow in steps, and the peak of one prefill step."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import least, most, round_up


@formula("round_up(context_tokens, step_tokens)")
def grown_tokens(*, context_tokens: Any, step_tokens: Any) -> Any:
    """Tokens that a cache holds room for: it grows by whole steps."""
    return round_up(context_tokens, step_tokens)


@formula("least(context_tokens, window_tokens + prefill_tokens - 1)")
def rotating_tokens(*, context_tokens: Any, window_tokens: Any, prefill_tokens: Any) -> Any:
    """Tokens in the cache of a layer with a window while a prompt is read: the window and one prefill step."""
    return least(context_tokens, window_tokens + prefill_tokens - 1)


@formula("prompts * tokens * elem_bytes * most(layer_width, attention_width + copies * heads * cells)")
def layer_peak(
    *,
    prompts: Any,
    tokens: Any,
    elem_bytes: Any,
    layer_width: Any,
    attention_width: Any,
    copies: Any,
    heads: Any,
    cells: Any,
) -> Any:
    """The widest moment of a layer for `prompts` steps of `tokens` tokens: its MLP or experts, or its attention.

    `copies` counts how often the scores of all heads over `cells` cached tokens stand in memory: 0 under a fused
    kernel. Widths in elements per token.
    """
    return prompts * tokens * elem_bytes * most(layer_width, attention_width + copies * heads * cells)


@formula("prompts * tokens * elem_bytes * vocab")
def logits_peak(*, prompts: Any, tokens: Any, elem_bytes: Any, vocab: Any) -> Any:
    """Logits of the tokens that end a prompt."""
    return prompts * tokens * elem_bytes * vocab
