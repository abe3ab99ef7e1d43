"""Hugging Face Diffusers: all components of a pipeline loaded, their passes one after another, no cache.

Offloading keeps in RAM what is not running: whole components, or all but the layer that computes.
"""

from __future__ import annotations

from typing import Any

from fitcalc.engines.base import (
    DeviceLedger,
    Pool,
    context_note,
    kv_block,
    memory_notes,
    spread,
)
from fitcalc.engines.diffusers_phases import Part, parts_of, passes
from fitcalc.engines.options import settled
from fitcalc.frozen import dataclass
from fitcalc.ledger import Input, Term, fixed
from fitcalc.quantization import assign
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

OFFLOAD_OPTIONS = {"enable_model_cpu_offload": True}
_PIECES = {"enable_vae_slicing": True, "enable_vae_tiling": True}
LIGHTER = (
    ({"enable_vae_tiling": True}, "the picture decoded in tiles (enable_vae_tiling)"),
    ({"enable_vae_slicing": True}, "pictures decoded one by one (enable_vae_slicing)"),
    (
        {"enable_model_cpu_offload": True},
        "the running component on the card, the rest in RAM (enable_model_cpu_offload)",
    ),
    (
        {"enable_model_cpu_offload": True, **_PIECES},
        "the running component on the card, the rest in RAM (enable_model_cpu_offload), pictures decoded in pieces "
        "(enable_vae_slicing, enable_vae_tiling)",
    ),
    (
        {"enable_sequential_cpu_offload": True, **_PIECES},
        "the running layer on the card, the rest in RAM (enable_sequential_cpu_offload, slow), pictures decoded in "
        "pieces (enable_vae_slicing, enable_vae_tiling)",
    ),
)
"""Settings that lower the peak, least cost of time first, with what they are in words."""
_ALIVE = (
    "activations are the tensors alive in the largest pass: convolutions take workspace beside them where a card has "
    "room, so that a monitor shows more"
)
_LOWER_BOUND = (
    "with slicing, tiling or offloading the figure is a lower bound: convolution workspaces, several GiB for a picture "
    "of 1024 pixels in 32 bit where a card has room, then outweigh what is alive"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan that is settled but for the length of the prompt and the number of pictures."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    workload: Workload
    profile: EngineProfile
    parts: tuple[Part, ...]


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why Diffusers cannot run it in this way; None when it can."""
    options = settled(workload, profile).options
    if not model.makes_images:
        return f"{profile.name} runs image generators, not {model.name}"
    if len(machine.gpus) > 1 or workload.tensor_parallel > 1 or workload.pipeline_parallel > 1:
        return f"{profile.name} is modelled with the whole pipeline on one device, not divided over several"
    if scheme.kind != "float" and not machine.gpus:
        return f"{scheme.name} needs a GPU in {profile.name}; fp32 and bf16 run on a CPU"
    if scheme.kind == "linear" and machine.gpus[0].vendor not in profile.constants["quantizes_on"]:
        return f"{scheme.name} does not run on {machine.gpus[0].name} in {profile.name}"
    if options["attention"] not in ("sdpa", "eager"):
        return f"option attention is {options['attention']!r}: {profile.name} is modelled with sdpa and eager"
    if options["enable_sequential_cpu_offload"] and scheme.kind != "float":
        return f"{profile.name} cannot offload {scheme.name} layer by layer: use enable_model_cpu_offload"
    return None


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """The components with their bytes. Raises RequestError for options that cannot be read."""
    kv_block(profile, workload.kv_dtype)
    return Prepared(model, scheme, machine, settled(workload, profile), profile, parts_of(model, assign(model, scheme)))


def _peak(prepared: Prepared, prompt_tokens: Any, pictures: Any) -> tuple[Any, Any, Term | None, str]:
    """(weights on the device, activations, the largest pass's term, its role) at the peak."""
    asked, options = prepared.workload, prepared.workload.options
    run = prepared.model.run
    stays = sum(part.weight_bytes for part in prepared.parts if run and part.role in run.on_device)
    whole = sum(part.weight_bytes for part in prepared.parts)
    weights: Any = 0
    beside: Any = 0
    term, role = None, ""
    for one in passes(
        prepared.model, prepared.scheme, prepared.parts, asked, prepared.profile, prompt_tokens, pictures
    ):
        held = whole
        if options["enable_sequential_cpu_offload"]:
            held = stays + one.part.largest_bytes
        elif options["enable_model_cpu_offload"]:
            held = stays + (0 if run and one.part.role in run.on_device else one.part.weight_bytes)
        more = held + one.term.bytes > weights + beside
        weights, beside = weights + (held - weights) * more, beside + (one.term.bytes - beside) * more
        if term is None or (isinstance(more, bool) and more):
            term, role = one.term, one.part.role
    return weights, beside, term, role


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of the device, and of the host where components wait there."""
    machine, profile = prepared.machine, prepared.profile
    weights, beside, largest, role = _peak(prepared, context_tokens, concurrency)
    activations = _activations(prepared, beside, largest, role)
    whole = sum(part.weight_bytes for part in prepared.parts)
    if not machine.gpus:
        device = machine.cpu
        host = spread(profile, "runtime", "runtime_host", "Python, PyTorch and its libraries")
        name, capacity = (device.name, device.memory_bytes) if device else ("host RAM", machine.ram_bytes)
        terms = (_weights(prepared, whole), activations, host)
        return (DeviceLedger(device.id if device else "host", name, 0, capacity, machine.ram_bytes, terms),)
    card = machine.gpus[0]
    on_card = (_weights(prepared, weights), activations, *_card_terms(profile, card, machine.gpu_used_bytes))
    first = DeviceLedger(card.id, card.name, 0, card.memory_bytes, card.usable_bytes, on_card)
    if not _offloads(prepared):
        return (first,)
    host_terms = (
        fixed("weights", whole, "exact", note="components that wait"),
        spread(profile, "runtime", "runtime_host", "Python, PyTorch and its libraries"),
    )
    ram = machine.ram_bytes
    return first, DeviceLedger("host", "Host memory", 1, ram, ram, host_terms, decisive=ram is not None)


def _offloads(prepared: Prepared) -> bool:
    options = prepared.workload.options
    return bool(options["enable_model_cpu_offload"] or options["enable_sequential_cpu_offload"])


def _weights(prepared: Prepared, size: Any) -> Term:
    inputs = tuple(Input(f"{part.role}_bytes", part.weight_bytes) for part in prepared.parts)
    if _offloads(prepared):
        return fixed("weights", size, "exact", note="what the largest pass needs; the rest waits in RAM")
    return fixed("weights", size, "exact", " + ".join(item.name for item in inputs), inputs)


def _activations(prepared: Prepared, size: Any, largest: Term | None, role: str) -> Term:
    """Tensors alive in the largest pass; what convolutions and the allocator took above them is the high end."""
    high = size + size * prepared.profile.constants["over_permille"] // 1000
    bound = "lower bound, " if is_lower_bound(prepared) else ""
    note = bound + (f"largest pass: {role.replace('_', ' ')}" if prepared.model.run else "one pass")
    formula, inputs = (largest.formula, largest.inputs) if largest else ("", ())
    return Term("activations", size, size, high, "estimated", formula, inputs, note)


def is_lower_bound(prepared: Prepared) -> bool:
    """Slicing, tiling or offloading is on: convolution workspaces then outweigh what is alive."""
    options = prepared.workload.options
    sliced = options["enable_vae_slicing"] or options["enable_vae_tiling"] or options["enable_attention_slicing"]
    return bool(sliced or _offloads(prepared))


def _card_terms(profile: EngineProfile, card: Device, others: int) -> tuple[Term, ...]:
    if card.context_bytes:
        note = context_note(card, "measured on this card")
        context = fixed("cuda_context", card.context_bytes, "derived", note=note)
    else:
        context = spread(profile, "cuda_context", "context", context_note(card, "grows with the card"))
    return (
        context,
        spread(profile, "runtime", "runtime_gpu", "library workspaces and what PyTorch's allocator holds unused"),
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )


def offloaded(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """The plan where components wait in RAM; None where all are on the card."""
    return prepared if _offloads(prepared) else None


def offload_summary(plan: Prepared) -> str:
    """What waits where, in words."""
    one = "layer" if plan.workload.options["enable_sequential_cpu_offload"] else "component"
    return f"the running {one} on the card, the rest in RAM"


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """None is kept."""
    return 0 * context_tokens * concurrency


def pool(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Pool | None:
    """None: nothing is pooled."""
    return None


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """A Python program that loads the pipeline as the ledger assumes it."""
    from fitcalc.engines.diffusers_command import program

    return program(prepared, concurrency)


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    found = [_LOWER_BOUND if is_lower_bound(prepared) else _ALIVE]
    if prepared.model.run is None:
        found.append("one component alone: no guidance, no other components loaded")
    return (*found, *memory_notes(prepared.machine))
