"""The Python API's main part: fit and the plan behind it, load_device, detect. Prints nothing.

The other functions stand with what they own (sources, costs, curves, training, fleets, grids, selection, emission);
`fitcalc/__init__.py` names them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fitcalc import arguments, catalog, choice
from fitcalc import verdict as judge
from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass
from fitcalc.machine import machine_of
from fitcalc.media import batch_of, context_with, media_of, model_for
from fitcalc.plan import Request, named_scheme, nothing_runs, required_case
from fitcalc.reporting import report
from fitcalc.sources import load_model
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import FitReport, Verdict
from fitcalc.spec.workload import Media


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
