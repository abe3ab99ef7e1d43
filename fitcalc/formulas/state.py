"""Bytes of what a model keeps per sequence: the KV cache of every kind of layer, paged or not, and recurrent state.

Sizes are those of one layer unless `layers` is among the inputs. A KV type is a pair (block elements, block bytes).
"""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least


@formula("layers * elems_per_token * context_tokens * requests * block_bytes // block_elems")
def full_bytes(
    *, layers: Any, elems_per_token: Any, context_tokens: Any, requests: Any, block_bytes: Any, block_elems: Any
) -> Any:
    """K and V (or the latent) of every token."""
    return layers * elems_per_token * context_tokens * requests * block_bytes // block_elems


@formula("layers * elems_per_token * least(context_tokens, window_tokens) * requests * block_bytes // block_elems")
def window_bytes(
    *,
    layers: Any,
    elems_per_token: Any,
    context_tokens: Any,
    window_tokens: Any,
    requests: Any,
    block_bytes: Any,
    block_elems: Any,
) -> Any:
    """K and V of the last `window_tokens` (or of one chunk)."""
    return layers * elems_per_token * least(context_tokens, window_tokens) * requests * block_bytes // block_elems


@formula("layers * elems_per_entry * ceil_div(context_tokens, compression) * requests * block_bytes // block_elems")
def compressed_bytes(
    *,
    layers: Any,
    elems_per_entry: Any,
    context_tokens: Any,
    compression: Any,
    requests: Any,
    block_bytes: Any,
    block_elems: Any,
) -> Any:
    """One entry per `compression` tokens."""
    return layers * elems_per_entry * ceil_div(context_tokens, compression) * requests * block_bytes // block_elems


@formula("layers * (channels * kernel * conv_bytes + state_elems * state_bytes) * requests")
def recurrent_bytes(
    *,
    layers: Any,
    channels: Any,
    kernel: Any,
    conv_bytes: Any,
    state_elems: Any,
    state_bytes: Any,
    requests: Any,
) -> Any:
    """The fixed state of a recurrent layer: convolution columns and the state itself, whatever the context."""
    return layers * (channels * kernel * conv_bytes + state_elems * state_bytes) * requests


@formula("block_tokens * elems_per_token * block_bytes // block_elems")
def page_bytes(*, block_tokens: Any, elems_per_token: Any, block_bytes: Any, block_elems: Any) -> Any:
    """One layer's page: a block of tokens on one rank."""
    return block_tokens * elems_per_token * block_bytes // block_elems


@formula("index_elems + 4 * (index_elems // scale_elems)")
def index_key_bytes(*, index_elems: Any, scale_elems: Any) -> Any:
    """Keys of a sparse-attention indexer for one token in 8 bit, with a 32-bit scale per `scale_elems`."""
    return index_elems + 4 * (index_elems // scale_elems)


@formula("ceil_div(context_tokens, block_tokens)")
def full_blocks(*, context_tokens: Any, block_tokens: Any) -> Any:
    """Blocks of one request in a layer that keeps every token."""
    return ceil_div(context_tokens, block_tokens)


@formula("ceil_div(least(window_tokens - 1 + batch_tokens, context_tokens), block_tokens) + 1")
def sliding_blocks(*, window_tokens: Any, batch_tokens: Any, context_tokens: Any, block_tokens: Any) -> Any:
    """Blocks set aside for one request in a sliding layer: the window, one batch beside it, and a boundary block."""
    return ceil_div(least(window_tokens - 1 + batch_tokens, context_tokens), block_tokens) + 1


@formula("ceil_div(least(window_tokens + batch_tokens, context_tokens), block_tokens)")
def chunked_blocks(*, window_tokens: Any, batch_tokens: Any, context_tokens: Any, block_tokens: Any) -> Any:
    """Blocks set aside for one request in a layer that attends within a chunk of `window_tokens`."""
    return ceil_div(least(window_tokens + batch_tokens, context_tokens), block_tokens)


@formula("blocks_per_request * requests * block_bytes")
def pool_bytes(*, blocks_per_request: Any, requests: Any, block_bytes: Any) -> Any:
    """Bytes of the blocks that the requests take out of one paged pool; a block spans the layers of a group."""
    return blocks_per_request * requests * block_bytes


@formula("step_tokens * ceil_div(state_page_bytes, step_tokens * token_bytes)")
def covering_block_tokens(*, step_tokens: Any, state_page_bytes: Any, token_bytes: Any) -> Any:
    """Attention block whose page covers a recurrent layer's state page, in whole steps of tokens."""
    return step_tokens * ceil_div(state_page_bytes, step_tokens * token_bytes)
