"""How SGLang is started: batch sizes by device, the share it may claim, its command, its notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc.engines import distributed, served
from fitcalc.engines.base import as_word, memory_notes, repository
from fitcalc.engines.served import Prepared
from fitcalc.errors import RequestError
from fitcalc.formulas import split
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.workload import Workload
from fitcalc.units import MIB, ceil_div, most

_DTYPE_FLAGS = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_SWITCHES = ("disable_radix_cache", "disable_hybrid_swa_memory")
_MANY_RANKS = 4
"""Tensor parallel degree from which larger decode batches are captured."""
_MANY_GRAPHS = 300
"""Captured batch from which data parallel attention reserves half as much again."""
_GUESSED_TOWER = (24, 1024)
"""Layers and width that SGLang assumes of a vision tower whose config does not say them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """SGLang's numbers, as given or by default; ratios and fractions in ten-thousandths."""

    fraction_e4: int
    prefill_tokens: int
    graph_batch: int
    page_tokens: int
    window_ratio_e4: int
    state_ratio_e4: int
    state_slots: int
    """Slots of recurrent state per running request."""


def with_experts(workload: Workload) -> Workload:
    """The workload with expert parallelism where SGLang's own ep_size asks for it. Raises RequestError for a degree
    between one rank and all of them."""
    degree, ranks = int(workload.options["ep_size"]), workload.tensor_parallel * workload.data_parallel
    if degree in (0, 1):
        return workload
    if degree != ranks:
        hint = f"with {ranks} ranks give ep_size {ranks}, or leave it out to divide each expert's width"
        raise RequestError(f"ep_size {degree}: fitcalc divides whole experts over all ranks or over none", hint=hint)
    return replace(workload, expert_parallel=True)


def check_options(options: Mapping[str, Any], profile: EngineProfile) -> None:
    """Raise RequestError for values that SGLang would refuse."""
    for name in profile.constants.get("fixed_options", ()):
        if options[name] != profile.options[name]:
            said = f"{profile.name} has no --{name.replace('_', '-')}"
            raise RequestError(said, hint=f"it goes by {profile.options[name]}; newer versions take it")
    if not 0 <= options["mem_fraction_static"] < 1:
        hint = "it is the share for weights and KV pool: above 0, below 1"
        raise RequestError(f"mem_fraction_static is {options['mem_fraction_static']}", hint=hint)
    for name in ("swa_full_tokens_ratio", "mamba_full_memory_ratio"):
        if not 0 < options[name] <= (1 if name.startswith("swa") else 100):
            raise RequestError(f"{name} is {options[name]}", hint="leave it out for SGLang's own default")
    for name in ("chunked_prefill_size", "cuda_graph_max_bs", "max_running_requests", "max_total_tokens"):
        if options[name] < 0:
            raise RequestError(f"{name} is {options[name]}", hint="leave it out for SGLang's own default")
    if options["page_size"] < 1:
        raise RequestError(f"page_size is {options['page_size']}", hint="use 1, 16, 32, 64 or 128")


def settings_of(model: ModelSpec, devices: Sequence[Device], workload: Workload, profile: EngineProfile) -> Settings:
    """SGLang's own defaults for these cards, where the options leave them open."""
    options = workload.options
    memory_mib = min((device.memory_bytes or device.usable_bytes or 0) for device in devices) / MIB
    ranks = workload.tensor_parallel * workload.data_parallel
    prefill, batch = batch_sizes(profile, memory_mib, ranks)
    prefill = options["chunked_prefill_size"] or prefill
    requests = options["max_running_requests"]
    batch = options["cuda_graph_max_bs"] or (min(batch, requests) if requests else batch)
    fraction = options["mem_fraction_static"] or default_fraction(model, profile, workload, memory_mib, prefill, batch)
    slots = 1 if options["disable_radix_cache"] else profile.constants["state_slots"]
    return Settings(
        round(fraction * 10000),
        prefill,
        batch,
        options["page_size"],
        round(options["swa_full_tokens_ratio"] * 10000),
        round(options["mamba_full_memory_ratio"] * 10000),
        slots,
    )


def batch_sizes(profile: EngineProfile, memory_mib: float, ranks: int) -> tuple[int, int]:
    """(tokens of a prefill chunk, largest captured decode batch) for a card of this size."""
    tiers = profile.constants["batch_tiers"]
    _, prefill, batch, many = next(tier for tier in tiers if not tier[0] or memory_mib < tier[0])
    return prefill, many if ranks >= _MANY_RANKS else batch


# --- the default of mem_fraction_static -------------------------------------------------------------------------------


def default_fraction(
    model: ModelSpec, profile: EngineProfile, workload: Workload, memory_mib: float, prefill: int, batch: int
) -> float:
    """The share of a card for weights and KV pool that SGLang chooses: by degree, or what a reserve in MiB leaves."""
    known = profile.constants
    ranks = workload.tensor_parallel * workload.data_parallel * workload.pipeline_parallel
    if known["fraction_by_ranks"]:
        fraction: float = next(share for least, share in known["fraction_by_ranks"] if ranks >= least)
    else:
        if known["reserve_tiers"]:
            _, base, each = next(tier for tier in known["reserve_tiers"] if not tier[0] or memory_mib < tier[0])
            reserve = base + each * ranks
        else:
            reserve = reserve_mib(model, profile, workload, memory_mib, prefill, batch)
        fraction = round((memory_mib - reserve) / memory_mib, 3) if memory_mib else known["unknown_fraction"]
    if served.has_tower(model):
        fraction *= _tower_factor(model, profile)
    return min(max(fraction, 0.01), 0.99)


def reserve_mib(
    model: ModelSpec, profile: EngineProfile, workload: Workload, memory_mib: float, prefill: int, batch: int
) -> float:
    """What SGLang sets aside for activations and CUDA graphs [MiB], by its rule of thumb."""
    known = profile.constants["reserve_rule"]
    ranks = workload.tensor_parallel * workload.data_parallel * workload.pipeline_parallel
    graphs = not workload.options["disable_cuda_graph"]
    reserve = known["base"] + max(prefill, known["least_tokens"]) * known["per_token"] + ranks * known["per_rank"]
    reserve += batch * known["per_batch"] if graphs else 0
    if workload.data_parallel > 1:
        each = known["per_copy"] * (1.5 if batch > _MANY_GRAPHS else 1)
        reserve += batch * workload.data_parallel * each
    if graphs and known["per_prefill_graph"] and not _leaves_prefill_graphs(model, profile, workload):
        latent = any(layer.kind == "mla" for layer in model.cache_layers)
        reserve += (
            known["latent_prefill_graphs"] if latent else prefill_graphs(profile, prefill) * known["per_prefill_graph"]
        )
    floor = known["large_floor"] if memory_mib > known["large_from"] else 0
    return float(max(reserve, floor))


def _leaves_prefill_graphs(model: ModelSpec, profile: EngineProfile, workload: Workload) -> bool:
    """SGLang captures no prefill: pipelines, and most models with towers."""
    towers = served.has_tower(model) and model.model_type not in profile.constants["tower_prefill_graph_types"]
    return workload.pipeline_parallel > 1 or towers


def prefill_graphs(profile: EngineProfile, prefill: int) -> int:
    """How many sizes of prefill SGLang captures up to a chunk of `prefill` tokens."""
    count, start = 0, 0
    for stop, step in profile.constants["prefill_graph_steps"]:
        upper = min(stop or prefill, prefill)
        count += max(upper - start, 0) // step
        start = stop
    return count


def _tower_factor(model: ModelSpec, profile: EngineProfile) -> float:
    """How much less SGLang claims for a model with a vision tower: 5 %, more for towers larger than ViT-L/14."""
    tower = [tensor for tensor in model.tensors if tensor.part == "vision" and tensor.is_linear and tensor.layers]
    layers = max((len(tensor.layers) for tensor in tower), default=_GUESSED_TOWER[0])
    layers = _GUESSED_TOWER[0] if model.model_type in profile.constants["unnamed_depth_types"] else layers
    width = next((_width(tensor) for tensor in tower if tensor.role.startswith("attn")), _GUESSED_TOWER[1])
    ratio = layers * width**2 / (_GUESSED_TOWER[0] * _GUESSED_TOWER[1] ** 2)
    return 0.95 * min(max(1 - 0.1 * (ratio - 1), 0.8), 1.05)


def _width(tensor: Tensor) -> int:
    """Width of the states that an attention projection reads or writes."""
    return tensor.shape[0] if tensor.role == "attn_o" else tensor.shape[-1]


# --- the command and the notes ----------------------------------------------------------------------------------------


def requests_of(prepared: Prepared, concurrency: Any) -> Any:
    """Requests that one data parallel rank may run at once: as given, else the engine's least default or what is
    asked for; arrays broadcast."""
    work = prepared.workload
    given: int = prepared.options["max_running_requests"]
    if given:
        return max(given // work.data_parallel, 1)
    return most(prepared.profile.constants["least_requests"],
                split.requests_share(requests=concurrency, ranks=work.data_parallel))  # fmt: skip


def command(prepared: Prepared, context_tokens: int, concurrency: int) -> str:
    """`python -m sglang.launch_server` with every setting that the ledger depends on; on each node where there are
    several."""
    model, scheme, work, options = prepared.model, prepared.scheme, prepared.workload, prepared.options
    settings: Settings = prepared.settings
    parts = ["python -m sglang.launch_server --model-path", as_word(repository(model, scheme))]
    if scheme.kind == "float" and scheme.weight.id != model.dtype and scheme.weight.id in _DTYPE_FLAGS:
        parts.append(f"--dtype {_DTYPE_FLAGS[scheme.weight.id]}")
    parts += [
        f"--context-length {context_tokens}",
        f"--max-running-requests {requests_of(prepared, concurrency) * work.data_parallel}",
        f"--mem-fraction-static {settings.fraction_e4 / 10000:g}",
        f"--chunked-prefill-size {settings.prefill_tokens}",
    ]
    graphs = f"--{prepared.profile.constants['graph_batch_flag']} {settings.graph_batch}"
    parts.append("--disable-cuda-graph" if options["disable_cuda_graph"] else graphs)
    parts += _division_flags(prepared)
    flag = prepared.profile.constants["kv_flags"].get(work.kv_dtype)
    parts += [f"--kv-cache-dtype {flag}"] if flag else []
    parts += [f"--page-size {settings.page_tokens}"] if settings.page_tokens > 1 else []
    parts += [f"--max-total-tokens {options['max_total_tokens']}"] if options["max_total_tokens"] else []
    for name in ("swa_full_tokens_ratio", "mamba_full_memory_ratio"):
        if options[name] != prepared.profile.options[name]:
            parts.append(f"--{name.replace('_', '-')} {options[name]:g}")
    parts += [f"--{name.replace('_', '-')}" for name in _SWITCHES if options[name]]
    return distributed.sglang_commands(" ".join(parts), prepared.machine, work)


def _division_flags(prepared: Prepared) -> list[str]:
    """SGLang counts the data parallel ranks of attention within --tp-size; copies of a dense model beside it."""
    work = prepared.workload
    inside = prepared.model.is_moe
    ranks = work.tensor_parallel * (work.data_parallel if inside else 1)
    flags = [f"--tp-size {ranks}"] if ranks > 1 else []
    flags += [f"--pp-size {work.pipeline_parallel}"] if work.pipeline_parallel > 1 else []
    flags += [f"--ep-size {ranks}"] if work.expert_parallel else []
    if work.data_parallel > 1:
        flags.append(f"--dp-size {work.data_parallel}" + (" --enable-dp-attention" if inside else ""))
    return flags


def notes(prepared: Prepared) -> tuple[str, ...]:
    """What a reader has to know beside the numbers."""
    found = [served.idle_note(prepared), _window_note(prepared), _state_note(prepared)]
    found += memory_notes(prepared.machine)
    if len({card.device.id for card in prepared.cards}) > 1:
        found.append("cards differ: SGLang gives every rank the same work, so the smallest one sets the KV pool")
    return tuple(note for note in found if note)


def _window_note(prepared: Prepared) -> str:
    whole, ratio = prepared.whole, prepared.settings.window_ratio_e4 / 10000
    if not whole.window_bytes:
        windowed = any(layer.kind in ("sliding", "chunked") for layer in prepared.model.cache_layers)
        return "SGLang keeps the full context of this model's windowed layers too" if windowed else ""
    return f"windowed layers have a pool of {ratio:g} × the tokens of the full ones (--swa-full-tokens-ratio)"


def _state_note(prepared: Prepared) -> str:
    if not prepared.whole.state_bytes:
        return ""
    ratio, slots = prepared.settings.state_ratio_e4 / 10000, prepared.settings.state_slots
    each = ceil_div(prepared.whole.state_bytes, MIB)
    return (
        f"recurrent state has a pool of {ratio:g} × the KV pool (--mamba-full-memory-ratio); "
        f"a request takes {slots} slots of {each:,} MiB"
    )
