"""How vLLM is started: batch limits by device, the share it may claim, what it refuses, its command, its notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc.engines import division
from fitcalc.engines.base import as_word, capability, memory_notes, repository
from fitcalc.engines.vllm_plan import Prepared
from fitcalc.errors import RequestError
from fitcalc.formulas import runtime, split
from fitcalc.frozen import replace
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload
from fitcalc.units import format_gib, most

_DTYPE_FLAGS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def check_options(options: Mapping[str, Any], profile: EngineProfile) -> None:
    """Raise RequestError for values that vLLM would refuse."""
    if options["enable_lora"]:
        from fitcalc.engines import vllm_lora

        vllm_lora.check_options(options, tuple(profile.constants["lora_ranks"]))
    share = options["gpu_memory_utilization"]
    if not 0 < share <= 1:
        raise RequestError(f"gpu_memory_utilization is {share}", hint="it is a share of the card: above 0, at most 1")
    if options["block_size"] <= 0:
        raise RequestError(f"block_size is {options['block_size']}", hint="use 16, 32, 64 or 128")
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        if options[name] < 0:
            raise RequestError(f"{name} is {options[name]}", hint="leave it out for vLLM's own default")
    seqs, tokens = options["max_num_seqs"], options["max_num_batched_tokens"]
    if seqs and tokens and tokens < seqs:
        hint = "every request needs at least one token of a batch"
        raise RequestError(f"max_num_batched_tokens {tokens} is below max_num_seqs {seqs}", hint=hint)


def batch_limits(profile: EngineProfile, options: Mapping[str, Any], devices: Sequence[Device]) -> tuple[int, int]:
    """(max_num_seqs, max_num_batched_tokens): as given, else the server's defaults for the first card."""
    known = profile.constants
    size, name = devices[0].usable_bytes or 0, devices[0].name.lower()
    small = any(word in name for word in known["small_batch_names"])
    tier = 2 if size >= known["huge_memory"] else 1 if size >= known["large_memory"] and not small else 0
    requests: int = options["max_num_seqs"] or known["batch_requests"][tier]
    return requests, max(options["max_num_batched_tokens"] or known["batch_tokens"][tier], requests)


def context_bytes(profile: EngineProfile, device: Device, processes: int) -> int:
    """The driver's context (and communicators that exist before vLLM looks at the card)."""
    known = profile.constants
    small = (device.usable_bytes or 0) < known["small_memory"]
    alone: int = device.context_bytes or known["context_small" if small else "context_single"]
    extra: int = known["context_parallel_extra"] if processes > 1 and not small else 0
    return alone + extra


def utilization_e4(
    profile: EngineProfile, options: Mapping[str, Any], devices: Sequence[Device], used_bytes: int
) -> int:
    """The share of every card in ten-thousandths: as given; the default comes down to what is free at start."""
    asked: int = round(options["gpu_memory_utilization"] * 10000)
    if options["gpu_memory_utilization"] != profile.options["gpu_memory_utilization"]:
        return asked
    for device in devices:
        total = device.usable_bytes or 0
        free = max(total - used_bytes - context_bytes(profile, device, len(devices)), 0)
        if total and asked * total > free * 10000:
            asked = free * 100 // total * 100
    return max(asked, 100)


def batch_of(prepared: Prepared, context_tokens: Any, concurrency: Any) -> tuple[Any, Any, Any]:
    """(requests, batch limit, tokens of the profiling pass) of one data parallel rank; arrays broadcast."""
    options, known = prepared.options, prepared.profile.constants
    requests = prepared.requests
    if not options["max_num_seqs"]:
        requests = most(requests, split.requests_share(requests=concurrency, ranks=prepared.workload.data_parallel))
    batch = most(prepared.batch_tokens, requests)
    chunked_above = known["chunked_above_tokens"]
    if chunked_above and not options["max_num_batched_tokens"]:
        whole = runtime.unchunked_tokens(batch_tokens=batch, context_tokens=context_tokens)
        batch = batch + (whole - batch) * (context_tokens <= chunked_above)
    tokens = runtime.profiled_tokens(batch_tokens=batch, requests=requests, context_tokens=context_tokens)
    return requests, batch, tokens


# --- what it refuses --------------------------------------------------------------------------------------------------


def refusal(
    model: ModelSpec, scheme: Scheme, machine: Machine, workload: Workload, profile: EngineProfile
) -> str | None:
    """Why vLLM cannot divide or run the model in this way; None when it can."""
    if model.kind == "component":
        return f"{profile.name} serves language models, {model.name} is a part of something else"
    return division.refusal(model, scheme, machine, with_experts(workload, workload.options), profile)


def with_experts(workload: Workload, options: Mapping[str, Any]) -> Workload:
    """The workload with expert parallelism where vLLM's own option asks for it."""
    asked = str(options.get("enable_expert_parallel", "")).lower() in ("true", "1", "yes", "on")
    return replace(workload, expert_parallel=True) if asked else workload


# --- the command and the notes ----------------------------------------------------------------------------------------


def _load_time_flag(prepared: Prepared) -> str:
    """The --quantization value with which vLLM could quantize a 16-bit repository itself; '' where it need not."""
    model, scheme = prepared.model, prepared.scheme
    flags = prepared.profile.constants["quantized_at_load"]
    stored_so = scheme.id in dict(model.quantized_repos) or (model.quant and model.quant.scheme == scheme.id)
    return "" if stored_so or model.quant or not model.hf_repo else str(flags.get(scheme.id, ""))


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """`vllm serve` with every setting that the ledger depends on."""
    model, scheme, work = prepared.model, prepared.scheme, prepared.workload
    requests, batch, _ = batch_of(prepared, context_tokens, concurrency)
    parts = ["vllm serve", as_word(repository(model, scheme))]
    if _halves_bf16(prepared):
        parts.append(f"--dtype {_DTYPE_FLAGS['fp16']}")
    elif scheme.kind == "float" and scheme.weight.id != model.dtype and scheme.weight.id in _DTYPE_FLAGS:
        parts.append(f"--dtype {_DTYPE_FLAGS[scheme.weight.id]}")
    parts += [
        f"--max-model-len {context_tokens}",
        f"--max-num-seqs {requests}",
        f"--max-num-batched-tokens {batch}",
        f"--gpu-memory-utilization {prepared.utilization_e4 / 10000:g}",
    ]
    parts += [f"--tensor-parallel-size {work.tensor_parallel}"] if work.tensor_parallel > 1 else []
    parts += [f"--pipeline-parallel-size {work.pipeline_parallel}"] if work.pipeline_parallel > 1 else []
    parts += [f"--kv-cache-dtype {work.kv_dtype}"] if work.kv_dtype in prepared.profile.constants["kv_flags"] else []
    parts += ["--enable-expert-parallel"] if work.expert_parallel else []
    parts += ["--enforce-eager"] if prepared.options["enforce_eager"] else []
    if prepared.options["block_size"] != prepared.profile.options["block_size"]:
        parts.append(f"--block-size {prepared.options['block_size']}")
    parts += _extra_flags(prepared)
    serve = " ".join(parts)
    if work.ranks == 1:
        return serve
    from fitcalc.engines import distributed

    return distributed.vllm_commands(serve, prepared.machine, work, prepared.profile)


def _extra_flags(prepared: Prepared) -> list[str]:
    """Flags of adapters, speculative decoding and encoders, where they are asked for."""
    options, defaults = prepared.options, prepared.profile.options
    parts = ["--enable-lora"] if options["enable_lora"] else []
    for name in ("max_loras", "max_lora_rank", "max_cpu_loras") if options["enable_lora"] else ():
        parts += [f"--{name.replace('_', '-')} {options[name]}"] if options[name] != defaults[name] else []
    for name in ("fully_sharded_loras", "language_model_only", "skip_mm_profiling"):
        parts += [f"--{name.replace('_', '-')}"] if options[name] else []
    if options["speculative_config"]:
        from fitcalc.engines.vllm_draft import command_text

        parts.append(f"--speculative-config {as_word(command_text(prepared.workload))}")
    return parts


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    found = [
        _load_note(prepared),
        _half_note(prepared),
        _kv_note(prepared),
        _share_note(prepared),
        _idle_note(prepared),
        _weight_only_note(prepared),
        _adapters_note(prepared),
    ]
    found += memory_notes(prepared.machine)
    if any(device.kind == "unified" for device in prepared.machine.gpus):
        found.append("on unified memory other programs share what vLLM may claim; leave room for them")
    if len({card.device.id for card in prepared.cards}) > 1:
        found.append("cards differ: vLLM gives every rank the same work, so the smallest one sets the KV pool")
    if any(not card.starts for card in prepared.cards):
        found.append("vLLM stops at start: less memory is free than gpu_memory_utilization claims")
    return tuple(note for note in found if note)


def _load_note(prepared: Prepared) -> str:
    flag = _load_time_flag(prepared)
    if not flag:
        return ""
    size = prepared.model.params_total * 2 // (prepared.workload.tensor_parallel * prepared.workload.pipeline_parallel)
    return (
        f"vLLM can also quantize the 16-bit repository while loading (--quantization {flag}): "
        f"{format_gib(size)} of 16-bit weights then pass through the card"
    )


def _halves_bf16(prepared: Prepared) -> bool:
    """The model computes in bf16 and a card has none: vLLM runs it in fp16 there."""
    scheme, needed = prepared.scheme, tuple(prepared.profile.constants["bf16_capability"])
    computes = scheme.weight.id if scheme.kind == "float" else prepared.model.dtype
    have = (capability(card.device.compute_capability) for card in prepared.cards)
    return computes == "bf16" and any(own and own < needed for own in have)


def _half_note(prepared: Prepared) -> str:
    needed = ".".join(str(part) for part in prepared.profile.constants["bf16_capability"])
    return f"runs in fp16: bf16 needs compute capability {needed}" if _halves_bf16(prepared) else ""


def _kv_note(prepared: Prepared) -> str:
    kv_dtype = prepared.workload.kv_dtype
    if kv_dtype not in prepared.profile.constants["rare_kv_flags"]:
        return ""
    return f"not every build of vLLM takes --kv-cache-dtype {kv_dtype}; fp8 is as large and common"


def _share_note(prepared: Prepared) -> str:
    default = round(prepared.profile.options["gpu_memory_utilization"] * 10000)
    if prepared.utilization_e4 >= default or prepared.options["gpu_memory_utilization"] * 10000 < default:
        return ""
    return f"gpu_memory_utilization is lowered to {prepared.utilization_e4 / 10000:g}, the share that is free at start"


def _idle_note(prepared: Prepared) -> str:
    idle = len(prepared.machine.gpus) - len(prepared.cards)
    return f"{idle} of {len(prepared.machine.gpus)} GPUs stay idle with this division" if idle else ""


def _weight_only_note(prepared: Prepared) -> str:
    native = capability(prepared.scheme.native_compute_capability)
    have = [capability(card.device.compute_capability) for card in prepared.cards]
    if not native or not any(own and own < native for own in have):
        return ""
    return f"{prepared.scheme.name} runs weight-only on this card: memory as usual, speed as with 16-bit compute"


def _adapters_note(prepared: Prepared) -> str:
    if not prepared.options["enable_lora"]:
        return ""
    from fitcalc.engines.vllm_lora import host_bytes

    size = format_gib(host_bytes(prepared.model, prepared.options))
    return f"adapters that wait take up to {size} of RAM (max_cpu_loras) on top of what loading takes"
