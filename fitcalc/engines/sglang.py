"""SGLang: a set share of what is free holds weights and KV pool; activations and CUDA graphs live in the rest.

The pool is `free before loading × mem_fraction_static − weights`. Its tokens have cells in every layer; windowed
layers and recurrent state get set shares of it. `reserve` is what the fraction leaves and nothing is known to use.
"""

from __future__ import annotations

from typing import Any

from fitcalc.engines import served, sglang_start
from fitcalc.engines.base import DeviceLedger, Pool, elem_bytes_of, kv_block, spread
from fitcalc.engines.options import settled
from fitcalc.engines.paged import CacheTypes
from fitcalc.engines.served import Card, Cells, Prepared, Seat
from fitcalc.engines.sglang_start import Settings, command, notes
from fitcalc.formulas import pools, split
from fitcalc.frozen import replace
from fitcalc.ledger import Term, computed, fixed
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least, most

__all__ = ["command", "kv_cache_bytes", "ledgers", "notes", "pool", "prepare", "refusal"]


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why SGLang cannot divide or run the model in this way; None when it can."""
    asked = sglang_start.with_experts(settled(workload, profile))
    reason = served.refusal(model, scheme, machine, asked, profile)
    ranks = asked.tensor_parallel * asked.data_parallel
    if reason is None or not model.is_moe or asked.expert_parallel or ranks < 2:
        return reason
    whole = replace(asked, expert_parallel=True)
    if served.refusal(model, scheme, machine, whole, profile) is None:
        return f"{reason}; expert parallel {ranks} keeps experts whole"
    return reason


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Shares, cells and budgets of every rank. Raises RequestError for options that make no sense."""
    asked = sglang_start.with_experts(settled(workload, profile))
    sglang_start.check_options(asked.options, profile)
    elem_bytes, devices = elem_bytes_of(scheme), machine.gpus[: asked.ranks]
    types = _cache_types(model, profile, asked, elem_bytes)
    settings = sglang_start.settings_of(model, devices, asked, profile)
    seats = served.seats_of(model, scheme, asked, profile, types, elem_bytes)
    cards = tuple(
        _card(scheme, machine, profile, device, number // asked.tensor_parallel % len(seats), seats, asked)
        for number, device in enumerate(devices)
    )
    whole = served.whole_cells(model, types, profile)
    return Prepared(
        model, scheme, machine, asked, profile, asked.options, seats, cards, whole, elem_bytes, settings
    )  # fmt: skip


def _cache_types(model: ModelSpec, profile: EngineProfile, asked: Workload, elem_bytes: int) -> CacheTypes:
    kv_elems, kv_bytes = kv_block(profile, asked.kv_dtype)
    if (asked.kv_dtype or next(iter(profile.kv_types))) == "auto":
        kv_elems, kv_bytes = 1, elem_bytes
    known, options = profile.constants, asked.options
    windows = model.model_type in known["windowed_types"] and not options["disable_hybrid_swa_memory"]
    return CacheTypes(kv_elems, kv_bytes, 2, options["page_size"], windows, known["index_scale_elems"])


def _card(
    scheme: Scheme,
    machine: Machine,
    profile: EngineProfile,
    device: Device,
    stage: int,
    seats: tuple[Seat, ...],
    asked: Workload,
) -> Card:
    """The terms of one rank that are fixed, and what is free before loading."""
    others = machine.gpu_used_bytes
    context = served.context_term(profile, device, asked)
    loaded = spread(profile, "runtime", "loading", "what loading leaves beside the tensors")
    terms = (
        served.weights_term(scheme, profile, seats[stage].weights),
        context,
        loaded,
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return Card(device, stage, max((device.usable_bytes or 0) - context.bytes - others, 0), terms)


# --- what the requests take -------------------------------------------------------------------------------------------


def cell_bytes(cells: Cells, settings: Settings) -> int:
    """Bytes of one token of the pool on a rank."""
    size: int = pools.token_bytes(
        full_bytes=cells.full_bytes, window_bytes=cells.window_bytes, ratio_e4=settings.window_ratio_e4
    )
    return size


def _request_tokens(prepared: Prepared, cells: Cells, context_tokens: Any) -> Any:
    """Tokens of the pool that one request needs; more than its context where the windowed layers' share is short."""
    if not cells.window_bytes:
        return context_tokens
    return pools.windowed_tokens(
        context_tokens=context_tokens,
        window_tokens=cells.window_tokens,
        extra_tokens=prepared.profile.constants["window_extra_tokens"],
        ratio_e4=prepared.settings.window_ratio_e4,
    )


def _cache_terms(prepared: Prepared, seat: Seat, context_tokens: Any, requests: Any) -> tuple[Term, ...]:
    """KV cells of the tokens and slots of recurrent state that the requests take on a rank."""
    settings: Settings = prepared.settings
    terms = []
    cell = cell_bytes(seat.cells, settings)
    if cell:
        terms.append(
            computed(
                "kv_cache", pools.cell_pool_bytes, "exact", requests=requests,
                tokens=_request_tokens(prepared, seat.cells, context_tokens), page_tokens=settings.page_tokens,
                cell_bytes=cell, note=f"{cell / 1024:,.5g} KiB per token, pages of {settings.page_tokens}",
            )
        )  # fmt: skip
    if seat.cells.state_bytes:
        terms.append(
            computed(
                "state", pools.state_pool_bytes, "derived", requests=requests, slots=settings.state_slots,
                state_bytes=seat.cells.state_bytes, note="slots of recurrent state, some for reuse of prefixes",
            )
        )  # fmt: skip
    return tuple(terms)


def _kept_terms(
    prepared: Prepared, card: Card, context_tokens: Any, requests: Any, idle: Any, forward: Term, graphs: Term
) -> tuple[Term, ...]:
    """What lives in the share that the fraction leaves, and what remains of that share.

    An error of the estimates counts only as far as it leaves the share.
    """
    settings: Settings = prepared.settings
    claimed = pools.claimed_bytes(available_bytes=card.available_bytes, fraction_e4=settings.fraction_e4)
    room = card.available_bytes - claimed
    table = computed(
        "compute_buffer", pools.slot_table_bytes, "derived", requests=requests, context_tokens=context_tokens,
        extra_tokens=prepared.profile.constants["slot_table_extra_tokens"], note="table of the requests' cache slots",
    )  # fmt: skip
    inside, low, high = (
        table.bytes + getattr(forward, end) + getattr(graphs, end) for end in ("bytes", "low_bytes", "high_bytes")
    )
    above = most(0, inside - room)
    forward = replace(
        forward,
        low_bytes=forward.bytes - (above - most(0, low - room)),
        high_bytes=forward.bytes + most(0, high - room) - above,
    )
    idle_words = "; idle share of the pools" if prepared.whole.state_bytes else ""
    reserve = computed(
        "reserve", pools.kept_back, "derived", available_bytes=card.available_bytes, claimed_bytes=claimed,
        inside_bytes=inside, idle_bytes=idle,
        sources={"claimed_bytes": f"mem_fraction_static {settings.fraction_e4 / 10000:g}"},
        note="what mem_fraction_static leaves, less what runs in it" + idle_words,
    )  # fmt: skip
    return forward, table, replace(graphs, low_bytes=graphs.bytes, high_bytes=graphs.bytes), reserve


def _forward(prepared: Prepared, seat: Seat) -> Term:
    settings: Settings = prepared.settings
    return served.forward_term(
        prepared.model, prepared.profile, seat, settings.prefill_tokens, settings.graph_batch, prepared.elem_bytes
    )


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every rank."""
    own = split.requests_share(requests=concurrency, ranks=prepared.workload.data_parallel)
    running = sglang_start.requests_of(prepared, concurrency)
    found = []
    for number, card in enumerate(prepared.cards):
        seat = prepared.seats[card.seat]
        cache = _cache_terms(prepared, seat, context_tokens, own)
        forward = _forward(prepared, seat)
        graphs = served.graphs_term(prepared.model, prepared.profile, seat, prepared.options["disable_cuda_graph"])
        idle = _idle_bytes(prepared, card, cache)
        kept = _kept_terms(prepared, card, context_tokens, running, idle, forward, graphs)
        terms = (card.terms[0], *cache, *kept[:1], *card.terms[1:], *kept[1:])
        device = card.device
        found.append(DeviceLedger(device.id, device.name, number, device.memory_bytes, device.usable_bytes, terms))
    return tuple(found)


def _idle_bytes(prepared: Prepared, card: Card, cache: tuple[Term, ...]) -> Any:
    """Parts of the pool that no request can use: the share of state or cache that is set too large for this request,
    and what max_total_tokens leaves."""
    sizes = {term.name: term.bytes for term in cache}
    idle: Any = 0
    if "kv_cache" in sizes and "state" in sizes:
        idle = pools.idle_share(
            kv_bytes=sizes["kv_cache"], state_bytes=sizes["state"], ratio_e4=prepared.settings.state_ratio_e4
        )
    limit, cells = prepared.options["max_total_tokens"], prepared.seats[card.seat].cells
    if limit:
        room, _ = _pool_of(prepared, card)
        idle = idle + max(room - limit * cell_bytes(cells, prepared.settings), 0)
    return idle


# --- the pool ---------------------------------------------------------------------------------------------------------


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """One logical copy of the cache in whole pages, recurrent state apart."""
    return pools.cell_pool_bytes(
        requests=concurrency,
        tokens=_request_tokens(prepared, prepared.whole, context_tokens),
        page_tokens=prepared.settings.page_tokens,
        cell_bytes=cell_bytes(prepared.whole, prepared.settings),
    )


def _pool_of(prepared: Prepared, card: Card) -> tuple[int, int]:
    """(bytes for tokens, how many tokens that is) on one rank, by SGLang's own rule."""
    settings, cells = prepared.settings, prepared.seats[card.seat].cells
    claimed = pools.claimed_bytes(available_bytes=card.available_bytes, fraction_e4=settings.fraction_e4)
    spent = sum(term.bytes for term in card.terms if term.name in ("weights", "runtime"))
    return divided_pool(prepared, cells, max(claimed - spent, 0))


def divided_pool(prepared: Prepared, cells: Cells, room_bytes: int) -> tuple[int, int]:
    """(bytes for tokens, tokens) of a pool of `room_bytes` on a rank with these cells."""
    settings: Settings = prepared.settings
    if cells.state_bytes:
        budget = room_bytes * settings.state_ratio_e4 // (10000 + settings.state_ratio_e4)
        room_bytes -= budget // cells.state_bytes * cells.state_bytes
    cell = cell_bytes(cells, settings)
    if not cell:
        return room_bytes, 0
    tokens = room_bytes // cell // settings.page_tokens * settings.page_tokens
    return room_bytes, min(tokens, prepared.options["max_total_tokens"] or tokens)


def pool(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Pool | None:
    """The KV pool of the tightest rank, and the tokens of all data parallel ranks if each has as much."""
    if not cell_bytes(prepared.whole, prepared.settings):
        return None
    found = [
        _pool_of(prepared, card)
        for card in prepared.cards
        if card.device.usable_bytes is not None and cell_bytes(prepared.seats[card.seat].cells, prepared.settings)
    ]
    if not found:
        return None
    room, tokens = found[0]
    for other_room, other_tokens in found[1:]:
        room, tokens = least(room, other_room), least(tokens, other_tokens)
    return Pool(room, tokens * prepared.workload.data_parallel, prepared.settings.page_tokens)
