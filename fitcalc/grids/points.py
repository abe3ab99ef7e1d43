"""The numbers of a plan at arrays of contexts (a column) and requests (a row): bytes, verdicts, speeds, costs.

Every number comes from the function that answers a single question; here are only sums, comparisons and choices between
devices. Arrays have two dimensions, each of length 1 where a number does not change along it. Whole numbers that are
missing are MISSING, others nan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitcalc import choice, engines, ledger
from fitcalc import verdict as judge
from fitcalc.engines.base import DeviceLedger, most_requests
from fitcalc.frozen import replace
from fitcalc.grids.watched import LARGEST, stays_within
from fitcalc.ledger import TERM_NAMES, Term
from fitcalc.plan import Request, weights_of
from fitcalc.prices import hourly_price
from fitcalc.spec.report import Estimate, Verdict
from fitcalc.speeds.answer import nearness, speed_of
from fitcalc.speeds.families import interval
from fitcalc.speeds.figures import figures, is_fixed, ready
from fitcalc.verdict import Case

Array = NDArray[Any]
Columns = dict[str, Any]
MISSING = int(np.iinfo(np.int64).min)
VERDICTS: tuple[Verdict, ...] = ("does_not_fit", "unknown", "tight", "fits")
"""By code, worst first."""
TERM_COLUMNS = {name: f"{name}_bytes" if name not in ("weights", "kv_cache") else f"device_{name}_bytes"
                for name in TERM_NAMES}  # fmt: skip
"""Term -> its column: bytes on the device that decides."""
MEMORY_COLUMNS = (
    "weights_bytes", "kv_cache_bytes", *TERM_COLUMNS.values(), "total_bytes", "high_bytes", "capacity_bytes",
    "usable_bytes", "headroom_bytes", "verdict", "fits",
)  # fmt: skip
LIMIT_COLUMNS = ("max_context_tokens", "max_concurrency")
_QUANTITIES = ("decode_tokens_per_s", "total_tokens_per_s", "time_to_first_token_s")
SPEED_COLUMNS = tuple(f"{name}{end}" for name in _QUANTITIES for end in ("", "_low", "_high"))
COST_COLUMNS = ("usd_per_h", "usd_per_million_tokens")
FLOATS = frozenset((*SPEED_COLUMNS, *COST_COLUMNS))


def memory(case: Case, contexts: Any, requests: Any) -> Columns:
    """MEMORY_COLUMNS of a plan; numbers or arrays."""
    entries = case.ledgers(contexts, requests)
    sums = _sums(entries)
    found = _deciding(sums)
    codes = verdict_codes(case, sums, contexts, requests)
    whole = weights_of(case)
    cache = case.engine.kv_cache_bytes(case.prepared, contexts, requests)
    return {"weights_bytes": whole, "kv_cache_bytes": cache, **found, "verdict": codes, "fits": codes >= 2}


def _distinct(entries: Iterable[DeviceLedger]) -> list[DeviceLedger]:
    """Devices whose terms are not those of another: ranks of one stage share theirs."""
    found: dict[tuple[Any, ...], DeviceLedger] = {}
    for entry in entries:
        sizes = tuple((term.name, *(_identity(n) for n in _three(term)), term.basis) for term in entry.terms)
        found.setdefault((entry.usable_bytes, entry.capacity_bytes, sizes), entry)
    return list(found.values())


def _three(term: Term) -> tuple[Any, Any, Any]:
    return term.low_bytes, term.bytes, term.high_bytes


def _identity(number: Any) -> Any:
    return number if isinstance(number, int) else ("array", id(number))


def _sum(numbers: Iterable[Any]) -> Any:
    """The sum, smallest shapes first, so that few passes go over the largest."""
    return sum(sorted(numbers, key=lambda number: getattr(number, "size", 0)))


def total(terms: Sequence[Term]) -> Any:
    """Bytes of all terms."""
    return _sum(term.bytes for term in terms)


def _end(terms: Sequence[Term], sum_bytes: Any, name: str) -> Any:
    """The sum of the low or high ends: the total and the spread of those terms that have one."""
    spreads = [getattr(term, name) - term.bytes for term in terms if getattr(term, name) is not term.bytes]
    return _sum([sum_bytes, *spreads])


Sums = list[tuple[DeviceLedger, Any, Any]]
"""Devices that decide, each with its total and high end."""


def _sums(entries: Iterable[DeviceLedger]) -> Sums:
    distinct = _distinct(entry for entry in entries if entry.decisive)
    totals = [(entry, total(entry.terms)) for entry in distinct]
    return [(entry, sum_bytes, _end(entry.terms, sum_bytes, "high_bytes")) for entry, sum_bytes in totals]


def _deciding(sums: Sums) -> Columns:
    """Terms, total and headroom of the device that runs out first; of the fullest where a size is not known."""
    known = all(entry.usable_bytes is not None for entry, _, _ in sums)
    best: Columns = {}
    room: Any = None
    for entry, sum_bytes, high_bytes in sums:
        mine = entry.usable_bytes - sum_bytes if known and entry.usable_bytes is not None else -sum_bytes
        found = _device_columns(entry, sum_bytes, high_bytes)
        tighter = True if room is None else mine < room
        if room is None or np.all(tighter):
            best, room = found, mine
        elif np.any(tighter):
            best = {name: _either(tighter, found[name], best[name]) for name in found}
            room = _either(tighter, mine, room)
    if not known:
        best["headroom_bytes"] = MISSING
    return best


def _either(condition: Any, yes: Any, no: Any) -> Any:
    same = yes is no or (isinstance(yes, int) and isinstance(no, int) and yes == no)
    return yes if same else np.where(condition, yes, no)


def _device_columns(entry: DeviceLedger, sum_bytes: Any, high_bytes: Any) -> Columns:
    parts: dict[str, list[Any]] = {}
    for term in entry.terms:
        parts.setdefault(term.name, []).append(term.bytes)
    usable = entry.usable_bytes
    return {
        **{column: _sum(parts.get(name, ())) for name, column in TERM_COLUMNS.items()},
        "total_bytes": sum_bytes,
        "high_bytes": high_bytes,
        "capacity_bytes": MISSING if entry.capacity_bytes is None else entry.capacity_bytes,
        "usable_bytes": MISSING if usable is None else usable,
        "headroom_bytes": MISSING if usable is None else usable - sum_bytes,
    }


def verdict_codes(case: Case, sums: Sums, contexts: Any, requests: Any) -> Array:
    """`verdict.verdict_of` as codes of VERDICTS."""
    found = np.full((1, 1), 3, dtype=np.int8)
    for entry, sum_bytes, high_bytes in sums:
        found = np.minimum(found, _device_codes(entry, sum_bytes, high_bytes))
    least = case.model.at_least
    if least is None:
        return np.where(found > 0, 1, found).astype(np.int8) if case.model.unknowns else found
    smallest = judge.case_of(least, case.scheme, case.profile, case.machine, case.workload)
    held = verdict_codes(smallest, _sums(smallest.ledgers(contexts, requests)), contexts, requests)
    return np.where((found == 0) & (held > 0), 1, found).astype(np.int8)


def _device_codes(entry: DeviceLedger, sum_bytes: Any, high_bytes: Any) -> Any:
    usable = entry.usable_bytes
    if usable is None:
        return np.int8(1)
    holds_high = np.asarray(high_bytes <= usable)
    if any(term.basis == "unknown" for term in entry.terms):
        low = np.asarray(_end(entry.terms, sum_bytes, "low_bytes") <= usable)
        return np.where(holds_high, 3, low.view(np.int8)).astype(np.int8)
    holds = np.asarray(sum_bytes <= usable)
    return holds_high.view(np.int8) * np.int8(3) | holds.view(np.int8) * np.int8(2)


# --- limits -----------------------------------------------------------------------------------------------------------

_LEVELS = 5
"""Halvings that are looked at together: 31 candidates for every number that is sought."""
_SOUGHT = 2048
"""Numbers that are sought together."""


def holds(case: Case, contexts: Any, requests: Any) -> Array:
    """Where `verdict.excess_bytes` is at most 0, at arrays of any shape."""
    found: Any = True
    for entry in _distinct(entry for entry in case.ledgers(contexts, requests) if entry.decisive):
        if entry.usable_bytes is None:
            return np.zeros(np.broadcast_shapes(contexts.shape, requests.shape), dtype=bool)
        found = found & (total(entry.terms) <= entry.usable_bytes)
    return np.broadcast_to(found, np.broadcast_shapes(contexts.shape, requests.shape))


def largest(accepts: Any, ceiling: int, count: int) -> Array:
    """`verdict.largest` for `count` numbers at once: several halvings a step, and the same path through them.

    accepts: array [count, candidates] of whole numbers -> array of truths.
    """
    low, high = np.zeros(count, dtype=np.int64), np.full(count, ceiling, dtype=np.int64)
    low = np.where(accepts(high[:, None])[:, 0], high, low)
    while bool(np.any(high - low > 1)):
        low, high = _halved(accepts, low, high)
    return low


def _halved(accepts: Any, low: Array, high: Array) -> tuple[Array, Array]:
    """The bounds after _LEVELS halvings."""
    lows, highs, middles = low[:, None], high[:, None], []
    for _ in range(_LEVELS):
        middle = (lows + highs) // 2
        # Where nothing is left to ask, 0 would be asked; its answer is not used.
        middles.append(np.maximum(middle, 1))
        open_ = highs - lows > 1
        # Left child: the middle was refused; right child: it was accepted.
        below, above = np.where(open_, middle, highs), np.where(open_, middle, lows)
        lows = np.stack([lows, above], axis=2).reshape(len(low), -1)
        highs = np.stack([below, highs], axis=2).reshape(len(low), -1)
    accepted = accepts(np.concatenate(middles, axis=1))
    rows, node, first = np.arange(len(low)), np.zeros(len(low), dtype=np.int64), 0
    for level in range(_LEVELS):
        node = 2 * node + accepted[rows, first + node]
        first += 2**level
    return lows[rows, node], highs[rows, node]


def is_bounded(case: Case, context: int, concurrency: int) -> bool:
    """Limits can be found: nothing of the model is without a bound, and every memory that decides has a size."""
    entries = case.ledgers(context, concurrency)
    return not case.model.is_unbounded and all(entry.usable_bytes is not None for entry in entries if entry.decisive)


def _may_be_bounded(case: Case, context: int, concurrency: int, *, moving: bool) -> bool:
    """Whether an axis has limits. Where layers move, which memory decides is known point by point: `one_point` asks."""
    return not case.model.is_unbounded if moving else is_bounded(case, context, concurrency)


def has_room(case: Case, context: int, concurrency: int) -> bool:
    """Whether all numbers of a plan up to this corner stay within 64 bits: computed in Python's whole numbers."""

    def evaluate(tokens: int, count: int) -> None:
        for entry in case.ledgers(tokens, count):
            total(entry.terms)
        case.engine.kv_cache_bytes(case.prepared, tokens, count)
        case.engine.pool(case.prepared, tokens, count)

    return stays_within(evaluate, context, concurrency)


def number_type(case: Case, context: int, concurrency: int) -> Any:
    """What the numbers of a plan up to this corner are computed in: 64 bits, Python's own where a number on the way has
    no room in them; None where a result has none.
    """
    if has_room(case, context, concurrency):
        return np.int64
    sizes = [ledger.high_bytes(entry.terms) for entry in case.ledgers(context, concurrency)]
    cache = case.engine.kv_cache_bytes(case.prepared, context, concurrency)
    return object if max(*sizes, cache) < LARGEST else None


def sought_type(case: Case, contexts: Sequence[int], requests: Sequence[int]) -> Any:
    """What limits are sought in: 64 bits, or Python's own numbers where the far ends of a search have no room there."""
    longest, most = max(contexts), max(requests)
    last_context, last_count = _context_ceiling(case), _concurrency_ceiling(case)
    ends = has_room(case, max(longest, last_context), max(most, last_count)) or (
        has_room(case, last_context, most) and has_room(case, longest, last_count)
    )
    return np.int64 if ends else object


def _context_ceiling(case: Case) -> int:
    return case.model.max_context_tokens or judge.CONTEXT_CEILING_TOKENS


def _concurrency_ceiling(case: Case) -> int:
    return most_requests(case.profile) or judge.CONCURRENCY_CEILING


def longest_contexts(case: Case, requests: Sequence[int], *, moving: bool, kind: Any = np.int64) -> Any:
    """`verdict.max_context_tokens` along the requests, as a row."""
    if not case.model.cache_layers or not _may_be_bounded(case, 1, requests[0], moving=moving):
        return MISSING
    if moving:
        return np.array([judge.max_context_tokens(case, count) for count in requests], dtype=np.int64)[None, :]
    return _in_slices(lambda row, tokens: holds(case, tokens, row), requests, _context_ceiling(case), kind)[None, :]


def most_concurrent(case: Case, contexts: Sequence[int], *, moving: bool, kind: Any = np.int64) -> Any:
    """`verdict.max_concurrency` along the contexts, as a column."""
    if not _may_be_bounded(case, contexts[0], 1, moving=moving):
        return MISSING
    if moving:
        return np.array([judge.max_concurrency(case, tokens) for tokens in contexts], dtype=np.int64)[:, None]
    return _in_slices(lambda row, count: holds(case, row, count), contexts, _concurrency_ceiling(case), kind)[:, None]


def _in_slices(accepting: Any, values: Sequence[int], ceiling: int, kind: Any) -> Array:
    """`largest` for every value of an axis, so many at a time that the candidates stay small."""

    def accepts(part: Array) -> Any:
        return lambda tried: accepting(part, tried.astype(kind, copy=False))

    slices = [values[first : first + _SOUGHT] for first in range(0, len(values), _SOUGHT)]
    sought = (np.array(part, dtype=kind)[:, None] for part in slices)
    return np.concatenate([largest(accepts(part), ceiling, len(part)) for part in sought])


# --- speeds and costs -------------------------------------------------------------------------------------------------


def speeds(case: Case, contexts: Array, requests: Array) -> Columns:
    """SPEED_COLUMNS of a plan whose layers do not move; nan where speed is not modelled."""
    found = ready(case, contexts, requests)
    if isinstance(found, str):
        return dict.fromkeys(SPEED_COLUMNS, np.nan)
    at = figures(found, contexts, requests)
    near, prompted = nearness(found)
    return _speed_columns(
        interval(found.family, "decode", near, at.decode_tokens_per_s),
        interval(found.family, "total", near, at.total_tokens_per_s),
        interval(found.family, "first", prompted, at.first_s),
    )


def _speed_columns(*estimates: Estimate | None) -> Columns:
    columns: Columns = {}
    for name, found in zip(_QUANTITIES, estimates, strict=True):
        ends = (np.nan, np.nan, np.nan) if found is None else (found.estimate, found.low, found.high)
        columns |= {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), ends, strict=True)}
    return columns


def costs(case: Case, tokens_per_s: Any) -> Columns:
    """COST_COLUMNS: the cheapest way to rent the machine, and what a million tokens of answers cost there."""
    usd_per_h = _usd_per_h(case.machine)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = usd_per_h / (np.asarray(tokens_per_s, dtype=float) * 3600) * 1e6
    return {"usd_per_h": usd_per_h, "usd_per_million_tokens": each}


@lru_cache(maxsize=1024)
def _usd_per_h(machine: Any) -> float:
    cards = machine.gpus
    if not cards or len({card.id for card in cards}) > 1:
        return float("nan")
    found = hourly_price(cards[0].id, len(cards))
    return float("nan") if found is None else found.usd_per_h


# --- plans whose layers move ------------------------------------------------------------------------------------------


def moves(case: Case) -> bool:
    """At some points the plan is another one than arrays take: layers go to other cards or to RAM."""
    inner = getattr(case.prepared, "every_card", case.prepared)
    several = getattr(case.prepared, "one_card", None) is not None
    return several or not is_fixed(replace(case, prepared=inner, engine=engines.load(inner.profile)))


def one_point(request: Request, case: Case, context: int, concurrency: int) -> Columns:
    """The columns at one point through the scalar functions; limits too where what does not fit is in RAM."""
    found: Columns = {}
    asked = replace(request, context_tokens=context, concurrency=concurrency)
    verdict = judge.verdict_of(case, context, concurrency)
    if verdict == "does_not_fit" and request.machine.ram_bytes is not None:
        moved = choice.with_offload(asked, case)
        if moved is not None:
            limited = judge.limits_of(moved, context, concurrency)
            ends = (limited.max_context_tokens, limited.max_concurrency)
            found = {name: MISSING if value is None else value for name, value in zip(LIMIT_COLUMNS, ends, strict=True)}
            case = moved
    if not is_bounded(case, context, concurrency):
        found = dict.fromkeys(LIMIT_COLUMNS, MISSING)
    speed = speed_of(case, context, concurrency)
    found |= memory(case, context, concurrency)
    found |= _speed_columns(speed.decode_tokens_per_s, speed.total_tokens_per_s, speed.time_to_first_token_s)
    return found | costs(case, found["total_tokens_per_s"])


def settled_by_arrays(case: Case, contexts: Array, requests: Array) -> Array:
    """Where arrays take the plan that single points take: everything is on the first cards that were thought of."""
    inner = getattr(case.prepared, "every_card", case.prepared)
    shape = np.broadcast_shapes(contexts.shape, requests.shape)
    others = getattr(case.prepared, "one_card", None) is not None or inner.profile.constants.get("estimates_layers")
    if others or inner.settings.moves_what_does_not_fit:
        return np.zeros(shape, dtype=bool)
    return holds(case, contexts, requests)
