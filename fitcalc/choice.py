"""The choice: every quantization that comes into question, looked at under one request, and the one to run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

from fitcalc import ledger
from fitcalc import verdict as judge
from fitcalc.catalog import QuantRow
from fitcalc.errors import UnknownNameError
from fitcalc.frozen import dataclass, replace
from fitcalc.machine import device_counts
from fitcalc.plan import LEAST_BITS, Request, candidates, case_for, scheme_of, weights_of
from fitcalc.spec.hardware import Machine
from fitcalc.spec.report import Alternative, QuantChoice, Verdict
from fitcalc.speeds.answer import decode_tokens_per_s
from fitcalc.verdict import Case

LEAST_USEFUL_CONTEXT_TOKENS = 512
"""A shorter context is not offered as a way to make a model fit."""
USEFUL_TOKENS_PER_S = 10.0
"""About as fast as people read; a plan below it is chosen only where none reaches it."""
AS_FAST = 0.85
"""Rates this near to the fastest are as fast: the printed range of one estimate is wider than that."""
_USUAL_BITS = 4


@dataclass(frozen=True, slots=True)
class Looked:
    """A plan that was looked at: its case, its verdict, its room, and its row in the table of quantizations."""

    case: Case
    verdict: Verdict
    headroom_bytes: int | None
    make_row: Callable[[], QuantChoice]

    @property
    def row(self) -> QuantChoice:
        """Made when it is first asked for: the largest context and the speed take longer than the verdict."""
        return self.make_row()


def look_at(request: Request, row: QuantRow) -> Looked | None:
    """Evaluate a quantization under the request; None where no engine runs it there."""
    try:
        case = case_for(request, scheme_of(request.model, row.id))
    except UnknownNameError:
        # An option or KV type that no engine of this quantization has; the request's own check names it.
        return None
    return None if isinstance(case, str) else looked_at(request, case)


def looked_at(request: Request, case: Case) -> Looked:
    """A plan with its verdict and its row of the table."""
    headroom = judge.tightest_headroom(case.ledgers(request.context_tokens, request.concurrency))
    verdict = judge.verdict_of(case, request.context_tokens, request.concurrency)
    return Looked(case, verdict, headroom, cache(partial(_row, request, case, verdict, headroom)))


def _row(request: Request, case: Case, verdict: Verdict, headroom_bytes: int | None) -> QuantChoice:
    context, concurrency = request.context_tokens, request.concurrency
    bounded = headroom_bytes is not None and not case.model.is_unbounded and not case.model.makes_images
    runs = verdict in ("fits", "tight")
    return QuantChoice(
        quant=case.scheme.id,
        engine=case.profile.id,
        weights_bytes=weights_of(case),
        total_bytes=max(ledger.total_bytes(entry.terms) for entry in case.ledgers(context, concurrency)),
        headroom_bytes=headroom_bytes,
        max_context_tokens=judge.max_context_tokens(case, concurrency) if bounded else None,
        verdict=verdict,
        decode_tokens_per_s=decode_tokens_per_s(case, context, concurrency) if runs else None,
    )


def survey(request: Request) -> tuple[Looked, ...]:
    """Every quantization that comes into question, best quality first; nothing larger than a checkpoint's own."""
    found = [entry for row in candidates(request) if (entry := look_at(request, row)) is not None]
    if not request.model.quant or not found:
        return tuple(found)
    own = found[0]
    bits, most_bytes = own.case.scheme.bits, own.row.weights_bytes
    return tuple(e for e in found if e.case.scheme.bits == bits or e.row.weights_bytes < most_bytes)


def choose(looked: tuple[Looked, ...]) -> Looked | None:
    """The highest quality that fits and is fast enough, from 3 bits up; else tight; else fewer bits; else one to start
    changing from."""
    usual = [entry for entry in looked if entry.case.scheme.bits >= LEAST_BITS]
    for verdict in ("fits", "tight", "unknown"):
        for group in (usual, looked):
            hits = [entry for entry in group if entry.verdict == verdict]
            if hits:
                return _fast_enough(hits)
    return _nearest(usual) or min(usual or looked, key=lambda entry: entry.row.total_bytes, default=None)


def _fast_enough(entries: list[Looked]) -> Looked:
    """The first, best quality first, that writes as fast as people read; where none does, the first of the fastest.

    Where a speed is not known, quality alone decides.
    """
    rates = [entry.row.decode_tokens_per_s for entry in entries]
    known = [rate.estimate for rate in rates if rate is not None]
    if len(known) < len(entries):
        return entries[0]
    wanted = USEFUL_TOKENS_PER_S if max(known) >= USEFUL_TOKENS_PER_S else AS_FAST * max(known)
    return next(entry for entry, rate in zip(entries, known, strict=True) if rate >= wanted)


def choose_with_ram(request: Request) -> tuple[tuple[Looked, ...], Looked | None]:
    """The table and the choice; where nothing of 3 bits or more fits on the cards and RAM is known, of plans that use
    both."""
    looked = survey(request)
    chosen = choose(looked)
    if request.machine.ram_bytes is None or chosen is None:
        return looked, chosen
    if chosen.verdict == "unknown" or (chosen.verdict != "does_not_fit" and chosen.case.scheme.bits >= LEAST_BITS):
        return looked, chosen
    moved = [(entry, with_offload(request, entry.case)) for entry in looked]
    mixed = tuple(entry if case is None else looked_at(request, case) for entry, case in moved)
    return mixed, choose(mixed)


def _nearest(usual: list[Looked]) -> Looked | None:
    """Where only the context is too long: the best 4-bit plan that has a useful one, else the smallest that has."""
    useful = [entry for entry in usual if (entry.row.max_context_tokens or 0) >= LEAST_USEFUL_CONTEXT_TOKENS]
    four = next((entry for entry in useful if entry.case.scheme.bits <= _USUAL_BITS), None)
    return four or (useful[-1] if useful else None)


def first_fit(request: Request, rows: Iterable[QuantRow]) -> Case | None:
    """The first of the quantizations, best first, that fits with 3 bits or more; None when none does."""
    usual = [row for row in rows if row.bits >= LEAST_BITS]
    smallest = case_for(request, scheme_of(request.model, usual[-1].id)) if usual else ""
    if not isinstance(smallest, str) and not fits_as_asked(request, smallest):
        return None
    for row in usual:
        case = case_for(request, scheme_of(request.model, row.id))
        if not isinstance(case, str) and fits_as_asked(request, case):
            return case
    return None


def with_offload(request: Request, case: Case) -> Case | None:
    """The plan with what does not fit on the cards in RAM; None where the engine cannot do that or it does not help."""
    moved = offload_case(request, case)
    if moved is None:
        return None
    found = judge.verdict_of(moved, request.context_tokens, request.concurrency)
    return None if found == "does_not_fit" or not offload_words(moved, request) else moved


def offload_case(request: Request, case: Case) -> Case | None:
    """The plan that moves what does not fit to RAM, whether or not that helps; None where the engine cannot do that."""
    options = getattr(case.engine, "OFFLOAD_OPTIONS", None)
    if options is None or not request.machine.gpus or options.keys() & request.options.keys():
        return None
    moved = case_for(replace(request, options={**request.options, **options}, engine=case.profile), case.scheme)
    return None if isinstance(moved, str) else moved


def offload_words(case: Case, request: Request) -> str:
    """'28 of 33 layers on the card, the rest in RAM'; '' where everything is on the cards."""
    plan = case.engine.offloaded(case.prepared, request.context_tokens, request.concurrency)  # type: ignore[attr-defined]
    return "" if plan is None else str(case.engine.offload_summary(plan))  # type: ignore[attr-defined]


def device_list(machine: Machine) -> tuple[dict[str, Any], ...]:
    """The contract's list of devices: id and count."""
    return tuple({"id": device.id, "count": count} for device, count in device_counts(machine))


def alternative(request: Request, case: Case, changed: tuple[str, ...]) -> Alternative:
    """A plan as a row of the contract, evaluated at the request's own context and concurrency."""
    return Alternative(
        summary="; ".join(changed),
        model=case.model.id,
        quant=case.scheme.id,
        engine=case.profile.id,
        devices=device_list(case.machine),
        tensor_parallel=case.workload.tensor_parallel,
        context_tokens=request.context_tokens,
        concurrency=request.concurrency,
        kv_dtype=case.workload.kv_dtype or next(iter(case.profile.kv_types)),
        verdict=judge.verdict_of(case, request.context_tokens, request.concurrency),
        changes=changed,
        data_parallel=case.workload.data_parallel,
        expert_parallel=case.workload.expert_parallel,
        nodes=case.machine.nodes,
    )


def fits_as_asked(request: Request, case: Case) -> bool:
    """Even the high end fits at the request's context and concurrency."""
    return judge.verdict_of(case, request.context_tokens, request.concurrency) == "fits"
