"""The numbers of a plan at arrays of contexts (a column) and requests (a row): bytes, verdicts, speeds, costs.

Every number comes from the function that answers a single question; here are only sums, comparisons and choices between
devices. Arrays have two dimensions, each of length 1 where a number does not change along it. Whole numbers that are
missing are MISSING, others nan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from fitcalc import verdict as judge
from fitcalc.engines.base import DeviceLedger
from fitcalc.grids.placing import Array, Columns, everywhere
from fitcalc.ledger import TERM_NAMES, Term
from fitcalc.plan import weights_of
from fitcalc.prices import hourly_price
from fitcalc.same import Same
from fitcalc.spec.hardware import Machine
from fitcalc.spec.report import Estimate, Verdict
from fitcalc.speeds.answer import nearness
from fitcalc.speeds.families import interval
from fitcalc.speeds.figures import figures, ready
from fitcalc.units import most
from fitcalc.verdict import Case

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
_TYPES = {"verdict": np.int8, "fits": np.bool_, "reason": np.int8}


def type_of(column: str) -> Any:
    """The numpy type of a column."""
    return np.float64 if column in FLOATS else _TYPES.get(column, np.int64)


def memory(case: Case, contexts: Array, requests: Array) -> Columns:
    """MEMORY_COLUMNS of a plan."""
    cache = case.engine.kv_cache_bytes(case.prepared, contexts, requests)
    found = everywhere(case, contexts, requests, _memory)
    return {"weights_bytes": weights_of(case), "kv_cache_bytes": cache, **found}


def _memory(case: Case, contexts: Array, requests: Array) -> Columns:
    sums = _sums(case.deciding(contexts, requests))
    codes = verdict_codes(case, sums, contexts, requests)
    return {**_deciding(sums), "verdict": codes, "fits": codes >= 2}


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
    totals = [(entry, total(entry.terms)) for entry in _distinct(entries)]
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


def verdict_codes(case: Case, sums: Sums, contexts: Array, requests: Array) -> Array:
    """`verdict.verdict_of` as codes of VERDICTS."""
    found = np.full((1, 1), 3, dtype=np.int8)
    for entry, sum_bytes, high_bytes in sums:
        found = np.minimum(found, _device_codes(entry, sum_bytes, high_bytes))
    least = case.model.at_least
    if least is None:
        return np.where(found > 0, 1, found).astype(np.int8) if case.model.unknowns else found
    smallest = judge.case_of(least, case.scheme, case.profile, case.machine, case.workload)
    held = everywhere(smallest, contexts, requests, _memory)["verdict"]
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


def holds(case: Case, contexts: Array, requests: Array) -> Array:
    """Where `verdict.excess_bytes` is at most 0, at arrays of one shape."""
    return excess_bytes(case, contexts, requests) <= 0


def excess_bytes(case: Case, contexts: Array, requests: Array) -> Array:
    """`verdict.excess_bytes` at arrays of one shape."""
    return np.broadcast_to(everywhere(case, contexts, requests, _excess)["excess_bytes"], contexts.shape)


def _excess(case: Case, contexts: Array, requests: Array) -> Columns:
    rooms = [total(entry.terms) - (entry.usable_bytes or 0) for entry in _distinct(case.deciding(contexts, requests))]
    return {"excess_bytes": reduce(most, rooms, rooms[0])}


def limit_columns(case: Case, headroom_bytes: Any, longest: Any, most: Any) -> Columns:
    """LIMIT_COLUMNS: the limits where they can be found, because nothing of the model is without a bound and every
    memory that decides has a size, so that there is a headroom."""
    found = (headroom_bytes != MISSING) & (not case.model.is_unbounded)
    columns = {"max_context_tokens": longest if case.model.cache_layers else MISSING, "max_concurrency": most}
    return {name: value if np.all(found) else np.where(found, value, MISSING) for name, value in columns.items()}


# --- speeds and costs -------------------------------------------------------------------------------------------------


def speeds(case: Case, contexts: Array, requests: Array) -> Columns:
    """SPEED_COLUMNS of a plan; nan where speed is not modelled."""
    return everywhere(case, contexts, requests, _speeds)


def _speeds(case: Case, contexts: Array, requests: Array) -> Columns:
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
    usd_per_h = _usd_per_h(Same(case.machine))
    with np.errstate(divide="ignore", invalid="ignore"):
        each = usd_per_h / (np.asarray(tokens_per_s, dtype=float) * 3600) * 1e6
    return {"usd_per_h": usd_per_h, "usd_per_million_tokens": each}


@lru_cache(maxsize=1024)
def _usd_per_h(machine: Same[Machine]) -> float:
    cards = machine.value.gpus
    if not cards or len({card.id for card in cards}) > 1:
        return float("nan")
    found = hourly_price(cards[0].id, len(cards))
    return float("nan") if found is None else found.usd_per_h
