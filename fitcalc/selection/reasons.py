"""Why a plan is recommended: what its ledger leaves, and what the plans next to it would change."""

from __future__ import annotations

from collections.abc import Iterator

from fitcalc import verdict as judge
from fitcalc.advice import plan_summary
from fitcalc.choice import USEFUL_TOKENS_PER_S
from fitcalc.selection.search import UNKNOWN, Found, Question
from fitcalc.units import format_asked, format_gib


def reasons_of(taken: Found, front: list[Found], question: Question) -> Iterator[str]:
    """Each reason is a difference between this plan's figures and those of another, or of a limit."""
    yield _room(taken)
    yield _quality(taken)
    yield from _speed(taken, question)
    cheaper = [one for one in front if one.cost < taken.cost]
    if cheaper:
        other = max(cheaper, key=lambda one: (one.cost, -one.rise, one.tokens_per_s))
        yield f"cheaper would be {_named(other)}: {_differences(other, taken)}"
    better = [one for one in front if one.rise < taken.rise and one.tokens_per_s >= _least(question)]
    if better:
        other = min(better, key=lambda one: one.order)
        yield f"better would be {_named(other)}: {_differences(other, taken)}"
    faster = [one for one in front if one.rise <= taken.rise and one.tokens_per_s > 1.5 * taken.tokens_per_s]
    if faster:
        other = min(faster, key=lambda one: one.order)
        yield f"faster would be {_named(other)}: {_differences(other, taken)}"


def _least(question: Question) -> float:
    return question.limits.tokens_per_s or 0.0


def _room(one: Found) -> str:
    request = one.request
    entries = one.case.ledgers(request.context_tokens, request.concurrency)
    asked = format_asked(request.context_tokens, request.concurrency, None)
    room = judge.tightest_headroom(entries)
    cache = f", with the cache in {request.kv_dtype}" if request.kv_dtype else ""
    spare = "fits" if room is None else f"{format_gib(room)} to spare on the fullest device"
    return f"{spare} at {asked}{cache}"


def _quality(one: Found) -> str:
    rise = one.quality.perplexity_rise
    if rise is None:
        return f"quality not known: {one.quality.note}"
    if not rise.estimate:
        return "nothing is lost against 16 bit" + (f" but for noise of {_percent(rise.high)}" if rise.high else "")
    said = f"perplexity rises by {_percent(rise.estimate)} ({_percent(rise.low)}–{_percent(rise.high)})"
    return f"{said}: {one.quality.level} quality"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _speed(one: Found, question: Question) -> Iterator[str]:
    rate = one.rate
    if rate is None:
        yield f"speed not known: {one.speed.note}" if one.speed.note else "speed not known"
        return
    each = " for each request" if question.concurrency > 1 else ""
    said = f"{rate.estimate:.2g} tok/s ({rate.low:.2g}–{rate.high:.2g}){each}"
    if rate.estimate < USEFUL_TOKENS_PER_S and question.limits.tokens_per_s is None:
        said += f", below the {USEFUL_TOKENS_PER_S:g} that people read: nothing here within the limits reaches it"
    yield said


def _named(one: Found) -> str:
    return plan_summary(one.case)


def _differences(other: Found, taken: Found) -> str:
    """'1.4 times the price, 2.1 times as fast, loses 0.9 % instead of 4.1 %'."""
    parts = []
    if UNKNOWN not in (other.cost, taken.cost) and taken.cost and other.cost != taken.cost:
        parts.append(f"{_times(other.cost / taken.cost)} the price")
    if taken.tokens_per_s and other.tokens_per_s:
        parts.append(f"{other.tokens_per_s:.2g} tok/s instead of {taken.tokens_per_s:.2g}")
    if UNKNOWN not in (other.rise, taken.rise) and other.rise != taken.rise:
        parts.append(f"perplexity +{_percent(other.rise)} instead of +{_percent(taken.rise)}")
    return ", ".join(parts) or "no figure to compare by"


def _times(ratio: float) -> str:
    return f"{ratio:.2g} ×"
