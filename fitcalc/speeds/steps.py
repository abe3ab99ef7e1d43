"""The time of one decode step and of one prompt, as named parts: bandwidth, cache, compute, launches, network.

`Work` says what has to be done, `Rates` how fast the device could, `Parameters` what an engine makes of it. All
three may hold arrays (a fit) or numbers (an answer).
"""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import speed
from fitcalc.frozen import dataclass
from fitcalc.speeds.work import Work
from fitcalc.units import least, most

_NOTHING_S = 1e-30
"""Keeps the share of nothing from being undefined."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Peaks of one device for one way of storing weights, and the link between equal ones."""

    bytes_per_s: Any
    linear_flop_per_s: Any
    """Of the unit that multiplies this format of weights in large batches."""
    attention_flop_per_s: Any
    unpack_op_per_s: Any
    link_bytes_per_s: Any = 1.0
    threads: Any = 1e9
    """Of a CPU; beyond counting on other devices, where they bound nothing."""


@dataclass(frozen=True, slots=True)
class Division:
    """How a model is divided: tensor parallel ranks, layer stages, ranks that each attend for their own requests."""

    ranks: Any = 1
    stages: Any = 1
    attends_apart: Any = 0
    """1 where every rank keeps the attention of its own requests whole and only experts are divided."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What an engine reaches on a class of devices; see profiles/speed. Seconds, shares of a peak, or operations."""

    bandwidth_share: Any = 0.8
    cache_share: Any = 0.5
    unpack_ops: Any = 3.0
    plain_ops: Any = 1e-3
    layer_s: Any = 3e-5
    expert_layer_s: Any = 3e-5
    expert_s: Any = 1e-9
    recurrent_layer_s: Any = 1e-5
    latent_layer_s: Any = 1e-5
    step_s: Any = 3e-4
    request_s: Any = 1e-5
    stage_s: Any = 1e-5
    compute_share: Any = 0.5
    expert_factor: Any = 2.0
    attention_share: Any = 0.25
    dequantized_bytes: Any = 0.3
    activation_bytes: Any = 20.0
    all_reduce_s: Any = 1e-5
    core_bytes_per_s: Any = 2e10
    mixed_share: Any = 0.8
    queue_share: Any = 0.5
    wait_share: Any = 0.5
    first_s: Any = 0.03
    client_s: Any = 0.02
    host_bytes_per_s: Any = 6e10
    pcie_share: Any = 0.6
    pipeline_gain: Any = 0.5
    """How much of what cards in turn could gain on a prompt of several passes they do."""
    pass_tokens: Any = 512


@dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of a step by what they are spent on. Their sum is the step's time."""

    weights_s: Any
    """Reading weights, or computing with them where that takes longer."""
    cache_s: Any
    unpacking_s: Any
    launch_s: Any
    network_s: Any
    is_computing: Any
    """Share of `weights_s` that is compute rather than bandwidth."""

    @property
    def total_s(self) -> Any:
        """The step's time."""
        return self.weights_s + self.cache_s + self.unpacking_s + self.launch_s + self.network_s


def decode_parts(
    work: Work,
    rates: Rates,
    parameters: Parameters,
    division: Division,
    requests: Any,
    context_tokens: Any,
    cache_elem_bytes: Any,
) -> Parts:
    """One decode step for `requests` requests that have `context_tokens` tokens each, on one of equal devices."""
    p, ranks = parameters, division.ranks
    together = division.attends_apart
    dense_ranks = ranks - together * (ranks - 1)
    used = speed.distinct_experts(experts=work.experts, chosen=work.experts_per_token, tokens=requests) / work.experts
    dense = (work.fixed_bytes + work.head_bytes) / dense_ranks * ranks
    share = speed.thread_share(
        cores_bytes_per_s=p.core_bytes_per_s, threads=rates.threads, bytes_per_s=rates.bytes_per_s,
        share=p.bandwidth_share,
    )  # fmt: skip
    reading = speed.read_s(
        read_bytes=dense + work.expert_bytes * used, ranks=ranks, bytes_per_s=rates.bytes_per_s, share=share
    )
    chosen = work.expert_elems * work.experts_per_token / work.experts
    linear = 2 * requests * (work.fixed_elems + work.head_elems + chosen * p.expert_factor)
    attention = speed.attention_flop(
        queries=requests, pair_flop=work.pair_flop, context_tokens=context_tokens,
        window_pair_flop=work.window_pair_flop, window_tokens=work.window_tokens,
    )  # fmt: skip
    computing = _computing(linear, attention, rates, p, ranks)
    return Parts(
        weights_s=speed.overlapped_s(reading_s=reading, computing_s=computing),
        cache_s=_cache_s(work, rates, p, division, requests, context_tokens, cache_elem_bytes),
        unpacking_s=speed.compute_s(
            flop=(work.unpacking + work.expert_unpacking * used) * p.unpack_ops + work.plain_elems * p.plain_ops,
            ranks=ranks, flop_per_s=rates.unpack_op_per_s, share=1,
        ),
        launch_s=_launch_s(work, p) + p.request_s * requests + p.stage_s * (division.stages - 1),
        network_s=_network_s(work, rates, p, ranks, requests, 1),
        is_computing=computing / (reading + computing + _NOTHING_S),
    )  # fmt: skip


def _computing(linear_flop: Any, attention_flop: Any, rates: Rates, p: Parameters, ranks: Any) -> Any:
    linear = speed.compute_s(flop=linear_flop, ranks=ranks, flop_per_s=rates.linear_flop_per_s, share=p.compute_share)
    return linear + speed.compute_s(
        flop=attention_flop, ranks=ranks, flop_per_s=rates.attention_flop_per_s, share=p.attention_share
    )


def _cache_s(
    work: Work, rates: Rates, p: Parameters, division: Division, requests: Any, context_tokens: Any, elem_bytes: Any
) -> Any:
    """K and V are divided by heads (or by requests); recurrent state, read and written, by ranks."""
    ranks = division.ranks
    by_heads = least(ranks, work.kv_heads)
    held = by_heads + division.attends_apart * (ranks - by_heads)
    keys = speed.cache_bytes(
        requests=requests, cell_bytes=work.cell_elems * elem_bytes, context_tokens=context_tokens,
        window_cell_bytes=work.window_cell_elems * elem_bytes, window_tokens=work.window_tokens,
    )  # fmt: skip
    return speed.read_s(
        read_bytes=keys / held + 2 * requests * work.state_bytes / ranks,
        ranks=1,
        bytes_per_s=rates.bytes_per_s,
        share=p.cache_share,
    )


def _launch_s(work: Work, p: Parameters) -> Any:
    return speed.launch_s(
        layers=work.layers, layer_s=p.layer_s, expert_layers=work.expert_layers, expert_layer_s=p.expert_layer_s,
        experts=work.experts, expert_s=p.expert_s, recurrent_layers=work.recurrent_layers,
        recurrent_layer_s=p.recurrent_layer_s, latent_layers=work.latent_layers, latent_layer_s=p.latent_layer_s,
        step_s=p.step_s,
    )  # fmt: skip


def _network_s(work: Work, rates: Rates, p: Parameters, ranks: Any, tokens: Any, passes: Any) -> Any:
    return speed.all_reduce_s(
        ranks=ranks, layers=work.layers, passes=passes, latency_s=p.all_reduce_s, tokens=tokens, hidden=work.hidden,
        elem_bytes=2, link_bytes_per_s=rates.link_bytes_per_s,
    )  # fmt: skip


def prompt_parts(
    work: Work,
    rates: Rates,
    parameters: Parameters,
    division: Division,
    tokens: Any,
    depth_tokens: Any,
    passes: Any,
) -> Parts:
    """A prompt of `tokens` tokens after `depth_tokens` cached ones, in `passes` passes over the weights.

    Among other prompts a pass is shared: `passes` may then be a fraction, tokens / tokens of a full pass.
    """
    p, ranks = parameters, division.ranks
    per_pass = least(tokens / passes, tokens)
    used = speed.distinct_experts(experts=work.experts, chosen=work.experts_per_token, tokens=per_pass) / work.experts
    weights = work.fixed_bytes + work.expert_bytes * used
    share = speed.thread_share(
        cores_bytes_per_s=p.core_bytes_per_s, threads=rates.threads, bytes_per_s=rates.bytes_per_s,
        share=p.bandwidth_share,
    )  # fmt: skip
    reading = passes * speed.read_s(read_bytes=weights, ranks=ranks, bytes_per_s=rates.bytes_per_s, share=share)
    chosen = work.expert_elems * work.experts_per_token / work.experts
    attention = speed.attention_flop(
        queries=tokens, pair_flop=work.prompt_pair_flop, context_tokens=depth_tokens + tokens / 2,
        window_pair_flop=work.window_pair_flop, window_tokens=work.window_tokens,
    )  # fmt: skip
    computing = _computing(2 * tokens * (work.fixed_elems + chosen * p.expert_factor), attention, rates, p, ranks)
    packed = work.unpacking + work.expert_unpacking * used
    moved = passes * packed * p.dequantized_bytes + tokens * work.layers * work.hidden * p.activation_bytes
    pipelined = speed.pipeline_fraction(passes=most(passes, 1), stages=division.stages, gain=p.pipeline_gain)
    return Parts(
        weights_s=speed.overlapped_s(reading_s=reading, computing_s=computing) * pipelined,
        cache_s=0 * tokens,
        unpacking_s=speed.read_s(read_bytes=moved, ranks=ranks, bytes_per_s=rates.bytes_per_s, share=1) * pipelined,
        launch_s=passes * _launch_s(work, p) * pipelined,
        network_s=_network_s(work, rates, p, ranks, tokens, passes),
        is_computing=computing / (reading + computing + _NOTHING_S),
    )
