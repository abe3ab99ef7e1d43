"""vLLM: a share of every card is claimed at start; what weights, activations and graphs leave of it becomes KV pool.

The rules are those of vLLM's profiling run; the numbers that differ between versions are in the profile. Each rank of
tensor × pipeline parallelism has its own ledger. `kv_cache` is what the request takes of the pool, so headroom is the
pool to spare, and `reserve` is the share of the card that vLLM leaves untouched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitcalc.engines import paged, shards, vllm_start, vllm_terms
from fitcalc.engines.base import DeviceLedger, Pool, capability, context_note, elem_bytes_of, kv_block
from fitcalc.engines.division import expert_ranks
from fitcalc.engines.options import settled
from fitcalc.engines.paged import CacheTypes, Layout
from fitcalc.engines.shards import Rank
from fitcalc.engines.vllm_plan import Card, Prepared, Stage
from fitcalc.engines.vllm_start import batch_of, command, notes, refusal
from fitcalc.formulas import runtime, split, state
from fitcalc.frozen import replace
from fitcalc.ledger import Term, computed, fixed, total_bytes
from fitcalc.quantization import assign
from fitcalc.quantization.stored import Stored
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least, most

if TYPE_CHECKING:
    from fitcalc.engines.vllm_draft import Draft

__all__ = ["Prepared", "command", "grows", "kv_cache_bytes", "ledgers", "notes", "pool", "prepare", "refusal"]


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Shares, budgets and layouts of every rank. Raises RequestError for options that make no sense."""
    asked = settled(workload, profile)
    asked = vllm_start.with_experts(asked, asked.options)
    options, elem_bytes = asked.options, elem_bytes_of(scheme)
    vllm_start.check_options(options, profile)
    devices = machine.gpus[: asked.ranks]
    draft = _draft(model, scheme, asked)
    stored = _stored(model, _kernel_scheme(scheme, profile, devices), options)
    types = _cache_types(model, profile, asked, elem_bytes, draft)
    held = tuple(
        _stage(model, stored, _rank(model, profile, asked, stage, layers), types, elem_bytes, draft)
        for stage, layers in enumerate(split.stage_ranges(model.layers, asked.pipeline_parallel))
    )
    utilization = vllm_start.utilization_e4(profile, options, devices, machine.gpu_used_bytes)
    requests, batch = vllm_start.batch_limits(profile, options, devices)
    prepared = Prepared(
        model, scheme, machine, asked, profile, options, held, (), _whole(model, types, draft), requests, batch,
        utilization, elem_bytes, asked.ranks,
    )  # fmt: skip
    ranks, stages = asked.tensor_parallel, asked.pipeline_parallel
    cards = tuple(
        _card(prepared, device, number // ranks % stages, devices, draft) for number, device in enumerate(devices)
    )
    return replace(prepared, cards=cards)


def _draft(model: ModelSpec, scheme: Scheme, asked: Workload) -> Draft | None:
    """What proposes tokens, where speculative decoding is asked for."""
    if not asked.options["speculative_config"]:
        return None
    from fitcalc.engines.vllm_draft import draft_of

    return draft_of(model, scheme, asked)


def _kernel_scheme(scheme: Scheme, profile: EngineProfile, devices: tuple[Device, ...]) -> Scheme:
    """The scheme as the cards' kernels keep it: those without Marlin keep zero points and group indices."""
    needed = tuple(profile.constants["marlin_capability"])
    have = [capability(device.compute_capability) for device in devices]
    plain = scheme.loaded is not None and any(own and own < needed for own in have)
    return replace(scheme, loaded=None) if plain else scheme


def _stored(model: ModelSpec, scheme: Scheme, options: dict[str, Any]) -> tuple[Stored, ...]:
    """The tensors that are loaded: all, or those of the text model."""
    stored = assign(model, scheme)
    if not options["language_model_only"]:
        return stored
    left_out = (*shards.TOWER_PARTS, "projector")
    return tuple(entry for entry in stored if entry.tensor.part not in left_out)


def _cache_types(
    model: ModelSpec, profile: EngineProfile, workload: Workload, elem_bytes: int, draft: Draft | None
) -> CacheTypes:
    kv_elems, kv_bytes = kv_block(profile, workload.kv_dtype)
    if (workload.kv_dtype or next(iter(profile.kv_types))) == "auto":
        compressed = any(layer.kind == "compressed" for layer in model.cache_layers)
        kv_elems, kv_bytes = 1, profile.constants["compressed_kv_bytes"] if compressed else elem_bytes
    known, block = profile.constants, int(workload.options["block_size"])
    return CacheTypes(
        kv_elems, kv_bytes, elem_bytes, block, known["keeps_windows"], known["index_scale_elems"],
        state_blocks=1 + (draft.tokens if draft else 0),
    )  # fmt: skip


def _rank(model: ModelSpec, profile: EngineProfile, asked: Workload, stage: int, layers: tuple[int, int]) -> Rank:
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
        keeps_segments=known["keeps_segments"],
        whole_towers=model.model_type in known["whole_towers"],
    )


def _stage(
    model: ModelSpec, stored: tuple[Stored, ...], rank: Rank, types: CacheTypes, elem_bytes: int, draft: Draft | None
) -> Stage:
    counts = [shards.layers_held(layer.layers, rank) for layer in model.cache_layers]
    weights = shards.rank_weights(model, stored, rank, elem_bytes)
    layers = list(model.cache_layers)
    if draft is not None and rank.is_last:
        layers += draft.cache_layers
        counts += [len(layer.layers) for layer in draft.cache_layers]
    return Stage(rank, weights, paged.layout(layers, counts, rank.ranks, types))


def _whole(model: ModelSpec, types: CacheTypes, draft: Draft | None) -> Layout | None:
    """The cache of all layers on one rank."""
    layers = (*model.cache_layers, *(draft.cache_layers if draft else ()))
    return paged.layout(layers, [len(layer.layers) for layer in layers], 1, types)


def _card(prepared: Prepared, device: Device, stage: int, devices: tuple[Device, ...], draft: Draft | None) -> Card:
    """The fixed terms of one rank and its budget."""
    model, profile, asked = prepared.model, prepared.profile, prepared.workload
    held, total = prepared.stages[stage], device.usable_bytes or 0
    requested = runtime.requested_bytes(total_bytes=total, utilization_e4=prepared.utilization_e4)
    context = vllm_start.context_bytes(profile, device, asked.ranks)
    others = prepared.machine.gpu_used_bytes
    graphs = vllm_terms.graphs_term(model, profile, prepared.options, held.rank)
    inside = bool(profile.constants["graphs_in_budget"])
    outside = context + others + (0 if inside else graphs.bytes)
    if not inside:
        graphs = vllm_terms.absorbed(graphs, total - requested - context - others)
    reserve = computed(
        "reserve", runtime.kept_free, "derived", total_bytes=total, requested_bytes=requested, outside_bytes=outside,
        sources={"requested_bytes": f"gpu_memory_utilization {prepared.utilization_e4 / 10000:g}"},
        note="what vLLM leaves untouched" + ("" if inside else "; CUDA graphs are captured into it"),
    )  # fmt: skip
    terms = (
        vllm_terms.weights_term(prepared.scheme, profile, held.weights),
        *_extras(prepared, held.rank, draft),
        fixed("cuda_context", context, "derived", note=context_note(device, "lives outside vLLM's share")),
        graphs,
        vllm_terms.runtime_term(model, profile, asked, devices),
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return Card(device, stage, requested, outside, reserve, terms, requested <= total - context - others)


def _extras(prepared: Prepared, rank: Rank, draft: Draft | None) -> tuple[Term, ...]:
    """Adapters and what proposes tokens, where they are asked for."""
    terms: tuple[Term, ...] = ()
    if prepared.options["enable_lora"]:
        from fitcalc.engines.vllm_lora import lora_term

        terms = lora_term(prepared.model, rank, prepared.options)
    if draft is not None:
        from fitcalc.engines.vllm_draft import draft_term

        terms = (*terms, *draft_term(draft, rank, prepared.elem_bytes))
    return terms


def _peak_terms(prepared: Prepared, stage: Stage, context: Any, requests: Any, tokens: Any) -> tuple[Term, ...]:
    """Peak of the profiling run on the ranks of a stage: the text model, and the encoder on the first one."""
    model, profile, elem_bytes = prepared.model, prepared.profile, prepared.elem_bytes
    text = vllm_terms.activations(model, prepared.scheme, profile, stage.rank, elem_bytes, requests, tokens)
    if not stage.rank.is_first or prepared.options["language_model_only"]:
        return (text,)
    return text, *vllm_terms.vision_term(model, profile, prepared.options, elem_bytes, context, text.bytes)


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
        (
            *_cache_terms(stage, context_tokens, own, batch),
            *_peak_terms(prepared, stage, context_tokens, requests, tokens),
        )
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


def grows(prepared: Prepared) -> bool:
    """Nothing shrinks as contexts grow: prompts do not come in one piece up to some length and in several beyond it."""
    return not prepared.profile.constants["chunked_above_tokens"]


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
