"""The Python API: fit, load_model, load_device. Joins names, plans, ledgers and the choice; prints nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from fitcalc import __version__, arguments, catalog, choice
from fitcalc import verdict as judge
from fitcalc.advice import recommendation
from fitcalc.engines.options import settled
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.frozen import dataclass
from fitcalc.machine import machine_label, machine_of
from fitcalc.media import batch_of, context_with, media_inputs, media_of, media_words, model_for
from fitcalc.plan import (
    Request,
    division_notes,
    has_imatrix,
    named_scheme,
    nothing_runs,
    required_case,
    runs_gguf,
    weights_of,
)
from fitcalc.quality import quality_of
from fitcalc.quantization import checkpoint_bytes
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import FitReport, KvCache, Limits, Verdict
from fitcalc.spec.workload import Media
from fitcalc.speeds.answer import speed_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from fitcalc.grids.sweep import Sweep
    from fitcalc.spec.capacity_report import CapacityReport
    from fitcalc.spec.cost_report import CostReport
    from fitcalc.spec.training import FinetuneReport

_READERS = {
    "hf-cache:": "caches:model_from_cache",
    "ollama:": "caches:model_from_cache",
    "lmstudio:": "caches:model_from_cache",
    "hf:": "hub:model_from_hub",
}
"""Start of a name -> the reader of such names."""
_GIVE_A_MODEL = "give a catalogue id, a Hugging Face repository id or the path of a model's file or folder"


def load_model(name: str | os.PathLike[str], *, online: bool = False) -> ModelSpec:
    """A model by catalogue id, alias or Hugging Face repository id, or from a path: config.json, *.gguf, *.safetensors
    (or its index), or a folder that holds them; or as another program has downloaded it: 'hf-cache:org/name',
    'ollama:name:tag', 'lmstudio:org/name'. A repository that the catalogue does not know is looked for in the Hugging
    Face cache. 'hf:org/name' (with @revision, /file or :Q4_K_M), or `online` for a repository that the catalogue does
    not list, reads headers from the Hugging Face Hub (extra 'hub'). '-' is a config.json on standard input.

    Raises RequestError for what is no name, UnknownNameError with suggestions, ModelFileError for a file that
    cannot be read, HubError where the Hub does not give it.
    """
    text = arguments.text("model", os.fspath(name) if isinstance(name, os.PathLike) else name, _GIVE_A_MODEL)
    if text == "-":
        return _read_by("stdin:model_from_stdin")
    place = next((place for start, place in _READERS.items() if text.startswith(start)), "")
    if not place and online and not is_path(text) and _is_elsewhere(text):
        place, text = _READERS["hf:"], f"hf:{text}"
    if place:
        return _read_by(place, text)
    if not is_path(text) and not isinstance(name, os.PathLike):
        try:
            found = catalog.resolve("model", text)
        except UnknownNameError as error:
            return _downloaded(text, error)
        if found.kind == "pipelines":
            from fitcalc.pipelines import pipeline_model

            return pipeline_model(text)
        return catalog.load_model(text)
    from fitcalc.readers.files import model_from_path

    return model_from_path(os.path.expanduser(text))


def _read_by(place: str, *names: str) -> ModelSpec:
    module, _, function = place.partition(":")
    spec: ModelSpec = getattr(import_module(f"fitcalc.readers.{module}"), function)(*names)
    return spec


def _is_elsewhere(name: str) -> bool:
    """A repository that the catalogue does not list under this very name."""
    from fitcalc.readers.hub_names import is_repository

    if not is_repository(name):
        return False
    try:
        return bool(catalog.resolve("model", name).note)
    except UnknownNameError:
        return True


def _downloaded(name: str, error: UnknownNameError) -> ModelSpec:
    """The repository of this name in the Hugging Face cache; `error` where it is not there."""
    from fitcalc.readers.caches import cached_snapshot, model_from_hub_cache

    if "/" in name and cached_snapshot(name) is not None:
        return model_from_hub_cache(name)
    if os.path.exists(name):
        raise UnknownNameError("model", name, hint=f"for the file or folder here, give ./{name}") from error
    if _is_elsewhere(name):
        error.hint += f"; hf:{name} asks the Hugging Face Hub"
    raise error


def is_path(name: str) -> bool:
    """A file or folder rather than a name: it ends like one, or starts with ./ ../ / or ~, or is '.'."""
    return name.endswith((".json", ".gguf", ".safetensors")) or name.startswith(("./", "../", "/", "~")) or name == "."


def load_device(name: str) -> Device:
    """A GPU, CPU or board by id or alias; a bare size ('24GB') is a card without a profile."""
    return catalog.load_device(arguments.text("device", name, "give an id, or a size such as '24GB'"))


def detect() -> Machine:
    """The machine this runs on, as `fit` plans for it where no device is named; its notes say what was found."""
    from fitcalc.detection import look

    return look().machine


def fit(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    ram: str | int | None = None,
    quant: str | None = None,
    context: int | str | None = None,
    concurrency: int | str = 1,
    engine: str | None = None,
    kv_dtype: str | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
    gpu_used: str | int | None = None,
    data_parallel: int | None = None,
    expert_parallel: bool | None = None,
    online: bool = False,
    images: int = 0,
    image_size: str | int | Sequence[int] | None = None,
    audio_seconds: float | None = None,
    resolution: str | int | Sequence[int] | None = None,
    batch: int | str | None = None,
) -> FitReport:
    """Does the model fit on the device, what is each byte for, and what should be run.

    gpu: 'id', 'id:N', a bare size, a node ('dgx-h100:2'), or a list of them. cpu: id. ram, gpu_used: bytes or '32GB'.
    context: tokens per request (default 8192 or the model's limit). concurrency: requests at once, over all data
    parallel ranks. One of the two may be 'auto': the largest with verdict fits. quant, engine: ids; chosen when not
    given. tensor_parallel, pipeline_parallel, data_parallel: degrees whose product is the number of cards in use.
    expert_parallel: whole experts on each rank; None: where nothing else works. engine_options: the engine's own
    names. Without a device, this machine's are detected. online: a repository that the catalogue does not list is read
    from the Hugging Face Hub, as 'hf:org/name' is. images, image_size ('1024x768'), audio_seconds: what each request
    holds besides text; its tokens are part of the context. resolution ('1024', '1024x768'): of the pictures that an
    image generator makes. batch: how many at once, another word for concurrency.

    Raises UnknownNameError, RequestError, ModelFileError (bad input), UnsupportedModelError (cannot be decided).
    """
    found = settle(**locals())
    return report(found.request, found.case, found.verdict, found.looked, asked_quant=found.asked_quant)


@dataclass(frozen=True, slots=True)
class Settled:
    """A question with its plan: what `fit` reports on and `curve` follows."""

    request: Request
    case: judge.Case
    verdict: Verdict
    looked: tuple[choice.Looked, ...]
    asked_quant: str | None


def settle(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    ram: str | int | None = None,
    quant: str | None = None,
    context: int | str | None = None,
    concurrency: int | str = 1,
    engine: str | None = None,
    kv_dtype: str | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
    gpu_used: str | int | None = None,
    data_parallel: int | None = None,
    expert_parallel: bool | None = None,
    online: bool = False,
    images: int = 0,
    image_size: str | int | Sequence[int] | None = None,
    audio_seconds: float | None = None,
    resolution: str | int | Sequence[int] | None = None,
    batch: int | str | None = None,
) -> Settled:
    """The plan that answers a question; arguments and errors are those of `fit`."""
    spec = model if isinstance(model, ModelSpec) else load_model(model, online=online)
    media = media_of(spec, images=images, image_size=image_size, audio_seconds=audio_seconds, resolution=resolution)
    concurrency = batch_of(concurrency, batch)
    spec = model_for(spec, media, engine_options)
    quant = arguments.text_or_none("quant", quant)
    machine = machine_asked(gpu, arguments.text_or_none("cpu", cpu), ram, gpu_used)
    degrees = (tensor_parallel, pipeline_parallel, data_parallel, expert_parallel)
    request = _request(spec, machine, context, concurrency, engine, kv_dtype, degrees, engine_options, media)
    settled_plan = _settled(request, quant)
    if request.auto:
        from fitcalc.limits import largest_that_fits

        request = largest_that_fits(request, settled_plan[1])
        settled_plan = _settled(request, quant)
    looked, case, verdict = settled_plan
    return Settled(request, case, verdict, looked, quant)


def cost(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    quant: str | None = None,
    context: int | str | None = None,
    concurrency: int | str = arguments.AUTO,
    provider: str | None = None,
    spot: bool = False,
    utilization: float = 0.5,
    tokens_per_day: float | None = None,
    prompt: int | None = None,
    output: int | None = None,
    years: float = 3.0,
    electricity: float | None = None,
    prices: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    **plan: Any,
) -> CostReport:
    """What a plan costs to rent and to buy, by the hour, month and million tokens, and from which load on that beats
    the APIs that serve the model. USD; every price with its date.

    provider: of whose machines, by default all. spot: machines that can be interrupted. utilization: share of the day
    that they are busy; with tokens_per_day (prompts and answers together) the most they may be. prompt, output: tokens
    of a request. years: over which a purchase is spread. electricity: USD per kWh. prices: files of own prices, which
    win. The rest is as for `fit`; concurrency is by default the largest that fits.

    Raises what `fit` raises, and ProfileError for a price file.
    """
    from fitcalc.costs import CostRequest, checked, cost_of

    files = (prices,) if isinstance(prices, str | os.PathLike) else tuple(prices)
    request = CostRequest(
        arguments.text_or_none("provider", provider) or "", spot, utilization, tokens_per_day, prompt, output, years,
        electricity, tuple(os.fspath(path) for path in files),
    )  # fmt: skip
    checked(request)
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    tokens = (prompt or 0) + (output or 0)
    if context is None and tokens > judge.default_context(spec, None):
        context = tokens
    if isinstance(context, int) and tokens > context:
        raise RequestError(f"prompt and output of {tokens:,} tokens do not fit into a context of {context:,}")
    found = fit(spec, gpu=gpu, cpu=cpu, quant=quant, context=context, concurrency=concurrency, **plan)
    return cost_of(spec, found, request)


def finetune(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    method: str,
    gpu: str | Sequence[str] | None = None,
    micro_batch: int = 1,
    seq_len: int = 2048,
    rank: int = 16,
    target_modules: str | Sequence[str] = "all-linear",
    optimizer: str = "adamw",
    precision: str = "bf16",
    gradient_checkpointing: bool = True,
    sharding: str = "none",
    attention: str = "sdpa",
    loss: str = "standard",
    offload: str | None = None,
    gradient_accumulation: int = 1,
    trainable_layers: int | None = None,
    trainer: str = "peft",
    tokens: int | None = None,
    price_per_hour: float | None = None,
    emit: str | None = None,
    ram: str | int | None = None,
    gpu_used: str | int | None = None,
    **details: bool,
) -> FinetuneReport:
    """Does a fine-tuning run fit, what is each byte for at its peak, and which settings make it fit.

    method: full, lora, qlora, dora or freeze (the last `trainable_layers`). gpu, ram, gpu_used: as for `fit`.
    micro_batch: sequences of `seq_len` tokens per card at once. target_modules: 'all-linear', 'attention', or names.
    optimizer: adamw, adamw-8bit, paged-adamw-8bit, adafactor, sgd, lion, muon … precision: bf16, fp16, fp32, mixed.
    sharding: none, zero1, zero2, zero3, fsdp. attention: sdpa, flash, eager. loss: standard, chunked, fused. offload:
    optimizer, params, all or activations into host memory. trainer: peft, axolotl, torchtune or litgpt, whose habits
    the estimate follows. tokens: of an epoch, for its time and cost at `price_per_hour` [USD] of a card. emit: a
    starter configuration for peft, axolotl or torchtune. details: compiled, padded, dropout, step_in_backward.

    The report is a FitReport whose limits are the longest sequence and the largest micro batch, with `training`.
    Raises UnknownNameError, RequestError, UnsupportedModelError (no decoder, no GPU).
    """
    from fitcalc.training.answer import answer, settings_of

    settings = settings_of(
        method=method, micro_batch=micro_batch, seq_len=seq_len, rank=rank, target_modules=target_modules,
        optimizer=optimizer, precision=precision, gradient_checkpointing=gradient_checkpointing, sharding=sharding,
        attention=attention, loss=loss, offload=offload, trainer=trainer, gradient_accumulation=gradient_accumulation,
        **details,
    )  # fmt: skip
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    machine = machine_asked(gpu, None, ram, gpu_used)
    return answer(
        spec, machine, settings, trainable_layers=trainable_layers, tokens=tokens, price_per_hour=price_per_hour,
        emit=emit,
    )  # fmt: skip


def sweep(
    models: Any,
    *,
    devices: Any,
    quants: Any = "native",
    contexts: Any = 8192,
    concurrencies: Any = 1,
    engines: Any = None,
    kv_dtypes: Any = None,
    tensor_parallel: Any = None,
    columns: Sequence[str] | None = None,
    executor: Executor | None = None,
) -> Sweep:
    """Every combination of the values on eight axes, each point as `fit` answers it, as arrays that are computed when
    they are asked for. Each axis takes one value or many.

    models: ids, paths or ModelSpecs. devices: 'a100-80:2', '24GB', a node, a CPU or board with its RAM, cards joined by
    '+', or {'gpu': ..., 'cpu': ..., 'ram': ..., 'gpu_used': ...}. quants: ids, 'native' for each model's own type.
    contexts: tokens per request. concurrencies: requests at once. engines, kv_dtypes, tensor_parallel: None where `fit`
    chooses. columns: only these, by default all. executor: of concurrent.futures' kind, Dask's or Ray's too.

    Raises UnknownNameError, RequestError; combinations that no engine runs are masked, with the reason.
    """
    from fitcalc.grids.build import sweep_of

    axes = (models, devices, quants, contexts, concurrencies, engines, kv_dtypes, tensor_parallel)
    return sweep_of(axes, columns, executor)


def capacity(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    rps: float | None = None,
    users: int | None = None,
    think_time: float | str | None = None,
    prompt: int | None = None,
    output: int | None = None,
    trace: str | os.PathLike[str] | None = None,
    max_ttft: float | str | None = None,
    max_tpot: float | str | None = None,
    percentile: float = 95.0,
    head_room: float = 0.2,
    gpu: str | Sequence[str] | None = None,
    context: int | None = None,
    concurrency: int | str = arguments.AUTO,
    provider: str | None = None,
    spot: bool = False,
    prices: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    simulate: bool = False,
    **plan: Any,
) -> CapacityReport:
    """How many replicas of a plan carry a load within limits on time, on how many devices, and what that costs.

    The load: rps (requests per second), users with a think_time between an answer and the next request, or trace, a
    CSV of real requests with columns arrival, prompt and output, sized for its busiest minute. prompt, output: tokens
    of every request, by default 2,048 and 256. max_ttft, max_tpot: limits in seconds or as text ('2s', '50ms') that a
    percentile of the requests holds. head_room: share of each replica's rate that stays free. gpu without a number
    ('h100', not 'h100:2') takes the cheapest number per replica. concurrency: requests that a replica runs at once,
    by default as many as carry most. simulate: a check by simulation. Prices as for `cost`, the rest as for `fit`.

    Raises what `fit` raises, and UnsupportedModelError where the speed of the plan is not modelled.
    """
    from fitcalc.fleets.answer import capacity_of, request_of
    from fitcalc.speeds.within import Bounds

    files = (prices,) if isinstance(prices, str | os.PathLike) else tuple(prices)
    arguments.whole_number("context", context, arguments.MOST_TOKENS)
    requests = arguments.whole_or_auto("concurrency", concurrency, arguments.MOST_REQUESTS, required=True)
    asked = request_of(
        rps=rps, users=users, think_time_s=arguments.seconds_or_none("think_time", think_time),
        prompt=prompt, output=output, trace=trace, percentile=percentile, head_room=head_room, concurrency=requests,
        bounds=Bounds(arguments.seconds_or_none("max_ttft", max_ttft), arguments.seconds_or_none("max_tpot", max_tpot)),
        provider=arguments.text_or_none("provider", provider) or "", spot=spot, simulate=simulate,
        price_files=tuple(os.fspath(path) for path in files),
    )  # fmt: skip
    return capacity_of(model, asked, gpu=gpu, context=context, **plan)


def _settled(request: Request, quant: str | None) -> tuple[tuple[choice.Looked, ...], judge.Case, Verdict]:
    """(what was looked at, the plan, its verdict): with the quantization asked for, else chosen; in RAM if need be."""
    if quant is None:
        looked, chosen = choice.choose_with_ram(request)
        if chosen is None:
            raise nothing_runs(request)
        case, verdict = chosen.case, chosen.verdict
    else:
        looked = ()
        case = required_case(request, named_scheme(request.model, quant))
        verdict = judge.verdict_of(case, request.context_tokens, request.concurrency)
    if verdict == "does_not_fit" and request.machine.ram_bytes is not None:
        moved = choice.with_offload(request, case)
        if moved is not None:
            case = moved
            verdict = judge.verdict_of(case, request.context_tokens, request.concurrency)
    return looked, case, verdict


def report(
    request: Request,
    case: judge.Case,
    verdict: Verdict,
    looked: tuple[choice.Looked, ...],
    *,
    asked_quant: str | None,
) -> FitReport:
    """The report of a settled plan."""
    context, concurrency = request.context_tokens, request.concurrency
    entries, gguf, imatrix = case.ledgers(context, concurrency), runs_gguf(case.profile), has_imatrix(case)
    return FitReport(
        inputs=inputs_of(request, case, asked_quant),
        model=model_facts(request.model),
        verdict=verdict,
        weights_bytes=weights_of(case),
        checkpoint_bytes=checkpoint_bytes(request.model, case.scheme, gguf=gguf, imatrix=imatrix),
        kv_cache=KvCache(
            bytes_per_token=judge.kv_bytes_per_token(case, context),
            bytes=int(case.engine.kv_cache_bytes(case.prepared, context, concurrency)),
        ),
        devices=tuple(judge.device_report(entry) for entry in entries),
        limits=_limits(request, case),
        speed=speed_of(case, context, concurrency),
        recommendation=recommendation(request, case, looked, verdict),
        choices=tuple(entry.row for entry in looked),
        notes=tuple(notes_of(request, case, asked_quant, hosted=not all(entry.decisive for entry in entries))),
        fitcalc_version=__version__,
        pool=judge.pool_of(case, context, concurrency),
        quality=quality_of(request.model, case.scheme, case.workload.kv_dtype, imatrix=imatrix),
    )


def _limits(request: Request, case: judge.Case) -> Limits:
    """How far the plan could be stretched; of an image generator the size of the picture in place of the context."""
    limits = judge.limits_of(case, request.context_tokens, request.concurrency)
    if limits.max_concurrency is None or not request.model.makes_images:
        return limits
    from fitcalc.image_changes import largest_side

    return replace(limits, max_resolution_px=largest_side(request, case, verdicts=("fits", "tight")))


def _request(
    spec: ModelSpec,
    machine: Machine,
    context: int | str | None,
    concurrency: int | str,
    engine: str | None,
    kv_dtype: str | None,
    degrees: tuple[int | None, int | None, int | None, bool | None],
    engine_options: Mapping[str, Any] | None,
    media: Media,
) -> Request:
    tokens = arguments.whole_or_auto("context", context, arguments.MOST_TOKENS)
    requests = arguments.whole_or_auto("concurrency", concurrency, arguments.MOST_REQUESTS, required=True)
    solved: Literal["", "context", "concurrency"] = "context" if arguments.is_auto(context) else ""
    solved = "concurrency" if arguments.is_auto(concurrency) else solved
    if arguments.is_auto(context) and arguments.is_auto(concurrency):
        hint = "give one of them, such as --context 8192 --concurrency auto"
        raise RequestError("context and concurrency cannot both be 'auto': each is bought with the other", hint=hint)
    tensor, pipeline, data, experts = degrees
    arguments.whole_number("tensor_parallel", tensor, arguments.MOST_PARTS)
    arguments.whole_number("pipeline_parallel", pipeline, arguments.MOST_PARTS)
    arguments.whole_number("data_parallel", data, arguments.MOST_PARTS)
    engine_id = arguments.text_or_none("engine", engine)
    return Request(
        model=spec,
        machine=machine,
        context_tokens=context_with(spec, media, judge.default_context(spec, tokens), asked=tokens),
        concurrency=requests or 1,
        kv_dtype=(arguments.text_or_none("kv_dtype", kv_dtype) or "").lower(),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        options=arguments.options_of(engine_options),
        engine=catalog.load_engine(engine_id) if engine_id else None,
        data_parallel=data,
        expert_parallel=arguments.flag_or_none("expert_parallel", experts),
        auto=solved,
        media=media,
    )


def machine_asked(
    gpu: str | Sequence[str] | None, cpu: str | None, ram: str | int | None, gpu_used: str | int | None
) -> Machine:
    """The machine that the arguments of `fit` name, else the one this runs on."""
    names = arguments.gpu_names(gpu, cpu)
    ram = arguments.size_or_none("ram", ram, least=1)
    gpu_used = arguments.size_or_none("gpu_used", gpu_used, least=0)
    if names or cpu:
        return machine_of(names, cpu, ram, gpu_used)
    from fitcalc.detection import this_machine

    return this_machine(ram=ram, gpu_used=gpu_used)


def inputs_of(request: Request, case: judge.Case, asked_quant: str | None) -> dict[str, Any]:
    """Every value of a plan that is used, defaults included."""
    machine = request.machine
    return {
        "model": request.model.id,
        "quant": case.scheme.id,
        "quant_name": case.scheme.name,
        "quant_asked": asked_quant,
        "kv_dtype": case.workload.kv_dtype or next(iter(case.profile.kv_types)),
        "engine": case.profile.id,
        "engine_name": case.profile.name,
        "engine_version": case.profile.version,
        "engine_options": settled(case.workload, case.profile).options,
        "context_tokens": request.context_tokens,
        "concurrency": request.concurrency,
        "devices": list(choice.device_list(machine)),
        "devices_name": machine_label(machine),
        "tensor_parallel": case.workload.tensor_parallel,
        "pipeline_parallel": case.workload.pipeline_parallel,
        "data_parallel": case.workload.data_parallel,
        "expert_parallel": case.workload.expert_parallel,
        "nodes": machine.nodes,
        "node": machine.node.id if machine.node else None,
        "auto": request.auto or None,
        "ram_bytes": machine.ram_bytes,
        "gpu_used_bytes": machine.gpu_used_bytes,
        **media_inputs(request.media),
    }


def model_facts(spec: ModelSpec) -> dict[str, Any]:
    """What a report says of its model."""
    counted = spec.params_total or spec.published_params
    return {
        "id": spec.id,
        "name": spec.name,
        "kind": spec.kind,
        "architecture": spec.model_type,
        "params_total": counted,
        "params_active": spec.params_active or counted,
        "layers": spec.layers,
        "hidden": spec.hidden,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "attention": spec.attention,
        "max_context_tokens": spec.max_context_tokens,
        "dtype": spec.dtype,
        "native_quant": spec.quant.scheme if spec.quant else None,
        "source": spec.source,
    }


def notes_of(request: Request, case: judge.Case, asked_quant: str | None, *, hosted: bool) -> list[str]:
    """What a reader has to know beside the numbers."""
    spec, machine = request.model, request.machine
    notes = [*machine.notes, *spec.notes, *(f"not known: {text}" for text in spec.unknowns)]
    notes += media_words(request.media, request.context_tokens)
    limit = spec.max_context_tokens
    if limit and request.context_tokens > limit:
        notes.append(f"{request.context_tokens:,} tokens is beyond the model's own limit of {limit:,}")
    own = spec.quant.scheme if spec.quant else None
    notes += [_spelled(asked_quant)] if asked_quant and _spelled(asked_quant) else []
    if asked_quant and spec.container == "gguf" and case.scheme.kind != "file":
        notes.append(f"the file is in {own}; {case.scheme.name} is computed as if made from 16 bit, for another file")
    elif asked_quant and own and case.scheme.id != own and case.scheme.kind != "gguf":
        notes.append(f"{spec.name} is published in {own}; {case.scheme.name} is computed as if made from 16 bit")
    elif asked_quant and own == case.scheme.id and asked_quant.lower() != own:
        notes.append(f"{asked_quant} is taken as {own}, the type {spec.name} is published in")
    if hosted and machine.ram_bytes is None:
        notes.append("host RAM is not known (--ram): the host's share is shown and does not decide")
    return [*notes, *division_notes(case, request), *case.engine.notes(case.prepared)]


def _spelled(quant: str) -> str:
    """What a name of a quantization that could mean several is taken as; '' for a plain one."""
    try:
        return catalog.resolve("quant", quant).note
    except UnknownNameError:
        # A name with a group size of its own.
        return ""
