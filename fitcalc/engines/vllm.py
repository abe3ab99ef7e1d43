"""vLLM: a share of every card is claimed at start; what weights, activations and graphs leave of it becomes KV pool.

The rules are those of vLLM's profiling run; the numbers that differ between versions are in the profile. Each rank of
tensor × pipeline parallelism has its own ledger. `kv_cache` is what the request takes of the pool, so headroom is the
pool to spare, and `reserve` is the share of the card that vLLM leaves untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.engines import paged, shards, vllm_start
from fitcalc.engines.base import DeviceLedger, Pool, context_note, elem_bytes_of, kv_block, spread
from fitcalc.engines.division import expert_ranks
from fitcalc.engines.options import settled
from fitcalc.engines.paged import CacheTypes, Layout
from fitcalc.engines.shards import Rank, RankWeights
from fitcalc.engines.vllm_plan import Card, Prepared, Stage
from fitcalc.engines.vllm_start import batch_of, command, notes, refusal
from fitcalc.formulas import runtime, split, state
from fitcalc.ledger import Term, computed, fixed, total_bytes
from fitcalc.quantization import assign
from fitcalc.quantization.stored import Stored
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least, most

__all__ = ["Prepared", "command", "kv_cache_bytes", "ledgers", "notes", "pool", "prepare", "refusal"]


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Shares, budgets and layouts of every rank. Raises RequestError for options that make no sense."""
    asked = settled(workload, profile)
    asked = vllm_start.with_experts(asked, asked.options)
    options, elem_bytes = asked.options, elem_bytes_of(scheme)
    vllm_start.check_options(options)
    stored = assign(model, scheme)
    ranks, stages = asked.tensor_parallel, asked.pipeline_parallel
    types = _cache_types(profile, asked, elem_bytes)
    held = tuple(
        _stage(model, stored, _rank(profile, asked, stage, layers), types, elem_bytes)
        for stage, layers in enumerate(split.stage_ranges(model.layers, stages))
    )
    devices = machine.gpus[: asked.ranks]
    utilization = vllm_start.utilization_e4(profile, options, devices, machine.gpu_used_bytes)
    cards = tuple(
        _card(model, scheme, machine, profile, options, device, number // ranks % stages, held, utilization, asked)
        for number, device in enumerate(devices)
    )
    requests, batch = vllm_start.batch_limits(profile, options, devices)
    counts = [len(layer.layers) for layer in model.cache_layers]
    return Prepared(
        model, scheme, machine, asked, profile, options, held, cards,
        paged.layout(model.cache_layers, counts, 1, types), requests, batch, utilization, elem_bytes, asked.ranks,
    )  # fmt: skip


def _cache_types(profile: EngineProfile, workload: Workload, elem_bytes: int) -> CacheTypes:
    kv_elems, kv_bytes = kv_block(profile, workload.kv_dtype)
    if (workload.kv_dtype or next(iter(profile.kv_types))) == "auto":
        kv_elems, kv_bytes = 1, elem_bytes
    known, block = profile.constants, int(workload.options["block_size"])
    return CacheTypes(kv_elems, kv_bytes, elem_bytes, block, known["keeps_windows"], known["index_scale_elems"])


def _rank(profile: EngineProfile, asked: Workload, stage: int, layers: tuple[int, int]) -> Rank:
    known, ranks = profile.constants, asked.tensor_parallel
    return Rank(
        ranks=ranks,
        expert_ranks=expert_ranks(asked),
        data_ranks=asked.data_parallel,
        first=layers[0],
        stop=layers[1],
        is_first=stage == 0,
        is_last=stage == asked.pipeline_parallel - 1,
        vocab_step=known["vocab_step"],
        padded_formats=tuple(known["padded_expert_formats"]),
        width_step=known["expert_width_step"],
        hidden_step=known["expert_hidden_step"] if ranks * asked.data_parallel > 1 else 1,
    )


def _stage(model: ModelSpec, stored: tuple[Stored, ...], rank: Rank, types: CacheTypes, elem_bytes: int) -> Stage:
    counts = [shards.layers_held(layer.layers, rank) for layer in model.cache_layers]
    weights = shards.rank_weights(model, stored, rank, elem_bytes)
    return Stage(rank, weights, paged.layout(model.cache_layers, counts, rank.ranks, types))


def _card(
    model: ModelSpec,
    scheme: Scheme,
    machine: Machine,
    profile: EngineProfile,
    options: Mapping[str, Any],
    device: Device,
    stage: int,
    stages: tuple[Stage, ...],
    utilization: int,
    asked: Workload,
) -> Card:
    """The fixed terms of one rank and its budget."""
    known, held = profile.constants, stages[stage]
    total = device.usable_bytes or 0
    requested = runtime.requested_bytes(total_bytes=total, utilization_e4=utilization)
    context = vllm_start.context_bytes(profile, device, asked.ranks)
    others = machine.gpu_used_bytes
    graphs = graphs_term(model, profile, options, held.rank)
    inside = bool(known["graphs_in_budget"])
    outside = context + others + (0 if inside else graphs.bytes)
    if not inside:
        graphs = _absorbed(graphs, total - requested - context - others)
    reserve = computed(
        "reserve", runtime.kept_free, "derived", total_bytes=total, requested_bytes=requested, outside_bytes=outside,
        sources={"requested_bytes": f"gpu_memory_utilization {utilization / 10000:g}"},
        note="what vLLM leaves untouched" + ("" if inside else "; CUDA graphs are captured into it"),
    )  # fmt: skip
    terms = (
        _weights(scheme, profile, held.weights),
        fixed("cuda_context", context, "derived", note=context_note(device, "lives outside vLLM's share")),
        graphs,
        _runtime(model, profile, asked),
        *_vision(model, profile),
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return Card(device, stage, requested, outside, reserve, terms, requested <= total - context - others)


def _weights(scheme: Scheme, profile: EngineProfile, held: RankWeights) -> Term:
    """Weights, with room above for kernels that repack a format into a larger one."""
    term = computed(
        "weights", runtime.rank_weights, "derived", tensor_bytes=held.tensor_bytes, absorbed_bytes=held.absorbed_bytes,
        rotary_bytes=held.rotary_bytes, booking_bytes=held.booking_bytes,
        note="tensors of this rank as the engine keeps them, rotary table, allocator's rounding",
    )  # fmt: skip
    permille = profile.constants["repacked_permille"].get(scheme.weight.id, 0)
    if not permille:
        return term
    high = term.bytes + held.quantized_bytes * permille // 1000
    note = "newer kernels repack this format; the high end is the largest seen"
    return Term(term.name, term.bytes, term.bytes, high, "estimated", term.formula, term.inputs, note)


def graphs_term(model: ModelSpec, profile: EngineProfile, options: Mapping[str, Any], rank: Rank) -> Term:
    """Captured CUDA graphs of one rank; none when the engine runs eagerly."""
    known = profile.constants
    if options["enforce_eager"]:
        return fixed("cuda_graphs", 0, "exact", note="enforce_eager")
    base = known["graphs_base"] + (known["graphs_experts"] if model.is_moe else 0)
    term = computed(
        "cuda_graphs", runtime.graphs_bytes, "estimated", base_bytes=base, layers=rank.stop - rank.first,
        layer_bytes=known["graphs_per_layer"], sources={"base_bytes": profile.sources.get("graphs_base", "")},
    )  # fmt: skip
    room = known["graphs_spread_experts" if model.is_moe else "graphs_spread"]
    low, high = max(term.bytes - room["under"], 0), term.bytes + room["over"]
    return Term(term.name, term.bytes, low, high, "estimated", term.formula, term.inputs)


def _absorbed(graphs: Term, room_bytes: int) -> Term:
    """Graphs captured into the reserve: their spread counts only as far as it leaves the reserve."""
    excess = [max(size - room_bytes, 0) for size in (graphs.low_bytes, graphs.bytes, graphs.high_bytes)]
    low, high = graphs.bytes - (excess[1] - excess[0]), graphs.bytes + excess[2] - excess[1]
    return Term(graphs.name, graphs.bytes, low, high, graphs.basis, graphs.formula, graphs.inputs, graphs.note)


def _runtime(model: ModelSpec, profile: EngineProfile, asked: Workload) -> Term:
    """Memory outside PyTorch: libraries, communicators and their buffers."""
    # Copies of a dense model do not talk to each other.
    together = asked.tensor_parallel * (asked.data_parallel if model.is_moe else 1)
    single = "runtime_pipeline" if asked.pipeline_parallel > 1 else "runtime_single"
    constant = "runtime_parallel" if together > 1 else single
    return spread(profile, "runtime", constant, "memory of libraries and communicators outside PyTorch")


def _vision(model: ModelSpec, profile: EngineProfile) -> tuple[Term, ...]:
    """What profiling the encoder of images or sound at its largest item adds."""
    if not any(tensor.part in shards.TOWER_PARTS for tensor in model.tensors):
        return ()
    dynamic = model.rope is not None and model.rope.sectioned
    constant = "vision_peak_dynamic" if dynamic else "vision_peak"
    return (spread(profile, "vision", constant, "encoder at its largest item"),)


def _activations(prepared: Prepared, stage: Stage, requests: Any, tokens: Any) -> Term:
    """Peak of the profiling run on the ranks of a stage."""
    model, known, rank = prepared.model, prepared.profile.constants, stage.rank
    half = "half_bytes_per_logit_fp32" if prepared.elem_bytes == 4 else "half_bytes_per_logit"
    workspace = model.is_moe and prepared.scheme.weight.id not in known["formats_without_workspace"]
    width = model.intermediate or model.shared_intermediate
    term = computed(
        "activations",
        runtime.profile_peak,
        "estimated",
        sources={**prepared.profile.sources, "base_bytes": prepared.profile.sources.get("activation_base", "")},
        note="profiling run: forward pass or sampler, whichever is larger",
        base_bytes=known["activation_base"],
        tokens=tokens,
        elem_bytes=prepared.elem_bytes,
        matrices=3 if model.gated_mlp else 2,
        width=split.share(elems=width, ranks=rank.ranks),
        hidden=model.hidden,
        half_bytes_per_logit=known[half],
        requests=requests if rank.is_last else 0,
        vocab=model.vocab,
        experts_per_token=model.experts_per_token if workspace else 0,
        expert_width=split.share(elems=model.moe_intermediate, ranks=rank.width_ranks),
    )
    low = most(0, term.bytes - known["activation_under"])
    high = term.bytes + known["activation_over" if rank.is_last else "activation_over_stage"]
    return Term(term.name, term.bytes, low, high, "estimated", term.formula, term.inputs, term.note)


def _cache_terms(stage: Stage, context_tokens: Any, concurrency: Any, batch: Any) -> tuple[Term, ...]:
    """What the requests take of the pool: blocks of token layers, blocks of recurrent state."""
    layout, terms = stage.layout, []
    for name, wanted in (("kv_cache", False), ("state", True)):
        if layout is None or not (layout.has_state if wanted else layout.has_attention):
            continue
        blocks = paged.request_blocks(layout, context_tokens, batch, state_groups=wanted)
        terms.append(
            computed(
                name, state.pool_bytes, "exact", blocks_per_request=blocks, requests=concurrency,
                block_bytes=layout.block_bytes, note=layout.label if name == "kv_cache" else "",
            )
        )  # fmt: skip
    return tuple(terms)


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every rank; ranks of a stage are alike but for their cards."""
    requests, batch, tokens = batch_of(prepared, context_tokens, concurrency)
    own = split.requests_share(requests=concurrency, ranks=prepared.workload.data_parallel)
    moving = [
        (*_cache_terms(stage, context_tokens, own, batch), _activations(prepared, stage, requests, tokens))
        for stage in prepared.stages
    ]
    return tuple(
        DeviceLedger(
            card.device.id,
            card.device.name,
            number,
            card.device.memory_bytes,
            card.device.usable_bytes,
            _terms(card, moving[card.stage]),
        )
        for number, card in enumerate(prepared.cards)
    )


def _terms(card: Card, moving: tuple[Term, ...]) -> tuple[Term, ...]:
    """All terms of a card. Where vLLM would claim more than is free, the claim itself counts: it does not start."""
    reserve = card.reserve
    if not card.starts:
        taken = sum(term.bytes for term in (*card.terms, *moving) if term.name not in ("cuda_context", "desktop"))
        size = most(0, card.requested_bytes - taken)
        reserve = fixed("reserve", size, "derived", note="vLLM claims its share at start, and less than that is free")
    return (*card.terms[:1], *moving, *card.terms[1:], reserve)


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """One logical copy of the cache in whole blocks, recurrent state apart."""
    layout = prepared.whole
    if layout is None:
        return 0
    _, batch, _ = batch_of(prepared, context_tokens, concurrency)
    blocks = paged.request_blocks(layout, context_tokens, batch, state_groups=False)
    return state.pool_bytes(blocks_per_request=blocks, requests=concurrency, block_bytes=layout.block_bytes)


def pool(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Pool | None:
    """The KV pool of the tightest rank, and the tokens of all data parallel ranks if each has as much; None without
    a paged cache."""
    _, batch, _ = batch_of(prepared, context_tokens, concurrency)
    found: list[tuple[Any, Any]] = []
    entries = ledgers(prepared, context_tokens, concurrency)
    for card, entry in zip(prepared.cards, entries, strict=True):
        layout = prepared.stages[card.stage].layout
        if layout is None or not layout.has_attention or entry.usable_bytes is None:
            continue
        others = total_bytes(term for term in entry.terms if term.name not in ("kv_cache", "state"))
        room = most(0, entry.usable_bytes - others)
        found.append((room, reported_tokens(prepared.profile, layout, room, context_tokens, batch)))
    if not found or prepared.whole is None:
        return None
    room, tokens = found[0]
    for other_room, other_tokens in found[1:]:
        room, tokens = least(room, other_room), least(tokens, other_tokens)
    return Pool(room, tokens * prepared.workload.data_parallel, prepared.whole.block_tokens)


def reported_tokens(profile: EngineProfile, layout: Layout, pool_bytes: Any, context_tokens: Any, batch: Any) -> Any:
    """Tokens that vLLM prints for a pool: whole blocks of a plain model; of a hybrid one, by groups or by length."""
    blocks = pool_bytes // layout.block_bytes
    groups = sum(group.count for group in layout.groups)
    if groups == 1:
        return blocks * layout.block_tokens
    if not profile.constants["tokens_by_length"]:
        return blocks // groups * layout.block_tokens
    per_request = sum(
        paged.request_blocks(layout, context_tokens, batch, state_groups=wanted) for wanted in (False, True)
    )
    return blocks * context_tokens // per_request
