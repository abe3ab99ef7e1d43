"""Ollama: it chooses cards, batch and layers by rules of its own, then runs llama.cpp, whose ledger this is.

Options carry Ollama's names (num_gpu, num_batch, OLLAMA_*); those of llama.cpp follow from them. What Ollama keeps
free on a card when it places layers itself is a term `reserve`; with num_gpu given it keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from fitcalc.engines import llama_cpp
from fitcalc.engines.base import Ask, DeviceLedger, Pool, at, capability, kv_block
from fitcalc.engines.llama_cpp_offload import resolved
from fitcalc.engines.llama_cpp_settings import switch
from fitcalc.engines.ollama_command import start
from fitcalc.engines.options import settled
from fitcalc.formulas import ollama as rules
from fitcalc.frozen import dataclass, replace
from fitcalc.ledger import Input, fixed
from fitcalc.quantization import checkpoint_bytes
from fitcalc.quantization.mmproj import has_towers
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import MIB, least

OFFLOAD_OPTIONS = {"num_gpu": "fit"}
"""Options of a plan that moves what does not fit on the cards to RAM."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan but for context and concurrency: llama.cpp's over all cards, and over one where Ollama may take one."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    workload: Workload
    profile: EngineProfile
    file_bytes: int
    every_card: Any
    one_card: Any
    flash: bool

    @property
    def leaves_placing(self) -> bool:
        """Ollama chooses which layers go to the cards."""
        return _places_itself(self.workload)


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why Ollama cannot run the combination; None when it can."""
    asked = settled(workload, profile)
    # llama.cpp, which is asked below, has more types.
    kv_block(profile, asked.kv_dtype)
    if _architecture(model, scheme) in profile.constants["single_request"] and _is_several(asked.concurrency):
        return f"{profile.name} serves {model.name} one request at a time: leave --concurrency out"
    engine = _started(profile)
    return llama_cpp.refusal(model, scheme, machine, _passed_on(model, scheme, machine, asked, engine, profile), engine)


def _is_several(concurrency: Any) -> bool:
    return isinstance(concurrency, int) and concurrency > 1


def _architecture(model: ModelSpec, scheme: Scheme) -> str:
    known = scheme.ggml.architectures if scheme.ggml else {}
    return known[model.model_type].name if model.model_type in known else model.model_type


def _started(profile: EngineProfile) -> EngineProfile:
    """The profile of llama.cpp as Ollama starts it: its own name, and what its build does differently."""
    engine = profile.starts
    assert engine is not None, f"{profile.id} names no engine that it starts"
    changed = {key: value for key, value in profile.constants["rules"].items() if key in engine.constants}
    return replace(engine, name=profile.name, constants=engine.constants | changed)


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Everything that is independent of context and concurrency. Raises RequestError for options that make no sense."""
    asked = settled(workload, profile)
    engine = _started(profile)
    passed_on = _passed_on(model, scheme, machine, asked, engine, profile)
    room = _with_room(machine, asked, profile)
    one = None
    if len(machine.gpus) > 1 and not asked.options["OLLAMA_SCHED_SPREAD"]:
        best = max(range(len(machine.gpus)), key=lambda rank: machine.gpus[rank].usable_bytes or 0)
        alone = replace(passed_on, options=passed_on.options | {"split_mode": "none", "main_gpu": best})
        one = _placed_whole(llama_cpp.prepare(model, scheme, room, alone, engine), profile)
    return Prepared(
        model=model,
        scheme=scheme,
        machine=machine,
        workload=asked,
        profile=profile,
        file_bytes=checkpoint_bytes(model, scheme, gguf=True, imatrix=bool(asked.options["imatrix"])),
        every_card=_placed_whole(llama_cpp.prepare(model, scheme, room, passed_on, engine), profile),
        one_card=one,
        flash=passed_on.options["flash_attn"] != "off",
    )


def _placed_whole(plan: Any, profile: EngineProfile) -> Any:
    """The plan; where the version moves whole layers only, as of a model without experts to move by themselves."""
    return plan if profile.constants["moves_experts"] else replace(plan, model=replace(plan.model, experts=0))


def _passed_on(
    model: ModelSpec, scheme: Scheme, machine: Machine, asked: Workload, engine: EngineProfile, profile: EngineProfile
) -> Workload:
    """What Ollama asks of llama.cpp. A batch that follows from the context is put in later."""
    options = asked.options
    batch = options["num_batch"] or profile.constants["least_batch"]
    kv_type = options["OLLAMA_KV_CACHE_TYPE"]
    given = {
        "n_gpu_layers": options["num_gpu"],
        "n_batch": batch,
        "n_ubatch": batch,
        "flash_attn": _flash(model, scheme, machine, asked, profile),
        "type_k": kv_type,
        "type_v": kv_type,
        "mmap": options["use_mmap"],
        "mmproj": switch("mmproj", options["mmproj"], has_towers(model)),
        "imatrix": options["imatrix"],
    }
    return replace(asked, options={key: value for key, value in given.items() if key in engine.options})


def _flash(model: ModelSpec, scheme: Scheme, machine: Machine, asked: Workload, profile: EngineProfile) -> str:
    """The word for llama.cpp: as OLLAMA_FLASH_ATTENTION says, else off where a card or the model's family lacks it."""
    said = str(asked.options["OLLAMA_FLASH_ATTENTION"]).strip().lower()
    known = profile.constants
    if said:
        return "on" if said in ("1", "true", "on") else "off" if said in ("0", "false", "off") else said
    families = known["flash_architectures"]
    if "*" not in families and _architecture(model, scheme) not in families:
        return "off"
    return "" if all(_has_flash(card, known) for card in machine.gpus) else "off"


def _has_flash(card: Device, known: dict[str, Any]) -> bool:
    have = capability(card.compute_capability)
    return not have or (have >= tuple(known["least_flash_capability"]) and have != tuple(known["no_flash_capability"]))


def _places_itself(asked: Workload) -> bool:
    return str(asked.options["num_gpu"]).strip().lower() in ("", "-1", "auto", "fit")


def _kept_bytes(device: Device, asked: Workload, profile: EngineProfile) -> int:
    """What stays free on a card beside everything that is counted, where Ollama places the layers."""
    if not _places_itself(asked):
        return 0
    if profile.constants["fits_by_itself"]:
        return int(asked.options["LLAMA_ARG_FIT_TARGET"]) * MIB
    minimum: int = profile.constants["minimum"]
    if profile.constants["minimum_holds_context"] and profile.starts is not None:
        minimum = max(minimum - (device.context_bytes or profile.starts.constants["context"]["typical"]), 0)
    return minimum + int(asked.options["OLLAMA_GPU_OVERHEAD"])


def _with_room(machine: Machine, asked: Workload, profile: EngineProfile) -> Machine:
    """The machine as the layers are placed on it: without what is kept free."""
    cards = tuple(
        card
        if card.usable_bytes is None
        else replace(card, usable_bytes=max(card.usable_bytes - _kept_bytes(card, asked, profile), 0))
        for card in machine.gpus
    )
    return replace(machine, gpus=cards)


def available_bytes(prepared: Prepared) -> int:
    """Free memory of all cards, as Ollama reckons with it."""
    used = prepared.machine.gpu_used_bytes
    return sum(max((card.usable_bytes or 0) - used, 0) for card in prepared.machine.gpus)


def forecast(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """Ollama's own forecast of a model's memory."""
    model = prepared.model
    trained = least(context_tokens, model.max_context_tokens) if model.max_context_tokens else context_tokens
    kv_heads = min((c.kv_heads for c in model.cache_layers if c.kv_heads), default=model.kv_heads) or 1
    return rules.forecast_bytes(
        file_bytes=prepared.file_bytes,
        layers=model.layers,
        kv_heads=kv_heads,
        head_dim=model.hidden // model.heads if model.heads else 0,
        cells=trained * concurrency,
    )


def batch_tokens(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """Tokens of a batch: num_batch, else what Ollama chooses by context and memory."""
    known, given = prepared.profile.constants, prepared.workload.options["num_batch"]
    if given:
        return given
    cells = context_tokens * concurrency
    cards = prepared.machine.gpus
    if not prepared.flash and any(card.compute_capability for card in cards):
        small = any((card.usable_bytes or 0) <= known["small_card"] for card in cards if card.compute_capability)
        smaller = (known["least_batch"] - known["small_card_batch"]) * (cells > known["small_card_tokens"])
        return known["least_batch"] - smaller * small
    return rules.automatic_batch(
        cells=cells,
        forecast=forecast(prepared, context_tokens, concurrency),
        available_bytes=available_bytes(prepared),
        tiers=known["batch_tiers"],
        least_batch=known["least_batch"],
    )


def plan_at(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """llama.cpp's plan at one context and concurrency: on one card where the forecast fits there, and with its batch.

    Arrays are given plans that are placed already.
    """
    single = isinstance(context_tokens, int) and isinstance(concurrency, int)
    plan = _cards_taken(prepared, at(context_tokens, concurrency)) if single else prepared.every_card
    return _with_batch(plan, batch_tokens(prepared, context_tokens, concurrency))


def _cards_taken(prepared: Prepared, ask: Ask) -> Any:
    return prepared.one_card if prepared.one_card and ask(partial(_goes_on_one, prepared)) else prepared.every_card


def _goes_on_one(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """The forecast fits on the card with the most room."""
    share = prepared.profile.constants["single_card_percent"]
    most = max((card.usable_bytes or 0) - prepared.machine.gpu_used_bytes for card in prepared.machine.gpus)
    return forecast(prepared, context_tokens, concurrency) <= most * share // 100


def _with_batch(plan: Any, batch: Any) -> Any:
    return replace(plan, settings=replace(plan.settings, batch=batch, ubatch=batch))


def _plan_where(prepared: Prepared, ask: Ask) -> Any:
    """`plan_at` for many points at once."""
    return _with_batch(_cards_taken(prepared, ask), ask(partial(batch_tokens, prepared)))


def placed(prepared: Prepared, ask: Ask) -> Prepared:
    """The plan with every layer in its place."""
    return replace(prepared, every_card=llama_cpp.placed(_plan_where(prepared, ask), ask), one_card=None)


def moved(prepared: Prepared, ask: Ask) -> Any:
    """`offloaded` for many points at once."""
    return llama_cpp.moved(_plan_where(prepared, ask), ask)


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """llama.cpp's terms, and on every card in use what Ollama leaves free."""
    found = llama_cpp.ledgers(plan_at(prepared, context_tokens, concurrency), context_tokens, concurrency)
    return _with_kept(prepared, found)


def deciding(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The same without a host that carries overhead alone."""
    found = llama_cpp.deciding(plan_at(prepared, context_tokens, concurrency), context_tokens, concurrency)
    return _with_kept(prepared, found)


def _with_kept(prepared: Prepared, entries: tuple[DeviceLedger, ...]) -> tuple[DeviceLedger, ...]:
    cards = prepared.machine.gpus
    return tuple(_kept(prepared, entry, cards[entry.rank]) if entry.rank < len(cards) else entry for entry in entries)


def _kept(prepared: Prepared, entry: DeviceLedger, device: Device) -> DeviceLedger:
    size = _kept_bytes(device, prepared.workload, prepared.profile)
    terms = entry.terms
    if size and any(term.name == "weights" for term in terms):
        name = "LLAMA_ARG_FIT_TARGET" if prepared.profile.constants["fits_by_itself"] else "minimum"
        inputs = (Input("kept_bytes", size, prepared.profile.sources.get(name, name)),)
        note = "kept free where Ollama places the layers; num_gpu sets it aside"
        terms = (*terms, fixed("reserve", size, "derived", "kept_bytes", inputs, note))
    return replace(entry, usable_bytes=device.usable_bytes, terms=terms)


def offloaded(prepared: Prepared, context_tokens: int, concurrency: int) -> Any:
    """llama.cpp's plan with what does not fit in RAM; None where nothing is to be gained."""
    return llama_cpp.offloaded(plan_at(prepared, context_tokens, concurrency), context_tokens, concurrency)


def offload_summary(plan: Any) -> str:
    """'28 of 33 layers on the card, the rest in RAM'; '' where everything is on the cards."""
    return llama_cpp.offload_summary(plan)


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """K and V over all devices."""
    return llama_cpp.kv_cache_bytes(prepared.every_card, context_tokens, concurrency)


def grows(_prepared: Prepared) -> bool:
    """A batch that follows from context and memory comes down where those no longer have room for it."""
    return False


def pool(_prepared: Prepared, _context_tokens: Any, _concurrency: Any) -> Pool | None:
    """None: llama.cpp allocates what was asked for and nothing more."""
    return None


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """The commands that start Ollama and the model as the ledger assumes them."""
    plan = plan_at(prepared, context_tokens, concurrency)
    return start(prepared, resolved(plan, context_tokens, concurrency), context_tokens, concurrency)


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    return (*_notes(prepared), *llama_cpp.notes(prepared.every_card))


def _notes(prepared: Prepared) -> Iterator[str]:
    known, options = prepared.profile.constants, prepared.workload.options
    overhead = options["OLLAMA_GPU_OVERHEAD"]
    memory = sum(max((card.memory_bytes or 0) - overhead, 0) for card in prepared.machine.gpus)
    own = next(tokens for least_bytes, tokens in known["context_tiers"] if memory >= least_bytes)
    asked = prepared.workload.context_tokens
    if isinstance(asked, int) and asked != own:
        yield f"Ollama's own default here is a context of {own:,} tokens; the command asks for {asked:,}"
