"""fitcalc.curve: the speeds of one plan along the number of requests or the context, and what holds within limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from fitcalc import __version__, arguments
from fitcalc import verdict as judge
from fitcalc.api import Settled, settle
from fitcalc.errors import RequestError, UnsupportedModelError
from fitcalc.reporting import inputs_of, notes_of
from fitcalc.spec.curve import Axis, Curve, CurvePoint
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import Estimate, Speed
from fitcalc.speeds.figures import GENERATED_TOKENS, lengths
from fitcalc.speeds.within import Bounds, most_within, speeds_along

AXES: tuple[Axis, ...] = ("concurrency", "context")
SHORTEST_CONTEXT_TOKENS = 512
_NEAR_END = 0.8
"""A point beyond this share of the last one would say nothing of its own."""
UNBOUNDED_REQUESTS = 64
"""Where a curve ends on a machine whose memory is not known."""


def curve(
    model: str | os.PathLike[str] | ModelSpec,
    *,
    over: str = "concurrency",
    max_ttft: float | str | None = None,
    max_tpot: float | str | None = None,
    prompt_tokens: int | None = None,
    generated_tokens: int | None = None,
    **plan: Any,
) -> Curve:
    """Tokens per second, time to first token and time per token of a plan, each with its range, along one axis.

    over: 'concurrency' (1, 2, 4 … to what fits at the context) or 'context' (to the longest that fits with the
    requests asked for). max_ttft, max_tpot: limits in seconds or as text ('2s', '50ms'); `within` is then the most
    requests that hold them at the context. prompt_tokens, generated_tokens: of every request; without them 2,048 and
    256, or what the context has room for; over the context the prompt fills it. All other keyword arguments are those
    of `fit`.

    Raises what `fit` raises, and UnsupportedModelError where the speed of the plan is not modelled.
    """
    axis = next((name for name in AXES if name == over), None)
    if axis is None:
        raise RequestError(f"over {over!r} is not an axis", hint=f"give {' or '.join(AXES)}")
    bounds = Bounds(arguments.seconds_or_none("max_ttft", max_ttft), arguments.seconds_or_none("max_tpot", max_tpot))
    arguments.whole_number("prompt_tokens", prompt_tokens, arguments.MOST_TOKENS)
    arguments.whole_number("generated_tokens", generated_tokens, arguments.MOST_TOKENS)
    if axis == "context" and prompt_tokens is not None:
        raise RequestError("prompt_tokens is what changes over the context", hint="give generated_tokens alone")
    settled = settle(model, **plan)
    context = settled.request.context_tokens
    given = _lengths(axis, context, prompt_tokens, generated_tokens)
    _refuse_unmodelled(settled)
    points = tuple(_points(axis, settled, given, bounds))
    within = most_within(settled.case, context, _most_requests(settled), bounds, *given) if bounds.given else None
    asked = {"model_name": settled.case.model.name, "max_ttft_s": bounds.ttft_s, "max_tpot_s": bounds.tpot_s}
    return Curve(
        inputs=inputs_of(settled.request, settled.case, settled.asked_quant) | asked,
        over=axis,
        verdict=settled.verdict,
        points=points,
        within=within,
        notes=tuple(_notes(settled, points)),
        fitcalc_version=__version__,
    )


def _lengths(axis: Axis, context: int, prompt: int | None, generated: int | None) -> tuple[int | None, int | None]:
    """Prompt and answer as asked for, checked against the context; what one leaves open gets the room."""
    if prompt is None and generated is None:
        return None, None
    if (prompt or 1) + (generated or 1) > context:
        said = f"a prompt and an answer of {(prompt or 1) + (generated or 1):,} tokens or more"
        raise RequestError(f"{said} are longer than the context of {context:,}", hint="give a longer --context")
    if axis == "context":
        return None, generated
    usual, _ = lengths(context)
    if prompt is None:
        return min(usual, context - (generated or 0)), generated
    return prompt, generated or min(GENERATED_TOKENS, context - prompt)


def _refuse_unmodelled(settled: Settled) -> None:
    found = speeds_along(settled.case, settled.request.context_tokens)(1)
    if found.decode_tokens_per_s is None:
        hint = f"{found.note}; `fitcalc {settled.case.model.id}` without --curve says whether it fits"
        raise UnsupportedModelError(f"there is no estimate of speed for {settled.case.model.name} here", hint=hint)


def _points(axis: Axis, settled: Settled, given: tuple[int | None, int | None], bounds: Bounds) -> Iterator[CurvePoint]:
    request, case = settled.request, settled.case
    if axis == "concurrency":
        speeds = speeds_along(case, request.context_tokens, *given)
        for count in _doubled(1, _most_requests(settled)):
            yield _point(settled, request.context_tokens, count, speeds(count), bounds)
        return
    longest = _longest_context(settled)
    for context in _doubled(min(SHORTEST_CONTEXT_TOKENS, longest), longest):
        generated = min(given[1] or GENERATED_TOKENS, max(context // 2, 1))
        speed = speeds_along(case, context, max(context - generated, 1), generated)(request.concurrency)
        yield _point(settled, context, request.concurrency, speed, bounds)


def _doubled(first: int, last: int) -> Iterator[int]:
    """first, twice that … and, at the end, `last` itself; nothing where last is 0."""
    while 0 < first <= _NEAR_END * last:
        yield first
        first *= 2
    if last > 0:
        yield last


def _most_requests(settled: Settled) -> int:
    """Requests that memory has room for at the asked context."""
    request, case = settled.request, settled.case
    if _is_bounded(settled):
        return judge.max_concurrency(case, request.context_tokens)
    return UNBOUNDED_REQUESTS


def _longest_context(settled: Settled) -> int:
    request, case = settled.request, settled.case
    if _is_bounded(settled) and case.model.cache_layers:
        return judge.max_context_tokens(case, request.concurrency)
    return case.model.max_context_tokens or max(request.context_tokens, judge.default_context(case.model, None))


def _is_bounded(settled: Settled) -> bool:
    """Every memory that decides has a known size."""
    entries = settled.case.ledgers(settled.request.context_tokens, settled.request.concurrency)
    return all(entry.usable_bytes is not None for entry in entries if entry.decisive)


def _point(settled: Settled, context: int, concurrency: int, speed: Speed, bounds: Bounds) -> CurvePoint:
    """A point from speeds that are modelled."""
    token, total, first = speed.time_per_token_s, speed.total_tokens_per_s, speed.time_to_first_token_s
    assert token is not None
    assert total is not None
    assert first is not None
    return CurvePoint(
        context_tokens=context,
        concurrency=concurrency,
        verdict=judge.verdict_of(settled.case, context, concurrency),
        prompt_tokens=speed.prompt_tokens or 0,
        generated_tokens=speed.generated_tokens or 0,
        request_tokens_per_s=Estimate(1 / token.estimate, 1 / token.high, 1 / token.low),
        total_tokens_per_s=total,
        time_to_first_token_s=first,
        time_per_token_s=token,
        bound_by=speed.bound_by or "",
        holds=bounds.hold(speed) if bounds.given else None,
    )


def _notes(settled: Settled, points: tuple[CurvePoint, ...]) -> Iterator[str]:
    request, case = settled.request, settled.case
    if not points:
        yield f"not even one request of {request.context_tokens:,} tokens fits: `fitcalc {case.model.id}` says why"
    found = speeds_along(case, request.context_tokens)(1)
    if found.note:
        yield found.note
    if not _is_bounded(settled):
        yield f"a memory is not known: the curve ends at {UNBOUNDED_REQUESTS} requests, whether they fit or not"
    yield "prompts share nothing here: with prefix caching, repeated ones get their first token sooner"
    hosted = not all(e.decisive for e in case.ledgers(request.context_tokens, request.concurrency))
    yield from notes_of(request, case, settled.asked_quant, hosted=hosted)
