"""Text Generation Inference: a warm-up prefill, then every free byte but a tenth of the card becomes KV blocks.

The pool is `total × cuda_memory_fraction × 0.9 − what is in use after the warm-up`; its blocks hold K and V of every
layer for the full context. CUDA graphs are captured afterwards, into the tenth.
"""

from __future__ import annotations

from typing import Any

from fitcalc.engines import served
from fitcalc.engines.base import DeviceLedger, Pool, as_word, elem_bytes_of, kv_block, memory_notes, repository, spread
from fitcalc.engines.options import settled
from fitcalc.engines.paged import CacheTypes
from fitcalc.engines.served import Card, Prepared, Seat
from fitcalc.errors import RequestError
from fitcalc.formulas import pools, runtime
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Term, computed, fixed, total_bytes
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least, most

__all__ = ["command", "kv_cache_bytes", "ledgers", "notes", "pool", "prepare", "refusal"]

_DTYPE_FLAGS = {"fp16": "float16", "bf16": "bfloat16"}
_FLASHINFER_HEADS = (64, 128, 256)
"""Head widths with blocks of one token; others take FlashDecoding or paged attention."""


@dataclass(frozen=True, slots=True)
class Settings:
    """TGI's numbers: the share of the card before graphs, tokens of the warm-up, tokens of a block."""

    fraction_e4: int
    prefill_tokens: int
    block_tokens: int


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why TGI cannot divide or run the model in this way; None when it can."""
    if workload.pipeline_parallel > 1 or workload.data_parallel > 1 or workload.expert_parallel:
        return f"{profile.name} divides a model by tensor parallelism alone"
    return served.refusal(model, scheme, machine, workload, profile)


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Shares, cells and budgets of every rank. Raises RequestError for options that make no sense."""
    asked = settled(workload, profile)
    share = asked.options["cuda_memory_fraction"]
    if not 0 < share <= 1:
        hint = "it is a share of the card: above 0, at most 1"
        raise RequestError(f"cuda_memory_fraction is {share}", hint=hint)
    elem_bytes, devices = elem_bytes_of(scheme), machine.gpus[: asked.tensor_parallel]
    kv_elems, kv_bytes = kv_block(profile, asked.kv_dtype)
    if (asked.kv_dtype or next(iter(profile.kv_types))) == "auto":
        kv_elems, kv_bytes = 1, elem_bytes
    types = CacheTypes(kv_elems, kv_bytes, elem_bytes, 1, False)
    fraction = round(share * profile.constants["kept_share_e4"])
    prefill = asked.options["max_batch_prefill_tokens"] or default_prefill(model, scheme, devices, profile, share)
    settings = Settings(fraction, prefill, _block_tokens(model, devices, profile))
    seats = served.seats_of(model, scheme, asked, profile, types, elem_bytes)
    plan = Prepared(
        model, scheme, machine, asked, profile, asked.options, seats, (),
        served.whole_cells(model, types, profile), elem_bytes, settings,
    )  # fmt: skip
    return replace(plan, cards=tuple(_card(plan, seats[0], device) for device in devices))


def _block_tokens(model: ModelSpec, devices: tuple[Device, ...], profile: EngineProfile) -> int:
    """Tokens of a block: by the attention that TGI picks for the head width and the card."""
    known = profile.constants
    if model.head_dim in _FLASHINFER_HEADS and model.model_type not in known["paged_types"]:
        return 1
    old = any((card.compute_capability or "8").split(".")[0] in known["paged_capability_majors"] for card in devices)
    return int(known["paged_block" if old else "decoding_block"])


def default_prefill(
    model: ModelSpec, scheme: Scheme, devices: tuple[Device, ...], profile: EngineProfile, share: float
) -> int:
    """TGI's own max_batch_prefill_tokens: FLOP/s of known cards over FLOP per token, within positions and memory."""
    known, width = profile.constants, model.intermediate or model.moe_intermediate
    heads = model.head_dim * (2 * model.heads + 2 * model.kv_heads) + model.heads * model.head_dim
    flop = 2 * model.layers * model.hidden * (heads + 3 * width)
    name = devices[0].name.lower()
    rate = next((rate for word, rate in known["card_tflops"] if word in name), 0) * 10**12 * len(devices)
    optimal = rate // flop if flop else 0
    tokens = int(optimal if optimal > known["least_optimal"] else known["default_prefill_tokens"])
    tokens = min(tokens, model.max_context_tokens or tokens)
    room = _tokens_by_memory(model, devices, known["prefill_memory_share"] * share) if scheme.kind == "float" else None
    return max(tokens if room is None else min(tokens, room), 1)


def _tokens_by_memory(model: ModelSpec, devices: tuple[Device, ...], share: float) -> int | None:
    """Tokens that TGI's launcher finds room for beside a 16-bit model; None where it finds none."""
    memory = (devices[0].memory_bytes or devices[0].usable_bytes or 0) * len(devices)
    width = model.intermediate or model.moe_intermediate
    experts = max(model.experts, 1)
    attention = (model.heads + 2 * model.kv_heads) * model.head_dim + model.heads * model.head_dim * model.hidden
    weights = 2 * (model.layers * (3 * width * experts * model.hidden + attention) + 2 * model.hidden * model.vocab)
    each = 4 * model.kv_heads * model.head_dim * model.layers + 6 * experts * (width + width // 2)
    room = int(memory * share) - weights
    return room // each if room >= 0 and each else None


def _card(plan: Prepared, seat: Seat, device: Device) -> Card:
    """All terms of one rank but what the requests take."""
    profile, settings, others = plan.profile, plan.settings, plan.machine.gpu_used_bytes
    total = device.usable_bytes or 0
    claimed = runtime.requested_bytes(total_bytes=total, utilization_e4=settings.fraction_e4)
    graphs = served.graphs_term(plan.model, profile, seat, plan.options["cuda_graphs"] == "0")
    room = total - claimed
    reserve = computed(
        "reserve", runtime.kept_free, "derived", total_bytes=total, requested_bytes=claimed,
        outside_bytes=graphs.bytes, note="what TGI leaves untouched; CUDA graphs are captured into it",
        sources={"requested_bytes": f"cuda_memory_fraction and {plan.profile.sources['kept_share_e4']}"},
    )  # fmt: skip
    graphs = replace(
        graphs,
        low_bytes=graphs.bytes - (max(graphs.bytes - room, 0) - max(graphs.low_bytes - room, 0)),
        high_bytes=graphs.bytes + max(graphs.high_bytes - room, 0) - max(graphs.bytes - room, 0),
    )
    terms = (
        served.weights_term(plan.scheme, profile, seat.weights),
        served.forward_term(plan.model, profile, seat, settings.prefill_tokens, 1, plan.elem_bytes),
        served.context_term(profile, device, plan.workload),
        spread(profile, "runtime", "workspaces", "workspaces of attention and of matrix libraries"),
        graphs,
        reserve,
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return Card(device, 0, total, terms)


def _cache_term(plan: Prepared, seat: Seat, context_tokens: Any, concurrency: Any) -> Term:
    cell, block = seat.cells.full_bytes, plan.settings.block_tokens
    return computed(
        "kv_cache", pools.cell_pool_bytes, "exact", requests=concurrency, tokens=context_tokens, page_tokens=block,
        cell_bytes=cell, note=f"{cell / 1024:,.5g} KiB per token, blocks of {block}",
    )  # fmt: skip


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every rank."""
    cache = _cache_term(prepared, prepared.seats[0], context_tokens, concurrency)
    return tuple(
        DeviceLedger(
            card.device.id,
            card.device.name,
            number,
            card.device.memory_bytes,
            card.device.usable_bytes,
            (card.terms[0], cache, *card.terms[1:]),
        )
        for number, card in enumerate(prepared.cards)
    )


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """One logical copy of the cache in whole blocks."""
    return pools.cell_pool_bytes(
        requests=concurrency,
        tokens=context_tokens,
        page_tokens=prepared.settings.block_tokens,
        cell_bytes=prepared.whole.full_bytes,
    )


def pool(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Pool | None:
    """The KV pool of the tightest rank and the tokens that TGI reports (max batch total tokens)."""
    cell, block = prepared.seats[0].cells.full_bytes, prepared.settings.block_tokens
    rooms = [
        most(0, card.available_bytes - total_bytes(card.terms))
        for card in prepared.cards
        if card.device.usable_bytes is not None
    ]
    if not cell or not rooms:
        return None
    room = rooms[0]
    for other in rooms[1:]:
        room = least(room, other)
    return Pool(room, room // (cell * block) * block, block)


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """`text-generation-launcher` with every setting that the ledger depends on."""
    model, scheme, work, options = prepared.model, prepared.scheme, prepared.workload, prepared.options
    flag = served.load_flag(model, scheme, prepared.profile)
    name = model.hf_repo if flag else repository(model, scheme)
    parts = ["text-generation-launcher --model-id", as_word(name)]
    if scheme.kind == "float" and scheme.weight.id != model.dtype and scheme.weight.id in _DTYPE_FLAGS:
        parts.append(f"--dtype {_DTYPE_FLAGS[scheme.weight.id]}")
    parts += [f"--quantize {flag}"] if flag else []
    parts += [f"--num-shard {work.tensor_parallel}"] if work.tensor_parallel > 1 else []
    parts += [
        f"--max-input-tokens {max(context_tokens - 1, 1)}",
        f"--max-total-tokens {context_tokens}",
        f"--max-batch-prefill-tokens {prepared.settings.prefill_tokens}",
        f"--max-concurrent-requests {max(concurrency, prepared.profile.constants['concurrent_requests'])}",
        f"--cuda-memory-fraction {options['cuda_memory_fraction']:g}",
    ]
    parts += [f"--cuda-graphs {options['cuda_graphs']}"] if options["cuda_graphs"] else []
    kv_flag = prepared.profile.constants["kv_flags"].get(work.kv_dtype)
    parts += [f"--kv-cache-dtype {kv_flag}"] if kv_flag else []
    return " ".join(parts)


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    found = [served.idle_note(prepared), "TGI is in maintenance mode; its makers point to vLLM and SGLang"]
    if any(layer.kind in ("sliding", "chunked") for layer in prepared.model.cache_layers):
        found.append("TGI keeps the full context of this model's windowed layers too")
    found += memory_notes(prepared.machine)
    return tuple(note for note in found if note)
