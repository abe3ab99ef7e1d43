"""MLX on Apple machines (mlx-lm): weights as stored, caches that grow in steps, one prefill step at a time.

All of it lies in memory that the GPU may wire, whose limit is the device's usable size. Weights and caches follow from
shapes and mlx-lm's source; activations are estimated, held against published peaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fitcalc.engines.base import DeviceLedger, Pool, as_word, elem_bytes_of, kv_block, memory_notes, repository
from fitcalc.engines.options import settled
from fitcalc.formulas import mlx, state
from fitcalc.formulas.runtime import profiled_tokens
from fitcalc.frozen import dataclass
from fitcalc.ledger import Input, Term, fixed
from fitcalc.quantization import assign, total_bytes
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import CacheLayer, ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import least

_WINDOWED = ("sliding", "chunked")
_SINGLE_BYTES = 4
_SCORES = 2
"""Copies of unfused attention scores: before and after the softmax."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Elements that one token of a prefill step holds at a layer's widest moments."""

    layer: int
    attention: int
    score_copies: int
    heads: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan but for context and concurrency."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    workload: Workload
    profile: EngineProfile
    weights_bytes: int
    kv: tuple[int, int]
    kv_bits: int
    elem_bytes: int
    widths: Widths


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why MLX cannot run it in this way; None when it can."""
    if model.kind != "decoder":
        return f"{profile.name} is modelled for decoders, not for {model.name}"
    if workload.tensor_parallel > 1 or workload.pipeline_parallel > 1 or len(machine.gpus) > 1:
        return f"{profile.name} is modelled on one machine"
    if any(layer.kind in ("cross", "compressed") for layer in model.cache_layers):
        return f"{profile.name} has no cache of the kind that {model.name} needs"
    bits = _kv_bits(settled(workload, profile), profile)
    return _quantized_cache_refusal(model, settled(workload, profile), profile, bits) if bits else None


def _quantized_cache_refusal(model: ModelSpec, workload: Workload, profile: EngineProfile, bits: int) -> str | None:
    if bits not in (2, 3, 4, 5, 6, 8):
        return f"{profile.name} quantizes its cache to 4 or 8 bits, not to {bits}"
    if any(layer.kind in _WINDOWED for layer in model.cache_layers):
        return f"{profile.name} cannot quantize the rotating cache that {model.name} uses: leave the KV type out"
    group = workload.options["kv_group_size"]
    if any(dim % group for layer in model.cache_layers for dim in (layer.key_dim, layer.value_dim)):
        return f"groups of {group} do not divide a KV head of {model.name}"
    if not isinstance(workload.concurrency, int) or workload.concurrency > 1:
        return f"{profile.name} serves several requests with a 16-bit cache only"
    return None


def prepare(model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile) -> Prepared:
    """What does not depend on context and concurrency. Raises RequestError for options that cannot be read."""
    asked = settled(workload, profile)
    bits = _kv_bits(asked, profile)
    elem_bytes = elem_bytes_of(scheme)
    return Prepared(
        model=model,
        scheme=scheme,
        machine=machine,
        workload=asked,
        profile=profile,
        weights_bytes=total_bytes(assign(model, scheme)),
        kv=_block(bits, asked.options["kv_group_size"]) if bits else (1, elem_bytes),
        kv_bits=bits,
        elem_bytes=elem_bytes,
        widths=_widths(model, profile, quantized_cache=bits > 0),
    )


def _kv_bits(workload: Workload, profile: EngineProfile) -> int:
    """Bits of a quantized cache, from kv_bits or the KV type; 0 for the type of the activations."""
    kv_block(profile, workload.kv_dtype)
    asked: int = workload.options["kv_bits"]
    return asked or int(profile.constants["kv_bits_of"].get(workload.kv_dtype, 0))


def _block(bits: int, group: int) -> tuple[int, int]:
    """(elements, bytes) of a group with its 16-bit scale and bias."""
    return group, group * bits // 8 + 4


def _widths(model: ModelSpec, profile: EngineProfile, *, quantized_cache: bool) -> Widths:
    gated = 3 if model.gated_mlp else 2
    used = model.experts_per_token
    routed = used * (gated * model.moe_intermediate + model.hidden) + gated * model.shared_intermediate
    attending = [layer for layer in model.cache_layers if layer.kind != "recurrent"]
    fused = all(
        layer.key_dim == layer.value_dim and layer.key_dim in profile.constants["fused_head_dims"]
        for layer in attending
    )
    head_dim = max((max(layer.key_dim, layer.value_dim, model.head_dim) for layer in attending), default=0)
    return Widths(
        layer=max(gated * model.intermediate, routed) + 4 * model.hidden,
        attention=4 * model.hidden + 2 * model.heads * head_dim,
        score_copies=0 if fused and not quantized_cache else _SCORES,
        heads=model.heads if attending else 0,
    )


def _layer_tokens(prepared: Prepared, layer: CacheLayer, context: Any) -> Any:
    """Tokens that a layer's cache has room for."""
    options = prepared.workload.options
    step = prepared.profile.constants["step_tokens"]
    if layer.kind not in _WINDOWED:
        return mlx.grown_tokens(context_tokens=context, step_tokens=step)
    prefill = options["prefill_step_size"]
    return mlx.rotating_tokens(context_tokens=context, window_tokens=layer.window_tokens, prefill_tokens=prefill)


def _elems(prepared: Prepared, layer: CacheLayer) -> int:
    """Elements per token of one layer; latents only in the families whose mlx-lm class caches them."""
    model = prepared.model
    if layer.kind != "mla" or model.model_type in prepared.profile.constants["latent_model_types"]:
        return layer.elems_per_token
    value = max(tensor.shape[-1] for tensor in model.tensors if tensor.role == "attn_o")
    key = max(t.shape[0] for t in model.tensors if t.role in ("mla_q_b", "attn_q"))
    return key + value


def _sizes(prepared: Prepared, context: Any, requests: Any) -> Iterator[tuple[str, str, Any]]:
    """(term name, input name, bytes) of every kind of cache layer."""
    elems, size = prepared.kv
    for number, layer in enumerate(prepared.model.cache_layers, 1):
        count = len(layer.layers)
        if layer.kind == "recurrent":
            yield (
                "state",
                f"recurrent_{number}_bytes",
                state.recurrent_bytes(
                    layers=count, channels=layer.conv_channels, kernel=max(layer.conv_kernel - 1, 0),
                    conv_bytes=prepared.elem_bytes, state_elems=layer.state_elems,
                    state_bytes=_SINGLE_BYTES if layer.state_dtype == "fp32" else prepared.elem_bytes,
                    requests=requests,
                ),
            )  # fmt: skip
            continue
        tokens = _layer_tokens(prepared, layer, context)
        held = {"layers": count, "elems_per_token": _elems(prepared, layer), "requests": requests}
        taken = state.full_bytes(context_tokens=tokens, block_bytes=size, block_elems=elems, **held)
        yield "kv_cache", f"{layer.kind}_{number}_bytes", taken


def _caches(prepared: Prepared, context: Any, requests: Any) -> Iterator[Term]:
    parts: dict[str, list[Input]] = {}
    for name, label, size in _sizes(prepared, context, requests):
        parts.setdefault(name, []).append(Input(label, size))
    notes = {"kv_cache": f"grows by {prepared.profile.constants['step_tokens']} tokens"}
    for name, listed in parts.items():
        formula = " + ".join(item.name for item in listed)
        total = sum(item.value for item in listed)
        yield fixed(name, total, "derived", formula, tuple(listed), notes.get(name, ""))


def _kept(prepared: Prepared, caches: list[Term], requests: Any) -> Iterator[Term]:
    """Caches of ended conversations, kept for the next turn: none at the start, at most as many as the option says."""
    kept = prepared.workload.options["prompt_cache_size"]
    if not kept or prepared.kv_bits or not caches:
        return
    one = sum(term.bytes for term in caches) // requests
    inputs = (Input("conversations", kept, "prompt_cache_size"), Input("cache_bytes", one))
    note = "cache of an ended conversation, kept for its next turn"
    yield Term("runtime", kept * one, 0, kept * one, "estimated", "conversations * cache_bytes", inputs, note)


def activations(prepared: Prepared, context: Any, requests: Any) -> Term:
    """Peak of one prefill step: a layer's widest moment and, in versions that compute them, a whole step's logits."""
    options, known, widths = prepared.workload.options, prepared.profile.constants, prepared.widths
    prompts = least(requests, options["prompt_concurrency"]) if not prepared.kv_bits else 1
    step = profiled_tokens(batch_tokens=options["prefill_step_size"], requests=1, context_tokens=context)
    numbers = {
        "prompts": prompts,
        "tokens": step,
        "elem_bytes": prepared.elem_bytes,
        "layer_width": widths.layer,
        "attention_width": widths.attention,
        "copies": widths.score_copies,
        "heads": widths.heads,
        "cells": context,
    }
    peak = mlx.layer_peak(**numbers)
    ends = 1 if known["ends_in_one_token"] else step
    logits = mlx.logits_peak(prompts=prompts, tokens=ends, elem_bytes=prepared.elem_bytes, vocab=prepared.model.vocab)
    low, high = known["layer_spread_percent"]
    inputs = (*(Input(name, value) for name, value in numbers.items()), Input("logits_bytes", logits))
    note = f"prefill in steps of {options['prefill_step_size']} tokens"
    formula = f"{mlx.layer_peak.text} + logits_bytes"
    return Term(
        "activations", peak + logits, peak * low // 100 + logits, peak * high // 100 + logits, "estimated",
        formula, inputs, note,
    )  # fmt: skip


def _buffers(prepared: Prepared, held: Term) -> Term:
    """Buffers that were freed and wait for reuse: emptied after every prefill step, and when memory runs short."""
    share = (prepared.machine.gpus[0].usable_bytes or 0) // prepared.profile.constants["kept_share"]
    inputs = (Input("activations_bytes", held.bytes), Input("share_bytes", share))
    note = "freed buffers kept for reuse; given back when memory is short"
    formula = "least(activations_bytes // 2, share_bytes)"
    size, high = least(held.bytes // 2, share), least(held.high_bytes, share)
    return Term("runtime", size, 0, high, "estimated", formula, inputs, note)


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms on the one device."""
    device = prepared.machine.gpus[0]
    caches = list(_caches(prepared, context_tokens, concurrency))
    held = activations(prepared, context_tokens, concurrency)
    others = prepared.machine.gpu_used_bytes
    size = prepared.weights_bytes
    terms = (
        Term("weights", size, size, size, "exact", "tensor_bytes", (Input("tensor_bytes", size),)),
        *caches,
        *_kept(prepared, caches, concurrency),
        held,
        _buffers(prepared, held),
        *((fixed("desktop", others, "exact", note="held by others"),) if others else ()),
    )
    return (DeviceLedger(device.id, device.name, 0, device.memory_bytes, device.usable_bytes, terms),)


def kv_cache_bytes(prepared: Prepared, context_tokens: Any, concurrency: Any) -> Any:
    """The cache of all layers, in the steps in which it grows."""
    return sum(size for name, _, size in _sizes(prepared, context_tokens, concurrency) if name == "kv_cache")


def pool(_prepared: Prepared, _context_tokens: Any, _concurrency: Any) -> Pool | None:
    """None: caches grow as they are needed."""
    return None


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """The command that starts the server as the ledger assumes it; before it, one that makes a quantized copy."""
    model, scheme, options = prepared.model, prepared.scheme, prepared.workload.options
    made = scheme.kind == "mlx" and _converts(model, scheme)
    source = as_word(f"{model.id}-{scheme.id}" if made else repository(model, scheme))
    first = []
    if made:
        group = scheme.weight.group_elems
        words = ["mlx_lm.convert", "--hf-path", as_word(model.hf_repo), "-q", "--q-bits", str(scheme.bits)]
        first = [*words, "--q-group-size", str(group), "--mlx-path", f"{source}\n"]
    if prepared.kv_bits:
        kept = ["--kv-bits", str(prepared.kv_bits), "--kv-group-size", str(options["kv_group_size"])]
        room = ["--quantized-kv-start", "0", "--max-tokens", str(context_tokens)]
        return _lines([*first, "mlx_lm.generate", "--model", source, *kept, *room, "--prompt", "-"])
    at_once = ["--decode-concurrency", str(concurrency), "--prompt-concurrency", str(options["prompt_concurrency"])]
    kept = ["--prefill-step-size", str(options["prefill_step_size"])]
    kept += ["--prompt-cache-size", str(options["prompt_cache_size"])]
    return _lines([*first, "mlx_lm.server", "--model", source, *at_once, *kept])


def _lines(words: list[str]) -> str:
    return " ".join(words).replace("\n ", "\n")


def _converts(model: ModelSpec, scheme: Scheme) -> bool:
    """No quantized repository is known, but the published weights can be quantized here."""
    return scheme.id not in dict(model.quantized_repos) and bool(model.hf_repo) and model.quant is None


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    model = prepared.model
    found = ["mlx-lm sets no limit to a context: a conversation beyond the one asked for takes more cache"]
    if any(tensor.part in ("vision", "audio", "projector") for tensor in model.tensors):
        found.append("mlx-lm runs the text model; the towers stay in 16 bit and need mlx-vlm")
    if model.quant is not None and model.quant.scheme != prepared.scheme.id:
        found.append(f"MLX repositories of {model.name} may keep its {model.quant.scheme} tensors as they are")
    return (*found, *memory_notes(prepared.machine))
