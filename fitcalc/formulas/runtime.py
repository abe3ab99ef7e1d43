"""What running costs beside weights and cache: activations, the allocator's booking, tables, graphs, reserves."""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import MIB, ceil_div, least, most, round_up

GRANULE_BYTES = 512
LARGE_TENSOR_BYTES = 10 * MIB
SEGMENT_BYTES = 2 * MIB
KEPT_TAIL_BYTES = MIB
UNSPLIT_BYTES = 20 * MIB


@formula(
    "round_up(size_bytes, 512) + (round_up(size_bytes, 2097152) - round_up(size_bytes, 512))"
    " * least(1, round_up(size_bytes, 512) // 10485760)"
    " * (1 - least(1, (round_up(size_bytes, 2097152) - round_up(size_bytes, 512)) // 1048577))"
)
def booked_bytes(*, size_bytes: Any) -> Any:
    """What PyTorch's caching allocator counts for one tensor.

    Steps of 512 B; a tensor from 10 MiB has a segment of its own in steps of 2 MiB, whose tail of up to 1 MiB is not
    split off and counts too (settings of c10/cuda/CUDACachingAllocator: kMinBlockSize, kMinLargeAlloc, kRoundLarge,
    kSmallSize).
    """
    counted = round_up(size_bytes, GRANULE_BYTES)
    tail = round_up(size_bytes, SEGMENT_BYTES) - counted
    is_large = least(1, counted // LARGE_TENSOR_BYTES)
    is_kept = 1 - least(1, tail // (KEPT_TAIL_BYTES + 1))
    return counted + tail * is_large * is_kept


def segment_bytes(*, size_bytes: Any) -> Any:
    """What the allocator counts for one tensor while blocks from 20 MiB on are never split: whole segments of 2 MiB
    for those, `booked_bytes` for smaller ones (vLLM loads so: max_split_size_mb 20)."""
    counted = booked_bytes(size_bytes=size_bytes)
    is_unsplit = least(1, size_bytes // UNSPLIT_BYTES)
    return counted + (round_up(size_bytes, SEGMENT_BYTES) - counted) * is_unsplit


@formula("tensor_bytes + absorbed_bytes + rotary_bytes + booking_bytes")
def rank_weights(*, tensor_bytes: Any, absorbed_bytes: Any, rotary_bytes: Any, booking_bytes: Any) -> Any:
    """What a server engine reports as model weights: tensors, absorbed MLA copies, rotary tables, allocator booking."""
    return tensor_bytes + absorbed_bytes + rotary_bytes + booking_bytes


@formula("positions * rotary_dim * elem_bytes")
def rotary_bytes(*, positions: Any, rotary_dim: Any, elem_bytes: Any) -> Any:
    """The cos/sin table of a rotary set-up, kept whole on every rank."""
    return positions * rotary_dim * elem_bytes


@formula("least(batch_tokens, requests * context_tokens)")
def profiled_tokens(*, batch_tokens: Any, requests: Any, context_tokens: Any) -> Any:
    """Tokens of the profiling pass: the batch limit, but no more than all requests can hold."""
    return least(batch_tokens, requests * context_tokens)


@formula("most(batch_tokens, context_tokens)")
def unchunked_tokens(*, batch_tokens: Any, context_tokens: Any) -> Any:
    """Tokens of the profiling pass without chunked prefill: a prompt of the full context goes in one piece."""
    return most(batch_tokens, context_tokens)


@formula(
    "base_bytes"
    " + most(tokens * elem_bytes * (matrices * width + 3 * hidden),"
    " tokens * hidden * elem_bytes + half_bytes_per_logit * requests * vocab // 2)"
    " + tokens * experts_per_token * elem_bytes * (most(2 * expert_width, hidden) + expert_width)"
)
def profile_peak(
    *,
    base_bytes: Any,
    tokens: Any,
    elem_bytes: Any,
    matrices: Any,
    width: Any,
    hidden: Any,
    half_bytes_per_logit: Any,
    requests: Any,
    vocab: Any,
    experts_per_token: Any,
    expert_width: Any,
) -> Any:
    """Peak of a server's profiling pass: the forward pass or the sampler, whichever is larger, and expert workspace.

    `width` and `expert_width` are one rank's. The sampler's buffers are whole on every rank, `requests` rows of the
    full vocabulary; with requests = 0 (a pipeline stage without the head) none.
    """
    forward = tokens * elem_bytes * (matrices * width + 3 * hidden)
    sampler = tokens * hidden * elem_bytes + half_bytes_per_logit * requests * vocab // 2
    workspace = tokens * experts_per_token * elem_bytes * (most(2 * expert_width, hidden) + expert_width)
    return base_bytes + most(forward, sampler) + workspace


@formula(
    "most(items * item_tokens * hidden * elem_bytes,"
    " items * item_tokens * patches_per_token * patch_widths * width * elem_bytes - text_bytes)"
)
def encoder_peak(
    *,
    items: Any,
    item_tokens: Any,
    patches_per_token: Any,
    patch_widths: Any,
    width: Any,
    hidden: Any,
    elem_bytes: Any,
    text_bytes: Any,
) -> Any:
    """What an encoder adds to the peak `text_bytes` of a text model that runs after it: its outputs, which stay, or
    the excess of its own pass, `patch_widths` times its width for every patch."""
    outputs = items * item_tokens * hidden * elem_bytes
    own = items * item_tokens * patches_per_token * patch_widths * width * elem_bytes
    return most(outputs, own - text_bytes)


@formula("most(one_bytes, other_bytes)")
def larger(*, one_bytes: Any, other_bytes: Any) -> Any:
    """The larger of two peaks that do not come together."""
    return most(one_bytes, other_bytes)


@formula("base_bytes + layers * layer_bytes")
def graphs_bytes(*, base_bytes: Any, layers: Any, layer_bytes: Any) -> Any:
    """Captured CUDA graphs."""
    return base_bytes + layers * layer_bytes


@formula("ceil_div(total_bytes * utilization_e4, 10000)")
def requested_bytes(*, total_bytes: Any, utilization_e4: Any) -> Any:
    """What a server claims of a card; the utilization in ten-thousandths."""
    return ceil_div(total_bytes * utilization_e4, 10000)


@formula("most(0, total_bytes - requested_bytes - outside_bytes)")
def kept_free(*, total_bytes: Any, requested_bytes: Any, outside_bytes: Any) -> Any:
    """What a server leaves untouched of a card: its reserve, less what lives in the reserve."""
    return most(0, total_bytes - requested_bytes - outside_bytes)


@formula("most(tokens * requests * elem_bytes * (12 * width + 15 * hidden) // 4, copies * 2 * hidden * matrix_width)")
def eager_peak(
    *, tokens: Any, requests: Any, elem_bytes: Any, width: Any, hidden: Any, copies: Any, matrix_width: Any
) -> Any:
    """Peak of a prefill outside a server (Transformers): 3 MLP widths and 3.75 hidden widths for every prompt token.

    At least the 16-bit copies of an MLP matrix that a dequantizing kernel keeps (`copies` 0: none).
    """
    return most(tokens * requests * elem_bytes * (12 * width + 15 * hidden) // 4, copies * 2 * hidden * matrix_width)
