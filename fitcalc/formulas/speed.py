"""How long things take: a roofline of what is read and computed, and what is paid per layer, step and request.

Times are seconds, rates per second, shares fractions of a device's peak. Numbers may be arrays.
"""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least, most


@formula("experts * (1 - most(0, 1 - chosen / experts) ** tokens)")
def distinct_experts(*, experts: Any, chosen: Any, tokens: Any) -> Any:
    """Experts of a layer that `tokens` tokens use together when each takes `chosen` of them at random."""
    return experts * (1 - most(0, 1 - chosen / experts) ** tokens)


@formula("read_bytes / ranks / (bytes_per_s * share)")
def read_s(*, read_bytes: Any, ranks: Any, bytes_per_s: Any, share: Any) -> Any:
    """Time to read `read_bytes`, divided over `ranks`, at the share of the memory's peak that a kernel reaches."""
    return read_bytes / ranks / (bytes_per_s * share)


@formula("flop / ranks / (flop_per_s * share)")
def compute_s(*, flop: Any, ranks: Any, flop_per_s: Any, share: Any) -> Any:
    """Time to compute `flop` operations, divided over `ranks`, at the share of the peak that a kernel reaches."""
    return flop / ranks / (flop_per_s * share)


@formula("requests * (cell_bytes * context_tokens + window_cell_bytes * least(context_tokens, window_tokens))")
def cache_bytes(
    *, requests: Any, cell_bytes: Any, context_tokens: Any, window_cell_bytes: Any, window_tokens: Any
) -> Any:
    """K and V that a step reads: every token in the layers that keep all, the window in the others."""
    return requests * (cell_bytes * context_tokens + window_cell_bytes * least(context_tokens, window_tokens))


@formula("queries * (pair_flop * context_tokens + window_pair_flop * least(context_tokens, window_tokens))")
def attention_flop(
    *, queries: Any, pair_flop: Any, context_tokens: Any, window_pair_flop: Any, window_tokens: Any
) -> Any:
    """Operations of attention: each query against the tokens before it."""
    return queries * (pair_flop * context_tokens + window_pair_flop * least(context_tokens, window_tokens))


@formula("(reading_s * reading_s + computing_s * computing_s) ** 0.5")
def overlapped_s(*, reading_s: Any, computing_s: Any) -> Any:
    """Reading and computing at once: the longer of the two, rounded off where they are near each other."""
    return (reading_s * reading_s + computing_s * computing_s) ** 0.5


@formula(
    "layers * layer_s + expert_layers * (expert_layer_s + experts * expert_s) + recurrent_layers * recurrent_layer_s"
    " + latent_layers * latent_layer_s + step_s"
)
def launch_s(
    *,
    layers: Any,
    layer_s: Any,
    expert_layers: Any,
    expert_layer_s: Any,
    experts: Any,
    expert_s: Any,
    recurrent_layers: Any,
    recurrent_layer_s: Any,
    latent_layers: Any,
    latent_layer_s: Any,
    step_s: Any,
) -> Any:
    """What a pass costs whatever its size: launches and small kernels of every layer, more for experts, recurrent
    and latent layers, and a part outside the layers."""
    return (
        layers * layer_s
        + expert_layers * (expert_layer_s + experts * expert_s)
        + recurrent_layers * recurrent_layer_s
        + latent_layers * latent_layer_s
        + step_s
    )


@formula(
    "least(1, ranks - 1) * 2 * layers"
    " * (passes * latency_s + 2 * (ranks - 1) / ranks * tokens * hidden * elem_bytes / link_bytes_per_s)"
)
def all_reduce_s(
    *,
    ranks: Any,
    layers: Any,
    passes: Any,
    latency_s: Any,
    tokens: Any,
    hidden: Any,
    elem_bytes: Any,
    link_bytes_per_s: Any,
) -> Any:
    """Two all-reduces a layer under tensor parallelism: a latency each, and the ring's traffic over the link."""
    volume_s = 2 * (ranks - 1) / ranks * tokens * hidden * elem_bytes / link_bytes_per_s
    return least(1, ranks - 1) * 2 * layers * (passes * latency_s + volume_s)


@formula("1 - gain * (1 - (passes + stages - 1) / (passes * stages))")
def pipeline_fraction(*, passes: Any, stages: Any, gain: Any) -> Any:
    """Share of a prompt's time on one card when `passes` pieces run through `stages` cards that hold layers in turn.

    With a gain of 1 the pieces follow each other without a pause, with 0 one card works at a time.
    """
    return 1 - gain * (1 - (passes + stages - 1) / (passes * stages))


@formula("least(cores_bytes_per_s * threads, bytes_per_s * share) / bytes_per_s")
def thread_share(*, cores_bytes_per_s: Any, threads: Any, bytes_per_s: Any, share: Any) -> Any:
    """Share of a CPU's memory bandwidth that `threads` threads can pull."""
    return least(cores_bytes_per_s * threads, bytes_per_s * share) / bytes_per_s


@formula("most(1, least(requests, room_tokens / tokens_per_request))")
def running_requests(*, requests: Any, room_tokens: Any, tokens_per_request: Any) -> Any:
    """Requests that run at once: those in flight, as far as the cache has room."""
    return most(1, least(requests, room_tokens / tokens_per_request))


@formula("step_s + (running - 1) * prompt_s / generated_tokens * mixed_share")
def time_per_token_s(*, step_s: Any, running: Any, prompt_s: Any, generated_tokens: Any, mixed_share: Any) -> Any:
    """Time per output token in a closed loop: a decode step, and the prompts of the others that come between."""
    return step_s + (running - 1) * prompt_s / generated_tokens * mixed_share


@formula("first_s + alone_s + (running - 1) / 2 * prompt_s * queue_share + step_s + waiting_s * wait_share")
def first_token_s(
    *,
    first_s: Any,
    alone_s: Any,
    running: Any,
    prompt_s: Any,
    queue_share: Any,
    step_s: Any,
    waiting_s: Any,
    wait_share: Any,
) -> Any:
    """Time to first token in a closed loop: arrival, the own prompt, the prompts ahead of it, and the wait for room."""
    return first_s + alone_s + (running - 1) / 2 * prompt_s * queue_share + step_s + waiting_s * wait_share


@formula("most(0, requests / running - 1) * (generated_tokens * token_s + alone_s)")
def waiting_s(*, requests: Any, running: Any, generated_tokens: Any, token_s: Any, alone_s: Any) -> Any:
    """How long requests beyond the cache's room wait for one that ends."""
    return most(0, requests / running - 1) * (generated_tokens * token_s + alone_s)


@formula("running * generated_tokens / (generated_tokens * token_s + first_s)")
def total_tokens_per_s(*, running: Any, generated_tokens: Any, token_s: Any, first_s: Any) -> Any:
    """Output tokens per second of all requests in a closed loop."""
    return running * generated_tokens / (generated_tokens * token_s + first_s)


@formula("ceil_div(tokens, step_tokens)")
def prefill_passes(*, tokens: Any, step_tokens: Any) -> Any:
    """Passes over the weights that a prompt takes."""
    return ceil_div(tokens, step_tokens)
