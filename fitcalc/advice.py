"""The recommendation: what to run, how to start it, why, and what else was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from fitcalc import ledger
from fitcalc import verdict as judge
from fitcalc.changes import better, changes, neighbours
from fitcalc.choice import Looked, device_list
from fitcalc.machine import machine_label
from fitcalc.plan import Request
from fitcalc.spec.report import Recommendation, Verdict
from fitcalc.speeds.answer import decode_tokens_per_s
from fitcalc.units import format_asked, format_gib
from fitcalc.verdict import Case

_MOST_ALTERNATIVES = 5


def plan_summary(case: Case) -> str:
    """'AWQ 4-bit on 2 × A100 SXM4 80GB with vLLM'."""
    return f"{case.scheme.name} on {machine_label(case.machine)} with {case.profile.name}"


def recommendation(request: Request, case: Case, looked: tuple[Looked, ...], verdict: Verdict) -> Recommendation:
    """What to run and how to start it, with reasons; when the request does not fit, what to change first."""
    wanted = verdict in ("does_not_fit", "unknown")
    nearest = None if wanted else better(request, case, looked)
    plans = changes(request, case) if wanted else neighbours(request, case, looked, nearest)
    others = tuple(islice(plans, _MOST_ALTERNATIVES))
    best = next((other for other in others if other.verdict == "fits"), None) if wanted else None
    summary = f"{verdict.replace('_', ' ')}; {best.summary}" if best else plan_summary(case)
    return Recommendation(
        summary=summary,
        quant=case.scheme.id,
        engine=case.profile.id,
        devices=device_list(case.machine),
        tensor_parallel=case.workload.tensor_parallel,
        pipeline_parallel=case.workload.pipeline_parallel,
        context_tokens=request.context_tokens,
        concurrency=request.concurrency,
        kv_dtype=case.workload.kv_dtype or next(iter(case.profile.kv_types)),
        verdict=verdict,
        command="" if wanted else case.engine.command(case.prepared, request.context_tokens, request.concurrency),
        reasons=tuple(reasons(request, case, nearest, verdict)),
        alternatives=others,
        data_parallel=case.workload.data_parallel,
        expert_parallel=case.workload.expert_parallel,
        nodes=case.machine.nodes,
    )


def reasons(request: Request, case: Case, nearest: Looked | None, verdict: Verdict) -> Iterator[str]:
    """Why this plan, in differences between ledgers."""
    entries = case.ledgers(request.context_tokens, request.concurrency)
    room = judge.tightest_headroom(entries)
    if verdict == "does_not_fit" and room is not None:
        worst = min(
            (entry for entry in entries if entry.decisive and entry.usable_bytes is not None),
            key=lambda entry: (entry.usable_bytes or 0) - ledger.total_bytes(entry.terms),
        )
        largest = max(worst.terms, key=lambda term: term.bytes)
        part = f"{largest.name.replace('_', ' ')}, {format_gib(largest.bytes)}"
        need = format_gib(ledger.total_bytes(worst.terms))
        yield f"{worst.name} needs {need} of {format_gib(worst.usable_bytes or 0)}; the largest part is {part}"
        return
    if verdict == "unknown":
        yield "; ".join(case.model.unknowns) or "the size of a device that decides is not known"
        return
    if room is not None:
        asked = format_asked(request.context_tokens, request.concurrency, request.picture_px)
        yield f"{format_gib(room)} to spare at {asked}"
    if nearest is None:
        own = "sized by the types that the file holds, tensor by tensor"
        yield own if case.scheme.kind == "file" else f"{case.scheme.name} is the best there is of this model"
    elif nearest.verdict == "fits":
        moves = getattr(case.engine, "OFFLOAD_OPTIONS", {}).keys()
        in_ram = bool(moves & (case.workload.options.keys() - request.options.keys()))
        how = "with more of it in RAM" if in_ram else "at higher quality"
        yield f"{nearest.case.scheme.name} fits too, {how}{_slower(request, case, nearest)}"
    elif (nearest.headroom_bytes or 0) < 0:
        yield f"the next better one, {nearest.case.scheme.name}, lacks {format_gib(-(nearest.headroom_bytes or 0))}"
    else:
        yield f"the next better one, {nearest.case.scheme.name}, is tight here"


def _slower(request: Request, case: Case, nearest: Looked) -> str:
    """', 1.7 tok/s instead of 2.4' where another plan is slower than this one; '' where that is not known."""
    other, own = nearest.row.decode_tokens_per_s, decode_tokens_per_s(case, request.context_tokens, request.concurrency)
    if other is None or own is None or other.estimate >= own.estimate:
        return ""
    return f", {other.estimate:.2g} tok/s instead of {own.estimate:.2g}"
