"""What SGLang, TGI and TensorRT-LLM have in common: cells of a KV pool per token, the weights of a rank, its card.

These engines count their pool in tokens: a token takes a cell in every layer. Layers with a window may have a pool
of their own, a share of the full one; recurrent state has slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc.engines import division, shards
from fitcalc.engines.base import capability, context_note
from fitcalc.engines.paged import CacheTypes
from fitcalc.engines.shards import TOWER_PARTS, Rank, RankWeights
from fitcalc.formulas import pools, runtime, split, state
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Term, computed
from fitcalc.quantization import assign
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import CacheLayer, ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

_ELEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class Cells:
    """What one rank keeps: bytes per token of layers that keep all and of windowed ones, bytes of a request's state."""

    full_bytes: int
    window_bytes: int = 0
    window_tokens: int = 0
    state_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """What each rank of one pipeline stage holds."""

    rank: Rank
    weights: RankWeights
    cells: Cells


@dataclass(frozen=True, slots=True)
class Card:
    """One rank's card and the terms that depend on neither context nor concurrency. `available_bytes` is what is
    free before loading."""

    device: Device
    seat: int
    available_bytes: int
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan that is settled but for context and concurrency; `settings` are the engine's own numbers."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    workload: Workload
    profile: EngineProfile
    options: Mapping[str, Any]
    seats: tuple[Seat, ...]
    cards: tuple[Card, ...]
    whole: Cells
    """The cells of the whole model on one rank: the logical copy."""
    elem_bytes: int
    settings: Any


# --- the cache --------------------------------------------------------------------------------------------------------


def _layer_bytes(layer: CacheLayer, ranks: int, types: CacheTypes, latent_extra_bytes: int) -> int:
    """Bytes per token of one layer on one rank."""

    def stored(elems: int) -> int:
        size: int = state.page_bytes(
            block_tokens=1, elems_per_token=elems, block_bytes=types.kv_bytes, block_elems=types.kv_elems
        )
        return size

    if layer.kind == "mla":
        if not layer.index_elems:
            return stored(layer.latent_elems)
        keys = state.index_key_bytes(index_elems=layer.index_elems, scale_elems=types.index_scale_elems)
        scaled = latent_extra_bytes if types.kv_bytes == types.kv_elems else 0
        return stored(layer.latent_elems) + int(keys) + scaled
    heads = split.kv_heads_share(kv_heads=layer.kv_heads, ranks=ranks)
    return stored(heads * (layer.key_dim + layer.value_dim) + layer.index_elems)


def _slot_bytes(layer: CacheLayer, ranks: int, types: CacheTypes) -> int:
    """Bytes of one slot of recurrent state in one layer on one rank."""
    size: int = state.recurrent_bytes(
        layers=1,
        channels=split.share(elems=layer.conv_channels, ranks=ranks),
        kernel=max(layer.conv_kernel - 1, 0),
        conv_bytes=types.conv_bytes,
        state_elems=split.share(elems=layer.state_elems, ranks=ranks),
        state_bytes=_ELEM_BYTES.get(layer.state_dtype, 4),
        requests=1,
    )
    return size


def cells(
    layers: Sequence[CacheLayer], counts: Sequence[int], ranks: int, types: CacheTypes, latent_extra_bytes: int = 0
) -> Cells:
    """The cells of a rank that holds `counts[i]` layers of `layers[i]`."""
    full = window = slots = window_tokens = 0
    for layer, count in zip(layers, counts, strict=True):
        if layer.kind == "recurrent":
            slots += count * _slot_bytes(layer, ranks, types)
            continue
        size = count * _layer_bytes(layer, ranks, types, latent_extra_bytes)
        if layer.kind in ("sliding", "chunked") and types.keeps_windows:
            window += size
            window_tokens = max(window_tokens, layer.window_tokens)
        else:
            full += size
    return Cells(full, window, window_tokens, slots)


# --- ranks and cards --------------------------------------------------------------------------------------------------


def seats_of(
    model: ModelSpec, scheme: Scheme, workload: Workload, profile: EngineProfile, types: CacheTypes, elem_bytes: int
) -> tuple[Seat, ...]:
    """What the ranks of every pipeline stage hold."""
    known, stages = profile.constants, workload.pipeline_parallel
    stored, found = assign(model, scheme), []
    for stage, (first, stop) in enumerate(split.stage_ranges(model.layers, stages)):
        rank = Rank(
            ranks=workload.tensor_parallel,
            expert_ranks=division.expert_ranks(workload),
            data_ranks=workload.data_parallel,
            first=first,
            stop=stop,
            is_first=stage == 0,
            is_last=stage == stages - 1,
            vocab_step=known["vocab_step"],
        )
        weights = shards.rank_weights(model, stored, rank, elem_bytes)
        weights = replace(weights, rotary_bytes=weights.rotary_bytes * known["rotary_elem_bytes"] // elem_bytes)
        counts = [shards.layers_held(layer.layers, rank) for layer in model.cache_layers]
        latent = known["latent_extra_bytes"]
        found.append(Seat(rank, weights, cells(model.cache_layers, counts, rank.ranks, types, latent)))
    return tuple(found)


def whole_cells(model: ModelSpec, types: CacheTypes, profile: EngineProfile) -> Cells:
    """The cells of the whole model on one rank."""
    counts = [len(layer.layers) for layer in model.cache_layers]
    return cells(model.cache_layers, counts, 1, types, profile.constants["latent_extra_bytes"])


def weights_term(scheme: Scheme, profile: EngineProfile, held: RankWeights) -> Term:
    """Weights of a rank, with room above for kernels that keep a format in a larger form."""
    term = computed(
        "weights", runtime.rank_weights, "derived", tensor_bytes=held.tensor_bytes, absorbed_bytes=held.absorbed_bytes,
        rotary_bytes=held.rotary_bytes, booking_bytes=held.booking_bytes,
        note="tensors of this rank as the engine keeps them, rotary table, allocator's rounding",
    )  # fmt: skip
    permille = profile.constants["repacked_permille"].get(scheme.weight.id, 0)
    if not permille:
        return term
    high = term.bytes + held.quantized_bytes * permille // 1000
    note = "some kernels keep this format padded; the high end is the largest seen"
    return Term(term.name, term.bytes, term.bytes, high, "estimated", term.formula, term.inputs, note)


def context_term(profile: EngineProfile, device: Device, workload: Workload) -> Term:
    """What a process and its communicators take of a card before the model is loaded, with its spread."""
    known = profile.constants
    # Communicators join the ranks of a stage; a pipeline adds one between two.
    processes = max(workload.tensor_parallel * workload.data_parallel, min(workload.pipeline_parallel, 2))
    small = (device.usable_bytes or 0) < known["small_memory"]
    alone = device.context_bytes or known["context_small" if small else "context_single"]
    each = 0 if small or processes == 1 else known["context_per_rank"]
    measured = device.source if device.context_bytes else profile.sources.get("context_single", "")
    term = computed(
        "cuda_context", pools.context_bytes, "estimated", alone_bytes=alone, ranks=processes, rank_bytes=each,
        sources={"alone_bytes": measured, "rank_bytes": profile.sources.get("context_per_rank", "")},
        note=context_note(device, "and communicators, before the model is loaded"),
    )  # fmt: skip
    spread = known["context_spread"]
    return replace(term, low_bytes=max(term.bytes - spread["under"], 0), high_bytes=term.bytes + spread["over"])


def forward_term(
    model: ModelSpec, profile: EngineProfile, seat: Seat, tokens: int, requests: int, elem_bytes: int
) -> Term:
    """Peak of a forward pass of `tokens` tokens with logits of `requests` rows, as an estimate with its spread."""
    known, rank = profile.constants, seat.rank
    term = computed(
        "activations",
        runtime.profile_peak,
        "estimated",
        sources=dict(profile.sources),
        note="forward pass of the largest prefill, or the sampler, whichever is larger",
        base_bytes=known["activation_base"],
        tokens=tokens,
        elem_bytes=elem_bytes,
        matrices=3 if model.gated_mlp else 2,
        width=split.share(elems=model.intermediate or model.shared_intermediate, ranks=rank.ranks),
        hidden=model.hidden,
        half_bytes_per_logit=known["half_bytes_per_logit"],
        requests=requests if rank.is_last else 0,
        vocab=model.vocab,
        experts_per_token=model.experts_per_token,
        expert_width=split.share(elems=model.moe_intermediate, ranks=rank.width_ranks),
    )
    low = term.bytes * known["activation_low_percent"] // 100
    high = term.bytes * known["activation_high_percent"] // 100
    return replace(term, low_bytes=low, high_bytes=high)


def graphs_term(model: ModelSpec, profile: EngineProfile, seat: Seat, disabled: bool) -> Term:
    """Captured CUDA graphs of one rank."""
    known = profile.constants
    layers = 0 if disabled else seat.rank.stop - seat.rank.first
    base = 0 if disabled else known["graphs_base"]
    term = computed(
        "cuda_graphs", runtime.graphs_bytes, "exact" if disabled else "estimated", base_bytes=base, layers=layers,
        layer_bytes=known["graphs_per_layer"], sources={"base_bytes": profile.sources.get("graphs_base", "")},
    )  # fmt: skip
    if disabled:
        return term
    spread = known["graphs_spread_experts" if model.is_moe else "graphs_spread"]
    return replace(term, low_bytes=max(term.bytes - spread["under"], 0), high_bytes=term.bytes + spread["over"])


def has_tower(model: ModelSpec) -> bool:
    """Takes images or sound."""
    return any(tensor.part in TOWER_PARTS for tensor in model.tensors)


# --- what they refuse -------------------------------------------------------------------------------------------------


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why the engine cannot run or divide the model in this way, beyond its profile's general limits."""
    if model.kind != "decoder":
        return f"fitcalc models {profile.name} for models that generate text; {model.name} is none"
    unmodelled = {layer.kind for layer in model.cache_layers} & set(profile.constants["unmodelled_caches"])
    if unmodelled:
        return f"fitcalc does not model how {profile.name} keeps the {unmodelled.pop()} cache of {model.name}"
    return _unsupported_here(scheme, machine, profile) or division.refusal(model, scheme, machine, workload, profile)


def _unsupported_here(scheme: Scheme, machine: Machine, profile: EngineProfile) -> str | None:
    """A quantization that the engine's kernels do not take on a card, by compute capability: least, and below which."""
    bounds = profile.constants["quant_capability"]
    if scheme.weight.id not in bounds:
        return None
    least, below = (capability(text) for text in bounds[scheme.weight.id])
    for card in machine.gpus:
        have = capability(card.compute_capability)
        if have and (have < least or (below and have >= below)):
            runs = ".".join(str(part) for part in least)
            said = f"from {runs}" + (f" to below {'.'.join(str(part) for part in below)}" if below else "")
            found = f"{card.name} has {card.compute_capability}"
            return f"{profile.name} runs {scheme.name} on compute capability {said}, {found}"
    return None


def load_flag(model: ModelSpec, scheme: Scheme, profile: EngineProfile) -> str:
    """The engine's name for quantizing a 16-bit repository while loading; '' where a repository is stored so."""
    stored_so = scheme.id in dict(model.quantized_repos) or (model.quant and model.quant.scheme == scheme.id)
    if stored_so or model.quant or not model.hf_repo:
        return ""
    return str(profile.constants.get("quantized_at_load", {}).get(scheme.id, ""))


def idle_note(prepared: Prepared) -> str:
    """Cards without work; '' when all have some."""
    idle = len(prepared.machine.gpus) - len(prepared.cards)
    return f"{idle} of {len(prepared.machine.gpus)} GPUs stay idle with this division" if idle else ""
