"""The report of a settled plan: what was asked, what the model is, every figure, and what a reader has to know."""

from __future__ import annotations

from typing import Any

from fitcalc import __version__, catalog, choice
from fitcalc import verdict as judge
from fitcalc.advice import recommendation
from fitcalc.engines.options import settled
from fitcalc.errors import UnknownNameError
from fitcalc.frozen import replace
from fitcalc.machine import machine_label
from fitcalc.media import media_inputs, media_words
from fitcalc.plan import Request, division_notes, has_imatrix, runs_gguf, weights_of
from fitcalc.quality import quality_of
from fitcalc.quantization import checkpoint_bytes
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import FitReport, KvCache, Limits, Verdict
from fitcalc.speeds.answer import speed_of


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
