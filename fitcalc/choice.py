"""The choice: which quantization to run when none was named, why, and what to change when a request does not judge.

Reasons are differences between ledgers; alternatives are plans that were evaluated with the same formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fitcalc import catalog, ledger
from fitcalc import verdict as judge
from fitcalc.engines.base import kv_block
from fitcalc.machine import device_counts, machine_label
from fitcalc.plan import LEAST_BITS, Request, candidates, case_for, preference, runs_gguf
from fitcalc.quantization import weights_bytes
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.quant import Scheme
from fitcalc.spec.report import Alternative, QuantChoice, Recommendation, Verdict
from fitcalc.units import format_gib
from fitcalc.verdict import Case

LEAST_USEFUL_CONTEXT_TOKENS = 512
"""A shorter context is not offered as a way to make a model judge."""
_CARD_COUNTS = (2, 4, 8)
_USUAL_BITS = 4
_MOST_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class Looked:
    """A plan that was looked at: its case, its verdict, and its row in the table of quantizations."""

    case: Case
    verdict: Verdict
    row: QuantChoice


def look_at(request: Request, scheme: Scheme) -> Looked | None:
    """Evaluate a scheme under the request; None where no engine runs it there."""
    case = case_for(request, scheme)
    if isinstance(case, str):
        return None
    entries = case.ledgers(request.context_tokens, request.concurrency)
    verdict = judge.verdict_of(case, request.context_tokens, request.concurrency)
    headroom = judge.tightest_headroom(entries)
    row = QuantChoice(
        quant=scheme.id,
        engine=case.profile.id,
        weights_bytes=weights_bytes(request.model, scheme, gguf=runs_gguf(case.profile)),
        total_bytes=max(ledger.total_bytes(entry.terms) for entry in entries),
        headroom_bytes=headroom,
        max_context_tokens=None if headroom is None else judge.max_context_tokens(case, request.concurrency),
        verdict=verdict,
    )
    return Looked(case, verdict, row)


def survey(request: Request) -> tuple[Looked, ...]:
    """Every quantization that comes into question, best quality first."""
    found = (look_at(request, scheme) for scheme in candidates(request))
    return tuple(entry for entry in found if entry is not None)


def choose(looked: tuple[Looked, ...]) -> Looked | None:
    """The highest quality that fits, from 3 bits up; else tight; else fewer bits; else one to start changing from."""
    usual = [entry for entry in looked if entry.case.scheme.bits >= LEAST_BITS]
    for verdict in ("fits", "tight"):
        for group in (usual, looked):
            hit = next((entry for entry in group if entry.verdict == verdict), None)
            if hit is not None:
                return hit
    return _nearest(usual) or min(usual or looked, key=lambda entry: entry.row.total_bytes, default=None)


def _nearest(usual: list[Looked]) -> Looked | None:
    """Where only the context is too long: the best 4-bit plan that has a useful one, else the smallest that has."""
    useful = [entry for entry in usual if (entry.row.max_context_tokens or 0) >= LEAST_USEFUL_CONTEXT_TOKENS]
    four = next((entry for entry in useful if entry.case.scheme.bits <= _USUAL_BITS), None)
    return four or (useful[-1] if useful else None)


def with_offload(request: Request, case: Case) -> Case | None:
    """The plan with what does not fit on the cards in RAM; None where the engine cannot do that or it does not help."""
    options = getattr(case.engine, "OFFLOAD_OPTIONS", None)
    if options is None or not request.machine.gpus or options.keys() & request.options.keys():
        return None
    moved = case_for(replace(request, options={**request.options, **options}, engine=case.profile), case.scheme)
    if isinstance(moved, str):
        return None
    found = judge.verdict_of(moved, request.context_tokens, request.concurrency)
    return None if found == "does_not_fit" or not offload_words(moved, request) else moved


def offload_words(case: Case, request: Request) -> str:
    """'28 of 33 layers on the card, the rest in RAM'; '' where everything is on the cards."""
    plan = case.engine.offloaded(case.prepared, request.context_tokens, request.concurrency)  # type: ignore[attr-defined]
    return "" if plan is None else str(case.engine.offload_summary(plan))  # type: ignore[attr-defined]


def plan_summary(case: Case) -> str:
    """'AWQ 4-bit on 2 × A100 SXM4 80GB with vLLM'."""
    return f"{case.scheme.name} on {machine_label(case.machine)} with {case.profile.name}"


def device_list(machine: Machine) -> tuple[dict[str, Any], ...]:
    """The contract's list of devices: id and count."""
    return tuple({"id": device.id, "count": count} for device, count in device_counts(machine))


def recommendation(request: Request, case: Case, looked: tuple[Looked, ...], verdict: Verdict) -> Recommendation:
    """What to run and how to start it, with reasons; when the request does not fit, what to change first."""
    wanted = verdict in ("does_not_fit", "unknown")
    others = tuple(changes(request, case)) if wanted else tuple(neighbours(request, case, looked))
    best = next((other for other in others if other.verdict == "fits"), None) if wanted else None
    summary = f"does not fit; {best.summary}" if best else plan_summary(case)
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
        reasons=tuple(reasons(request, case, looked, verdict)),
        alternatives=others[:_MOST_ALTERNATIVES],
    )


def reasons(request: Request, case: Case, looked: tuple[Looked, ...], verdict: Verdict) -> Iterator[str]:
    """Why this plan, in differences between ledgers."""
    entries = case.ledgers(request.context_tokens, request.concurrency)
    room = judge.tightest_headroom(entries)
    if verdict == "does_not_fit" and room is not None:
        worst = min(
            (entry for entry in entries if entry.decisive and entry.usable_bytes is not None),
            key=lambda entry: (entry.usable_bytes or 0) - ledger.total_bytes(entry.terms),
        )
        largest = max(worst.terms, key=lambda term: term.bytes)
        part = f"{largest.name.replace('_', ' ')} alone take {format_gib(largest.bytes)}"
        yield f"{format_gib(-room)} too much on {worst.name}: {part}"
        return
    if room is not None:
        yield f"{format_gib(room)} to spare at {request.context_tokens:,} tokens × {request.concurrency}"
    nearest = _better(request, case, looked)
    if nearest is None:
        yield f"{case.scheme.name} is the best there is of this model"
    elif nearest.verdict == "fits":
        yield f"{nearest.case.scheme.name} fits too, at higher quality"
    elif (nearest.row.headroom_bytes or 0) < 0:
        yield f"the next better one, {nearest.case.scheme.name}, lacks {format_gib(-(nearest.row.headroom_bytes or 0))}"
    else:
        yield f"the next better one, {nearest.case.scheme.name}, fits only if the estimate holds to the end"


def neighbours(request: Request, case: Case, looked: tuple[Looked, ...]) -> Iterator[Alternative]:
    """Beside a plan that fits: the next better quality with what it needs, the next fewer bits with what they give."""
    nearest = _better(request, case, looked)
    if nearest is not None and nearest.verdict != "fits" and request.machine.gpus:
        yield from more_cards(request, nearest.case.scheme)
    fewer = (scheme for scheme in candidates(request) if scheme.bits < case.scheme.bits)
    smaller = next((entry for scheme in fewer if (entry := _seen(request, scheme, looked))), None)
    own_bytes = weights_bytes(request.model, case.scheme, gguf=runs_gguf(case.profile))
    if smaller is not None and smaller.verdict == "fits" and smaller.row.weights_bytes < own_bytes:
        gain = f"{format_gib(smaller.row.weights_bytes, 1)} of weights"
        tokens, now = smaller.row.max_context_tokens or 0, judge.max_context_tokens(case, request.concurrency)
        if tokens > now:
            gain += f", {tokens:,} tokens"
        elif (requests := judge.max_concurrency(smaller.case, request.context_tokens)) > 1:
            gain += f", {requests:,} requests at {request.context_tokens:,} tokens"
        yield alternative(request, smaller.case, (f"{smaller.case.scheme.name}: {gain}",))


def _better(request: Request, case: Case, looked: tuple[Looked, ...]) -> Looked | None:
    """The best quantization of the next higher number of bits."""
    above = [scheme for scheme in candidates(request) if scheme.bits > case.scheme.bits]
    above.sort(key=lambda scheme: (scheme.bits, -scheme.quality_rank))
    return next((entry for scheme in above if (entry := _seen(request, scheme, looked))), None)


def _seen(request: Request, scheme: Scheme, looked: tuple[Looked, ...]) -> Looked | None:
    known = next((entry for entry in looked if entry.case.scheme.id == scheme.id), None)
    return known or look_at(request, scheme)


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
    )


def changes(request: Request, case: Case) -> Iterator[Alternative]:
    """What makes a request fit, smallest change first: context, requests, KV type, quantization, cards, model."""
    if case.model.unknowns:
        return
    yield from less_context(request, case)
    yield from smaller_cache(request, case)
    yield from rest_in_ram(request, case)
    yield from other_quant(request, case)
    if request.machine.gpus:
        yield from more_cards(request, case.scheme)
        yield from other_device(request, case)
    yield from smaller_model(request)


def less_context(request: Request, case: Case) -> Iterator[Alternative]:
    """A shorter context, or fewer requests at once."""
    tokens = judge.largest(
        lambda count: judge.verdict_of(case, count, request.concurrency) == "fits", request.context_tokens
    )
    tokens -= tokens % 256
    if tokens >= LEAST_USEFUL_CONTEXT_TOKENS:
        text = f"context {tokens:,} instead of {request.context_tokens:,}"
        yield alternative(replace(request, context_tokens=tokens), case, (text,))
    requests = judge.largest(
        lambda count: judge.verdict_of(case, request.context_tokens, count) == "fits", request.concurrency
    )
    if 0 < requests < request.concurrency:
        text = f"{requests} requests at once instead of {request.concurrency}"
        yield alternative(replace(request, concurrency=requests), case, (text,))


def smaller_cache(request: Request, case: Case) -> Iterator[Alternative]:
    """The same plan with a smaller KV type that the engine has."""
    types = case.profile.kv_types
    now = kv_block(case.profile, case.workload.kv_dtype)
    smaller = [name for name, (elems, size) in types.items() if size * now[0] < now[1] * elems]
    for name in sorted(smaller, key=lambda kind: types[kind][1] / types[kind][0], reverse=True):
        other = case_for(replace(request, kv_dtype=name, engine=case.profile), case.scheme)
        if not isinstance(other, str) and _fits(request, other):
            yield alternative(request, other, (f"KV cache in {name}",))
            return


def rest_in_ram(request: Request, case: Case) -> Iterator[Alternative]:
    """The same plan with a part of it in RAM, where RAM was not given (a machine with known RAM is judged with it)."""
    moved = with_offload(request, case) if request.machine.ram_bytes is None else None
    if moved is not None:
        host = moved.ledgers(request.context_tokens, request.concurrency)[-1]
        need = format_gib(ledger.high_bytes(host.terms), 1)
        yield alternative(request, moved, (f"{offload_words(moved, request)}: takes {need} of RAM (give --ram)",))


def other_quant(request: Request, case: Case) -> Iterator[Alternative]:
    """The best quantization below the one asked for that fits."""
    mine = preference(case.scheme)
    below = tuple(
        entry for scheme in candidates(request) if preference(scheme) > mine if (entry := look_at(request, scheme))
    )
    hit = choose(below)
    if hit is not None and hit.verdict == "fits":
        saved = weights_bytes(request.model, case.scheme, gguf=runs_gguf(case.profile)) - hit.row.weights_bytes
        engine = "" if hit.case.profile.id == case.profile.id else f" with {hit.case.profile.name}"
        yield alternative(request, hit.case, (f"{hit.case.scheme.name}{engine}: {format_gib(saved)} less weights",))


def more_cards(request: Request, scheme: Scheme) -> Iterator[Alternative]:
    """The same scheme on more of the same card."""
    card, have = request.machine.gpus[0], len(request.machine.gpus)
    for count in (n for n in _CARD_COUNTS if n > have):
        found = _on(request, scheme, card, count)
        if found is not None:
            yield alternative(
                replace(request, machine=found.machine), found, (f"{scheme.name} on {count} × {card.name}",)
            )
            return


def other_device(request: Request, case: Case) -> Iterator[Alternative]:
    """The smallest single card of the same class and maker that takes the plan as asked."""
    now = request.machine.gpus[0]
    for device_id in catalog.larger_devices(now):
        found = _on(request, case.scheme, catalog.load_device(device_id), 1)
        if found is not None:
            card = found.machine.gpus[0]
            yield alternative(
                replace(request, machine=found.machine), found, (f"{case.scheme.name} on 1 × {card.name}",)
            )
            return


def smaller_model(request: Request) -> Iterator[Alternative]:
    """A smaller model of the same family, else of any family, that fits on this machine."""
    for model_id in catalog.smaller_models(request.model):
        smaller = replace(request, model=catalog.load_model(model_id), options={})
        hit = choose(survey(smaller))
        if hit is not None and hit.verdict == "fits":
            yield alternative(smaller, hit.case, (f"{smaller.model.name} in {hit.case.scheme.name}",))
            return


def _on(request: Request, scheme: Scheme, card: Device, count: int) -> Case | None:
    machine = replace(request.machine, gpus=(card,) * count)
    moved = replace(request, machine=machine, tensor_parallel=None, pipeline_parallel=None)
    found = case_for(moved, scheme)
    return None if isinstance(found, str) or not _fits(moved, found) else found


def _fits(request: Request, case: Case) -> bool:
    return judge.verdict_of(case, request.context_tokens, request.concurrency) == "fits"
