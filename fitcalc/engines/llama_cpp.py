"""llama.cpp (and Ollama, which runs it): buffers that are allocated once at start, layers on cards or on the host.

Without n_gpu_layers a plan puts everything on the cards; a number obeys llama.cpp's own rule of which layers go there;
`n_gpu_layers = fit` moves what does not fit to RAM, at every context and concurrency anew: routed experts first, then
whole layers. Beside the contract of fitcalc.engines.base there is
    offloaded(prepared, context_tokens, concurrency) -> Prepared | None
        that plan, None where nothing is to be gained: no cards, memory shared with the host, layers placed by hand,
        or a card that cannot even hold its buffers. The host's ledger then decides, so RAM has to be known.
    offload_summary(prepared) -> str
        '28 of 33 layers on the card, the rest in RAM'; '' where everything is on the cards.
    placed(prepared, ask) -> Prepared, moved(prepared, ask) -> Prepared | None
        the plan at a point, and `offloaded` there, for many points at once (base.Ask).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fitcalc.engines import llama_cpp_ledgers
from fitcalc.engines.base import DeviceLedger, Pool, memory_notes, most_requests
from fitcalc.engines.llama_cpp_command import start_command
from fitcalc.engines.llama_cpp_ledgers import kv_cache_bytes, repacked_bytes
from fitcalc.engines.llama_cpp_offload import moved, offload_summary, offloaded, placed, resolved
from fitcalc.engines.llama_cpp_placement import overrides_of
from fitcalc.engines.llama_cpp_plan import Prepared, prepare, shape_at
from fitcalc.engines.llama_cpp_settings import Settings, settings_of, window_tokens
from fitcalc.engines.options import settled
from fitcalc.quantization.mmproj import has_towers
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload

__all__ = [
    "OFFLOAD_OPTIONS",
    "Prepared",
    "command",
    "deciding",
    "grows",
    "kv_cache_bytes",
    "ledgers",
    "moved",
    "notes",
    "offload_summary",
    "offloaded",
    "placed",
    "pool",
    "prepare",
    "refusal",
]


OFFLOAD_OPTIONS = {"n_gpu_layers": "fit"}
"""Options of a plan that moves what does not fit on the cards to RAM."""


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why llama.cpp cannot run the combination; None when it can."""
    if model.kind not in ("decoder", "encoder"):
        return f"{profile.name} is modelled for decoders and encoders, not for {model.name}"
    if scheme.ggml is not None and model.model_type not in scheme.ggml.architectures:
        return f"{profile.name} has no converter for {model.model_type}"
    if workload.tensor_parallel > 1:
        return f"{profile.name} divides a model by layers, not by tensors: leave out --tp"
    most = most_requests(profile)
    if most and workload.concurrency > most:
        return f"{profile.name} runs at most {most} requests at once"
    for name in (workload.kv_dtype, workload.options.get("type_k"), workload.options.get("type_v")):
        if name and str(name).startswith("fp8"):
            return f"{profile.name} has no fp8 KV cache: use q8_0"
    settings = settings_of(settled(workload, profile), profile)
    options = settled(workload, profile).options
    if options["split_mode"] not in ("layer", "row", "none"):
        return f"split_mode {options['split_mode']} is not modelled for {profile.name}: use layer, row or none"
    if not 0 <= options["main_gpu"] < max(len(machine.gpus), 1):
        return f"main_gpu {options['main_gpu']} names none of the {len(machine.gpus)} cards"
    overrides_of(str(options["override_tensor"]), len(machine.gpus))
    if len(options["tensor_split"]) > max(len(machine.gpus), 1):
        return f"tensor_split names {len(options['tensor_split'])} shares for {len(machine.gpus)} cards"
    return _cache_refusal(model, settings, profile)


def _cache_refusal(model: ModelSpec, settings: Settings, profile: EngineProfile) -> str | None:
    if settings.block_v[0] > 1 and not settings.flash:
        return f"{profile.name} quantizes V only with flash attention: flash_attn on, or V in fp16"
    for layer in model.cache_layers:
        if layer.kind in ("cross", "compressed"):
            return f"{profile.name} has no cache of kind {layer.kind} modelled for {model.name}"
        # Flash attention reads heads, the plain kernels whole rows.
        heads = 1 if settings.flash else max(layer.kv_heads, 1)
        key = layer.latent_elems or heads * layer.key_dim
        if key % settings.block_k[0] or heads * layer.value_dim % settings.block_v[0]:
            return f"KV types {settings.type_k} and {settings.type_v} do not divide a KV head of {model.name}"
    if any(layer.kind == "mla" for layer in model.cache_layers) and settings.type_k != settings.type_v:
        return "latent attention keeps K and V in one cache: give type_k and type_v alike"
    return None


def ledgers(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The terms of every card in rank order and of the host, or of the one device whose memory is shared."""
    return llama_cpp_ledgers.ledgers(resolved(prepared, context_tokens, concurrency), context_tokens, concurrency)


def deciding(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[DeviceLedger, ...]:
    """The same without a host that carries overhead alone."""
    return llama_cpp_ledgers.deciding(resolved(prepared, context_tokens, concurrency), context_tokens, concurrency)


def grows(prepared: Prepared) -> bool:
    """Nothing shrinks as requests come in, but for micro-batches: they are rounded up to a multiple of the streams."""
    return prepared.settings.unified or not prepared.profile.constants["separate_streams"]


def pool(_prepared: Prepared, _context_tokens: Any, _concurrency: Any) -> Pool | None:
    """None: llama.cpp allocates what was asked for and nothing more."""
    return None


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """The command that starts the server as the ledger assumes it."""
    asked, prepared = prepared, resolved(prepared, context_tokens, concurrency)
    shape = shape_at(prepared, context_tokens, concurrency)
    on_cards = sum(share.layers + share.has_output for share in prepared.cards)
    return start_command(
        prepared.model,
        prepared.scheme,
        prepared.profile,
        prepared.workload,
        prepared.settings,
        shape,
        cards=len(prepared.cards),
        gpu_layers=on_cards,
        all_layers=prepared.model.layers + 1,
        cpu_expert_layers=prepared.rules.cpu_expert_layers,
        split=prepared.rules.shares if prepared.rules.shares != asked.rules.shares else (),
    )


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    return tuple(_notes(prepared))


def _notes(prepared: Prepared) -> Iterator[str]:
    model, settings = prepared.model, prepared.settings
    if has_towers(model) and not settings.towers:
        yield "text only: the vision or audio tower is a separate mmproj file (option mmproj)"
    if repacked_bytes(prepared):
        yield "programs that show memory count repacked weights twice; the mapped file gives way when memory is short"
    if window_tokens(model) and prepared.rules.window_cache and not settings.swa_full:
        yield "layers with a window keep the window and one micro-batch per request"
    if prepared.uses_host:
        yield offload_summary(prepared)
    yield from memory_notes(prepared.machine)
