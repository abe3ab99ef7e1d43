"""What the numbers of a plan are computed in: 64 bits, or Python's own whole numbers where those have no room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fitcalc import ledger
from fitcalc import verdict as judge
from fitcalc.engines.base import most_requests
from fitcalc.grids.watched import LARGEST, stays_within
from fitcalc.verdict import Case


def kinds_of(case: Case, contexts: Sequence[int], requests: Sequence[int]) -> tuple[Any, Any]:
    """What the points of two axes are computed in, None where a result has no room; and what limits along them are
    sought in."""
    longest, most = max(contexts), max(requests)
    if has_room(case, max(longest, context_ceiling(case)), max(most, concurrency_ceiling(case))):
        return np.int64, np.int64
    return number_type(case, longest, most), sought_type(case, longest, most)


def has_room(case: Case, context: int, concurrency: int) -> bool:
    """Whether all numbers of a plan up to this corner stay within 64 bits: computed in Python's whole numbers."""

    def evaluate(tokens: int, count: int) -> None:
        for entry in case.ledgers(tokens, count):
            ledger.total_bytes(entry.terms)
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


def sought_type(case: Case, longest: int, most: int) -> Any:
    """What limits are sought in: 64 bits, or Python's own numbers where the far ends of a search have no room there."""
    ends = has_room(case, context_ceiling(case), most) and has_room(case, longest, concurrency_ceiling(case))
    return np.int64 if ends else object


def context_ceiling(case: Case) -> int:
    """Where a search for the largest context starts."""
    return case.model.max_context_tokens or judge.CONTEXT_CEILING_TOKENS


def concurrency_ceiling(case: Case) -> int:
    """Where a search for the most requests starts."""
    return most_requests(case.profile) or judge.CONCURRENCY_CEILING
