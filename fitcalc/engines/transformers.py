"""Hugging Face Transformers: one process, weights as stored, a cache that grows with the tokens, one prefill at a time.

Several GPUs share the layers (device_map); without a GPU everything lies in the host's RAM.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from fitcalc.engines.base import (
    DeviceLedger,
    Pool,
    capability,
    context_note,
    elem_bytes_of,
    kv_block,
    memory_notes,
    repository,
    spread,
)
from fitcalc.engines.options import settled
from fitcalc.engines.shards import Rank, layers_held, repeats_of
from fitcalc.engines.transformers_passes import batch_note, encoder_pass, media_term
from fitcalc.formulas import runtime, split, state
from fitcalc.formulas.weights import matrix_bytes
from fitcalc.frozen import dataclass
from fitcalc.ledger import Input, Term, computed, fixed
from fitcalc.quantization import assign
from fitcalc.quantization.stored import Stored
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import CacheLayer, ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least

_TORCH_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Place:
    """One device, the layers it holds, and the terms that do not depend on context and concurrency."""

    id: str
    name: str
    capacity_bytes: int | None
    usable_bytes: int | None
    terms: tuple[Term, ...]
    counts: tuple[int, ...]
    """Layers of each kind of cache on this device."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan that is settled but for context and concurrency."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    workload: Workload
    profile: EngineProfile
    places: tuple[Place, ...]
    kv: tuple[int, int]
    elem_bytes: int
    width: int
    """MLP width that a token goes through: the dense one, or that of its experts."""


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why Transformers cannot run it in this way; None when it can."""
    if workload.tensor_parallel > 1:
        return f"{profile.name} is modelled with whole layers per device, not with tensor parallelism"
    if workload.pipeline_parallel not in (1, max(len(machine.gpus), 1)):
        return f"{profile.name} divides the layers over all devices: leave the pipeline degree out"
    if scheme.kind != "float" and not machine.gpus:
        return f"{scheme.name} needs a GPU in {profile.name}; fp32 and bf16 run on a CPU"
    if len(machine.gpus) > max(model.layers, 1):
        return f"{model.name} has fewer layers than there are devices"
    return _widened(scheme, machine, profile)


def _widened(scheme: Scheme, machine: Machine, profile: EngineProfile) -> str | None:
    """A format that old cards get in 16 bit: what is stored in 8 would take twice what the ledger says."""
    needed = profile.constants["widened_below"].get(scheme.method)
    for device in machine.gpus:
        have = capability(device.compute_capability)
        if needed and have and have < tuple(needed):
            return (
                f"{profile.name} widens {scheme.name} to 16 bit below compute capability "
                f"{'.'.join(map(str, needed))}, {device.name} has {device.compute_capability}: ask for bf16"
            )
    return None


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """Which device holds what. Raises RequestError for options that cannot be read."""
    asked = settled(workload, profile)
    elem_bytes = elem_bytes_of(scheme)
    kv = kv_block(profile, asked.kv_dtype)
    if (asked.kv_dtype or next(iter(profile.kv_types))) == "auto":
        kv = (1, elem_bytes)
    stored = assign(model, scheme)
    devices: tuple[Device | None, ...] = machine.gpus or (machine.cpu,)
    ranges = split.stage_ranges(model.layers, len(devices))
    places = tuple(
        _place(model, scheme, machine, profile, stored, device, Rank(1, 1, first, stop, n == 0, n == len(devices) - 1))
        for n, (device, (first, stop)) in enumerate(zip(devices, ranges, strict=True))
    )
    routed = model.moe_intermediate * model.experts_per_token + model.shared_intermediate
    width = max(model.intermediate, routed)
    return Prepared(model, scheme, machine, asked, profile, places, kv, elem_bytes, width)


def _place(
    model: ModelSpec,
    scheme: Scheme,
    machine: Machine,
    profile: EngineProfile,
    stored: tuple[Stored, ...],
    device: Device | None,
    rank: Rank,
) -> Place:
    """The fixed terms of one device."""
    counts = tuple(layers_held(layer.layers, rank) for layer in model.cache_layers)
    # Exports of tied models in these formats hold the head once more, and it is loaded beside the embedding.
    untied = model.stores_tied_head and scheme.method in profile.constants["untied_methods"]
    weights = _weights(model, stored, rank, untied=untied, whole=rank.is_first and rank.is_last)
    if device is None or device.kind == "cpu":
        terms: tuple[Term, ...] = (
            weights,
            spread(profile, "runtime", "runtime_host", "Python, PyTorch and its libraries"),
        )
        name = device.name if device else "host RAM"
        capacity = device.memory_bytes if device else machine.ram_bytes
        return Place(device.id if device else "host", name, capacity, machine.ram_bytes, terms, counts)
    others = machine.gpu_used_bytes
    found = (
        weights,
        _context(profile, device),
        spread(profile, "runtime", "runtime_gpu", "library workspaces and what PyTorch's allocator holds unused"),
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return Place(device.id, device.name, device.memory_bytes, device.usable_bytes, found, counts)


def _weights(model: ModelSpec, stored: tuple[Stored, ...], rank: Rank, *, untied: bool, whole: bool) -> Term:
    """Tensors as stored. Layers spread over devices may shift by one layer: the interval says so."""
    total = largest_layer = 0
    for entry in stored:
        tensor = entry.tensor
        rows = tensor.shape[0] if tensor.shape else 1
        cols = tensor.elems // (rows * tensor.copies * tensor.repeats) if tensor.elems else 0
        one = tensor.copies * int(matrix_bytes(entry.file_format, rows, cols))
        total += one * repeats_of(tensor, entry.layers, rank)
        total += one if untied and rank.is_last and tensor.role == "embedding" else 0
        largest_layer += one if tensor.layers else 0
    inputs = (Input("tensor_bytes", total),)
    if whole:
        return Term("weights", total, total, total, "exact", "tensor_bytes", inputs)
    note = f"{rank.stop - rank.first} of {model.layers} layers; device_map may shift one"
    low, high = max(total - largest_layer, 0), total + largest_layer
    return Term("weights", total, low, high, "estimated", "tensor_bytes", inputs, note)


def _context(profile: EngineProfile, device: Device) -> Term:
    """The driver's context: measured for the card, else the spread of what was measured on others."""
    if device.context_bytes:
        note = context_note(device, "measured on this card")
        return fixed("cuda_context", device.context_bytes, "derived", note=note)
    return spread(profile, "cuda_context", "context", context_note(device, "grows with the card"))


def _sizes(prepared: Prepared, layer: CacheLayer, count: int, context: Any, requests: Any) -> Iterator[tuple[str, Any]]:
    """(term name, bytes) of one kind of cache layer."""
    elems, size = prepared.kv
    kv = {"layers": count, "requests": requests, "block_bytes": size, "block_elems": elems}
    if layer.kind == "recurrent":
        yield (
            "state",
            state.recurrent_bytes(
                layers=count, channels=layer.conv_channels, kernel=layer.conv_kernel, conv_bytes=prepared.elem_bytes,
                state_elems=layer.state_elems, state_bytes=4 if layer.state_dtype == "fp32" else 2, requests=requests,
            ),
        )  # fmt: skip
        return
    if layer.kind == "compressed":
        window = {"elems_per_token": layer.latent_elems, "window_tokens": layer.window_tokens}
        yield "kv_cache", state.window_bytes(context_tokens=context, **window, **kv)
        entries = {"elems_per_entry": layer.elems_per_token, "compression": layer.compression}
        yield "kv_cache", state.compressed_bytes(context_tokens=context, **entries, **kv)
        return
    tokens = context
    if layer.kind == "cross":
        tokens = layer.window_tokens or context
    elif layer.kind in ("sliding", "chunked"):
        tokens = least(context, layer.window_tokens)
    yield "kv_cache", state.full_bytes(elems_per_token=layer.repeated_elems_per_token, context_tokens=tokens, **kv)


def _cache_terms(prepared: Prepared, counts: tuple[int, ...], context: Any, requests: Any) -> Iterator[Term]:
    """kv_cache and state of the layers that a device holds, each a sum over kinds of layers."""
    parts: dict[str, list[Input]] = {}
    for layer, count in zip(prepared.model.cache_layers, counts, strict=True):
        if not count:
            continue
        for name, size in _sizes(prepared, layer, count, context, requests):
            listed = parts.setdefault(name, [])
            listed.append(Input(f"{layer.kind}_{len(listed) + 1}_bytes", size))
    for name, listed in parts.items():
        formula = " + ".join(item.name for item in listed)
        yield fixed(name, sum(item.value for item in listed), "exact", formula, tuple(listed))


def activations(prepared: Prepared, prompt_tokens: Any, requests: Any) -> Term:
    """Peak of the prefill of a batch of prompts, or the workspace of a dequantizing kernel where that is larger."""
    model, known = prepared.model, prepared.profile.constants
    term = encoder_pass(model, prepared.profile, prepared.elem_bytes, prompt_tokens, requests) if (
        model.kind in ("encoder", "encoder-decoder")
    ) else computed(
        "activations", runtime.eager_peak, "estimated", tokens=prompt_tokens, requests=requests,
        elem_bytes=prepared.elem_bytes, width=prepared.width, hidden=model.hidden,
        copies=known["dequantized_copies"].get(prepared.scheme.weight.id, 0),
        matrix_width=model.intermediate or model.moe_intermediate, sources=prepared.profile.sources,
    )  # fmt: skip
    room = term.bytes * known["activation_spread_permille"] // 1000
    high = term.bytes + room + known["activation_over"]
    return Term(term.name, term.bytes, term.bytes - room, high, "estimated", term.formula, term.inputs)


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every device; the whole context counts as prompt."""
    asked = prepared.workload
    rows = concurrency * asked.options["num_beams"]
    # An encoder sees each request once; its answer is followed along all beams.
    peak = activations(prepared, context_tokens, concurrency if prepared.model.kind == "encoder-decoder" else rows)
    seen = tuple(
        media_term(prepared.model, prepared.profile, asked.media, prepared.elem_bytes, peak.bytes, concurrency)
    )
    return tuple(
        DeviceLedger(
            place.id,
            place.name,
            number,
            place.capacity_bytes,
            place.usable_bytes,
            (
                place.terms[0],
                *_cache_terms(prepared, place.counts, context_tokens, rows),
                peak,
                *(seen if number == 0 else ()),
                *place.terms[1:],
            ),
        )
        for number, place in enumerate(prepared.places)
    )


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """The cache of all layers."""
    counts = tuple(len(layer.layers) for layer in prepared.model.cache_layers)
    terms = _cache_terms(prepared, counts, context_tokens, concurrency * prepared.workload.options["num_beams"])
    return sum(term.bytes for term in terms if term.name == "kv_cache")


def pool(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Pool | None:
    """None: the cache grows as it is needed."""
    return None


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """A Python line that loads the model as the ledger assumes it."""
    model, scheme = prepared.model, prepared.scheme
    flag = prepared.profile.constants["quantized_at_load"].get(scheme.id, "")
    at_load = bool(flag) and not model.quant and scheme.id not in dict(model.quantized_repos) and bool(model.hf_repo)
    repo = model.hf_repo if at_load else repository(model, scheme)
    words = [json.dumps(repo), f'device_map="{"auto" if prepared.machine.gpus else "cpu"}"']
    if scheme.kind == "float":
        words.append(f"dtype=torch.{_TORCH_NAMES.get(scheme.weight.id, 'bfloat16')}")
    if at_load:
        words.append(f"quantization_config=BitsAndBytesConfig({flag})")
    classes = prepared.profile.constants["classes"]
    kind = "reads-images" if any(tensor.part == "vision" for tensor in model.tensors) else model.kind
    name = classes.get(model.model_type) or classes.get(kind if kind in classes else model.kind, "AutoModel")
    lines = [
        f"import torch; from transformers import {name}{', BitsAndBytesConfig' if at_load else ''}",
        f"model = {name}.from_pretrained({', '.join(words)})",
    ]
    if model.kind in classes:
        lines.append(f"model.generation_config.max_length = {context_tokens}")
    return f"python -c {shlex.quote('; '.join(lines))}"


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    found = [batch_note(prepared.model)]
    if len(prepared.places) > 1:
        found.append("device_map spreads layers over the GPUs; they work one after another")
    return (*found, *memory_notes(prepared.machine))
