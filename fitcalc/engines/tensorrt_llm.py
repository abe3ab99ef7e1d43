"""TensorRT-LLM: after loading and a trial run of the largest batch, a share of what is free becomes KV blocks.

The pool is `(total − weights − peak of the trial run − memory outside PyTorch) × free_gpu_memory_fraction`, in blocks
of tokens_per_block; CUDA graphs are captured into the share that remains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.engines import served
from fitcalc.engines.base import DeviceLedger, Pool, as_word, elem_bytes_of, kv_block, memory_notes, repository, spread
from fitcalc.engines.options import settled
from fitcalc.engines.paged import CacheTypes
from fitcalc.engines.served import Card, Prepared, Seat
from fitcalc.errors import RequestError
from fitcalc.formulas import pools, split
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Term, computed, fixed, total_bytes
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least, most

__all__ = ["command", "kv_cache_bytes", "ledgers", "notes", "pool", "prepare", "refusal"]


@dataclass(frozen=True, slots=True)
class Settings:
    """TensorRT-LLM's numbers, as given or by default."""

    fraction_e4: int
    block_tokens: int
    batch_tokens: int
    requests: int
    """max_batch_size; 0: what is asked for (state is set aside for every request)."""


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why TensorRT-LLM cannot divide or run the model in this way; None when it can."""
    return served.refusal(model, scheme, machine, workload, profile)


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Shares, cells and budgets of every rank. Raises RequestError for options that make no sense."""
    asked = settled(workload, profile)
    options = asked.options
    _check_options(options)
    elem_bytes, devices = elem_bytes_of(scheme), machine.gpus[: asked.ranks]
    kv_elems, kv_bytes = kv_block(profile, asked.kv_dtype)
    if (asked.kv_dtype or next(iter(profile.kv_types))) == "auto":
        kv_elems, kv_bytes = 1, elem_bytes
    known = profile.constants
    types = CacheTypes(kv_elems, kv_bytes, elem_bytes, 1, False, known["index_scale_elems"])
    seats = served.seats_of(model, scheme, asked, profile, types, elem_bytes)
    whole = served.whole_cells(model, types, profile)
    requests = options["max_batch_size"] or (0 if whole.state_bytes else known["batch_requests"])
    fraction = round(options["free_gpu_memory_fraction"] * 10000)
    settings = Settings(fraction, options["tokens_per_block"], options["max_num_tokens"], requests)
    plan = Prepared(
        model, scheme, machine, asked, profile, options, seats, (), whole, elem_bytes, settings
    )  # fmt: skip
    cards = (_card(plan, device, number // asked.tensor_parallel % len(seats)) for number, device in enumerate(devices))
    return replace(plan, cards=tuple(cards))


def _check_options(options: Mapping[str, Any]) -> None:
    share, block = options["free_gpu_memory_fraction"], options["tokens_per_block"]
    if not 0 < share <= 1:
        hint = "it is a share of what is free: above 0, at most 1"
        raise RequestError(f"free_gpu_memory_fraction is {share}", hint=hint)
    if block < 2 or block & (block - 1):
        raise RequestError(f"tokens_per_block is {block}", hint="use a power of two, such as 32 or 64")
    for name in ("max_batch_size", "max_num_tokens"):
        if options[name] < (name == "max_num_tokens"):
            raise RequestError(f"{name} is {options[name]}", hint="leave it out for TensorRT-LLM's own default")


def _card(plan: Prepared, device: Device, stage: int) -> Card:
    """The terms of one rank but the pool, what it keeps back, and the state."""
    profile, seat, others = plan.profile, plan.seats[stage], plan.machine.gpu_used_bytes
    tokens = plan.settings.batch_tokens
    rows = min(plan.settings.requests or profile.constants["batch_requests"], tokens)
    terms = (
        served.weights_term(plan.scheme, profile, seat.weights),
        served.forward_term(plan.model, profile, seat, tokens, rows, plan.elem_bytes),
        served.context_term(profile, device, plan.workload),
        spread(profile, "runtime", "workspaces", "workspaces and buffers outside PyTorch"),
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return Card(device, stage, max(device.usable_bytes or 0, 0), terms)


def _state_term(plan: Prepared, seat: Seat, own: Any) -> tuple[Term, ...]:
    """Recurrent state, set aside for every request that may run at once."""
    if not seat.cells.state_bytes:
        return ()
    return (
        computed(
            "state", pools.state_pool_bytes, "derived", requests=plan.settings.requests or own, slots=1,
            state_bytes=seat.cells.state_bytes, note="set aside for max_batch_size requests",
        ),
    )  # fmt: skip


def _free_terms(plan: Prepared, card: Card, seat: Seat, state: tuple[Term, ...]) -> tuple[Term, ...]:
    """CUDA graphs and the share of what is free that is kept back, of which they take."""
    spent = total_bytes((*card.terms, *state))
    claimed = pools.share_of_free(
        available_bytes=card.available_bytes, spent_bytes=spent, fraction_e4=plan.settings.fraction_e4
    )
    free = most(0, card.available_bytes - spent)
    graphs = served.graphs_term(plan.model, plan.profile, seat, plan.options["cuda_graph_disabled"])
    kept = free - claimed
    above = most(0, graphs.bytes - kept)
    reserve = computed(
        "reserve", pools.kept_back, "derived", available_bytes=free, claimed_bytes=claimed, inside_bytes=graphs.bytes,
        idle_bytes=0, note="the share of free memory that is no KV pool; CUDA graphs are captured into it",
        sources={"claimed_bytes": f"free_gpu_memory_fraction {plan.settings.fraction_e4 / 10000:g}"},
    )  # fmt: skip
    graphs = replace(
        graphs,
        low_bytes=graphs.bytes - (above - most(0, graphs.low_bytes - kept)),
        high_bytes=graphs.bytes + most(0, graphs.high_bytes - kept) - above,
    )
    return graphs, reserve


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every rank."""
    own = split.requests_share(requests=concurrency, ranks=prepared.workload.data_parallel)
    found = []
    for number, card in enumerate(prepared.cards):
        seat = prepared.seats[card.seat]
        state = _state_term(prepared, seat, own)
        cell, block = seat.cells.full_bytes, prepared.settings.block_tokens
        cache = computed(
            "kv_cache", pools.cell_pool_bytes, "exact", requests=own, tokens=context_tokens, page_tokens=block,
            cell_bytes=cell, note=f"{cell / 1024:,.5g} KiB per token, blocks of {block}",
        )  # fmt: skip
        kept = _free_terms(prepared, card, seat, state)
        terms = (card.terms[0], *((cache,) if cell else ()), *state, *card.terms[1:], *kept)
        device = card.device
        found.append(DeviceLedger(device.id, device.name, number, device.memory_bytes, device.usable_bytes, terms))
    return tuple(found)


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """One logical copy of the cache in whole blocks, recurrent state apart."""
    return pools.cell_pool_bytes(
        requests=concurrency,
        tokens=context_tokens,
        page_tokens=prepared.settings.block_tokens,
        cell_bytes=prepared.whole.full_bytes,
    )


def pool(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Pool | None:
    """The KV pool of the tightest rank, and the tokens of all data parallel ranks if each has as much."""
    block = prepared.settings.block_tokens
    own = split.requests_share(requests=concurrency, ranks=prepared.workload.data_parallel)
    found = []
    for card in prepared.cards:
        seat = prepared.seats[card.seat]
        if card.device.usable_bytes is None or not seat.cells.full_bytes:
            continue
        spent = total_bytes((*card.terms, *_state_term(prepared, seat, own)))
        room = pools.share_of_free(
            available_bytes=card.available_bytes, spent_bytes=spent, fraction_e4=prepared.settings.fraction_e4
        )
        found.append((room, room // (seat.cells.full_bytes * block) * block))
    if not found:
        return None
    room, tokens = found[0]
    for other_room, other_tokens in found[1:]:
        room, tokens = least(room, other_room), least(tokens, other_tokens)
    return Pool(room, tokens * prepared.workload.data_parallel, block)


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """`trtllm-serve` with every setting that the ledger depends on; a file for those without a flag."""
    work, options, settings = prepared.workload, prepared.options, prepared.settings
    own = int(split.requests_share(requests=concurrency, ranks=work.data_parallel))
    ranks = work.tensor_parallel * work.data_parallel
    parts = [
        f"trtllm-serve {as_word(repository(prepared.model, prepared.scheme))}",
        f"--max_seq_len {context_tokens}",
        f"--max_batch_size {settings.requests or own}",
        f"--max_num_tokens {settings.batch_tokens}",
        f"--kv_cache_free_gpu_memory_fraction {options['free_gpu_memory_fraction']:g}",
    ]
    parts += [f"--tp_size {ranks}"] if ranks > 1 else []
    parts += [f"--pp_size {work.pipeline_parallel}"] if work.pipeline_parallel > 1 else []
    parts += [f"--ep_size {ranks}"] if work.expert_parallel else []
    lines = _file_lines(prepared)
    if not lines:
        return " ".join(parts)
    parts.append("--extra_llm_api_options fitcalc-trtllm.yaml")
    written = "\\n".join(lines)
    return f"printf '{written}\\n' > fitcalc-trtllm.yaml\n" + " ".join(parts)


def _file_lines(prepared: Prepared) -> list[str]:
    """Settings that trtllm-serve takes from a file only."""
    work, options = prepared.workload, prepared.options
    flag = prepared.profile.constants["kv_flags"].get(work.kv_dtype)
    cache = [f"  dtype: {flag}"] if flag else []
    if options["tokens_per_block"] != prepared.profile.options["tokens_per_block"]:
        cache.append(f"  tokens_per_block: {options['tokens_per_block']}")
    lines = ["kv_cache_config:", *cache] if cache else []
    lines += ["enable_attention_dp: true"] if work.data_parallel > 1 else []
    lines += ["cuda_graph_config: null"] if options["cuda_graph_disabled"] else []
    return lines


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    found = [served.idle_note(prepared)]
    if any(layer.kind in ("sliding", "chunked") for layer in prepared.model.cache_layers):
        found.append("windowed layers are counted with the full context: a window of their own has to be configured")
    if not prepared.settings.requests:
        found.append("max_batch_size is set to the requests asked for: recurrent state is set aside for each")
    found.append("few start-up logs of TensorRT-LLM are public: its workspaces have a wide interval")
    found += memory_notes(prepared.machine)
    return tuple(note for note in found if note)
