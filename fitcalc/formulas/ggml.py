"""Bytes of llama.cpp's buffers: weights, the KV cache and its cells, the inputs of a graph, the compute buffers.

llama.cpp reserves every buffer when it starts, for the worst batch. Sizes of a compute graph are counted in widths:
32-bit values per token of a micro-batch, so that bytes = 4 × micro-batch × width.
"""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least, most, round_up


@formula("round_up(context_tokens, step)")
def padded_cells(*, context_tokens: Any, step: Any) -> Any:
    """Cells of a cache: tokens rounded up to a step."""
    return round_up(context_tokens, step)


@formula("round_up(least(cells, window_tokens * sharing + ubatch), step)")
def window_cells(*, cells: Any, window_tokens: Any, sharing: Any, ubatch: Any, step: Any) -> Any:
    """Cells of a layer with a sliding window: the window of every sequence sharing the cache and one micro-batch."""
    return round_up(least(cells, window_tokens * sharing + ubatch), step)


@formula("elems // block_elems * block_bytes")
def row_bytes(*, elems: Any, block_elems: Any, block_bytes: Any) -> Any:
    """A row of `elems` elements in a ggml type."""
    return elems // block_elems * block_bytes


@formula("tensor_bytes + head_bytes")
def weights_bytes(*, tensor_bytes: Any, head_bytes: Any) -> Any:
    """Tensors on one device: those of its layers, and the output matrix where it lives there."""
    return tensor_bytes + head_bytes


@formula("streams * (cells * cell_bytes + window_cells * window_cell_bytes) + padding_bytes")
def cache_bytes(
    *, streams: Any, cells: Any, cell_bytes: Any, window_cells: Any, window_cell_bytes: Any, padding_bytes: Any
) -> Any:
    """K and V of the layers on one device.

    `cell_bytes` are the bytes of one cell over all layers that keep every token, `window_cell_bytes` over those with a
    window; `streams` is the number of separate caches.
    """
    return streams * (cells * cell_bytes + window_cells * window_cell_bytes) + padding_bytes


@formula("4 * sequences * (conv_elems + state_elems)")
def state_bytes(*, sequences: Any, conv_elems: Any, state_elems: Any) -> Any:
    """Recurrent state in 32 bit: convolution columns and state of every recurrent layer, per sequence."""
    return 4 * sequences * (conv_elems + state_elems)


@formula("copies * ubatch * (mask_bytes * mask_cells + 4 * index_width)")
def input_bytes(*, copies: Any, ubatch: Any, mask_bytes: Any, mask_cells: Any, index_width: Any) -> Any:
    """Inputs of a graph on one backend: the attention mask, positions and cache indices.

    `mask_bytes` per element [bytes], `mask_cells` over the kinds of cache, `index_width` 32-bit words per token;
    `copies` of each for pipelined execution over several cards.
    """
    return copies * ubatch * (mask_bytes * mask_cells + 4 * index_width)


@formula("4 * outputs * (vocab + hidden) + head_bytes + kept_bytes")
def logits_bytes(*, outputs: Any, vocab: Any, hidden: Any, head_bytes: Any, kept_bytes: Any) -> Any:
    """The end of a graph: logits and the last hidden state of `outputs` tokens.

    `head_bytes` is the output matrix where it has to be copied to the card, `kept_bytes` what lives beside them.
    """
    return 4 * outputs * (vocab + hidden) + head_bytes + kept_bytes


@formula("inputs_bytes + 4 * ubatch * (layer_width + held_width) + copied_bytes")
def layer_bytes(*, inputs_bytes: Any, ubatch: Any, layer_width: Any, held_width: Any, copied_bytes: Any) -> Any:
    """The widest moment of a layer's MLP or mixture of experts beside what the graph holds throughout.

    `copied_bytes` is a weight that has to be copied to the card for a prompt batch.
    """
    return inputs_bytes + 4 * ubatch * (layer_width + held_width) + copied_bytes


@formula("inputs_bytes + 4 * ubatch * (cells * score_heads + attention_width + held_width) + copied_bytes")
def attention_bytes(
    *,
    inputs_bytes: Any,
    ubatch: Any,
    cells: Any,
    score_heads: Any,
    attention_width: Any,
    held_width: Any,
    copied_bytes: Any,
) -> Any:
    """The widest moment of attention: scores of every head and cell (none with flash attention) and its projections.

    `copied_bytes` are K and V that have to be copied or converted for it.
    """
    return inputs_bytes + 4 * ubatch * (cells * score_heads + attention_width + held_width) + copied_bytes


@formula("2 * ubatch * cells * score_heads")
def score_copy_bytes(*, ubatch: Any, cells: Any, score_heads: Any) -> Any:
    """Scores of every head and cell in 16 bit, as matrix libraries want them for the product with V."""
    return 2 * ubatch * cells * score_heads


@formula("most(logits_bytes, most(layer_bytes, attention_bytes))")
def compute_bytes(*, logits_bytes: Any, layer_bytes: Any, attention_bytes: Any) -> Any:
    """A compute buffer: the largest of the moments that a graph passes through."""
    return most(logits_bytes, most(layer_bytes, attention_bytes))


@formula("inputs_bytes + 4 * ubatch * (hidden_width + 2 * copies)")
def host_compute_bytes(*, inputs_bytes: Any, ubatch: Any, copies: Any, hidden_width: Any) -> Any:
    """The host's compute buffer beside cards: token ids, embedded tokens and the inputs before they are sent."""
    return inputs_bytes + 4 * ubatch * (hidden_width + 2 * copies)


@formula("4 * sequences * vocab")
def output_bytes(*, sequences: Any, vocab: Any) -> Any:
    """The host's buffer of logits handed to the caller: one row per sequence."""
    return 4 * sequences * vocab


@formula("ceil_div(round_up(cols, step) - cols, block_elems) * block_bytes")
def tail_bytes(*, cols: Any, step: Any, block_elems: Any, block_bytes: Any) -> Any:
    """What a quantized matrix takes beyond its last row on a card that reads rows in steps of `step` columns."""
    return ceil_div(round_up(cols, step) - cols, block_elems) * block_bytes
