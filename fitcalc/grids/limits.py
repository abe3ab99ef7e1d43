"""The largest context and the largest number of requests, found for all values of an axis at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fitcalc.grids.kinds import concurrency_ceiling, context_ceiling
from fitcalc.grids.placing import Array, moves
from fitcalc.grids.points import excess_bytes, holds
from fitcalc.grids.watched import LARGEST
from fitcalc.verdict import Case

_LEVELS = 6
"""Halvings that are looked at together: 63 candidates for every number that is sought."""
_SOUGHT = 1024
"""Numbers that are sought together."""


def limits(case: Case, contexts: Sequence[int], requests: Sequence[int], kind: Any) -> tuple[Array, Array]:
    """`verdict.max_context_tokens` for each number of requests, `verdict.max_concurrency` for each context.

    kind: the numpy type that all numbers on the way have room in.
    """
    known = np.array([*requests, *contexts], dtype=np.int64)
    seeks_context = np.arange(len(known)) < len(requests)
    ceilings = np.where(seeks_context, context_ceiling(case), concurrency_ceiling(case))
    parts = [
        _sought(case, known[part], seeks_context[part], ceilings[part], kind)
        for part in (slice(first, first + _SOUGHT) for first in range(0, len(known), _SOUGHT))
    ]
    found = np.concatenate(parts)
    return found[: len(requests)], found[len(requests) :]


def _sought(case: Case, known: Array, seeks_context: Array, ceilings: Array, kind: Any) -> Array:
    def at(asks: Array, candidates: Array) -> tuple[Array, Array]:
        """Contexts and requests of candidates for some of what is sought, one line each."""
        lines = candidates.reshape(len(asks), -1).astype(kind, copy=False)
        fixed, is_context = known[asks, None].astype(kind, copy=False), seeks_context[asks, None]
        return np.where(is_context, lines, fixed), np.where(is_context, fixed, lines)

    if grows(case):
        return largest(lambda candidates: holds(case, *at(np.arange(len(known)), candidates)), ceilings)
    return crossing(lambda asks, candidates: excess_bytes(case, *at(asks, candidates)).reshape(-1), ceilings)


def grows(case: Case) -> bool:
    """What a plan takes never shrinks as contexts or requests grow, so that every way of searching ends alike."""
    steady = getattr(case.engine, "grows", None)
    return not moves(case) and (steady is None or bool(steady(case.prepared)))


def crossing(excess: Callable[[Array, Array], Array], ceilings: Array) -> Array:
    """`verdict.crossing` for many ceilings at once, each asked about what it would be asked about alone.

    excess: places of what is sought, a candidate for each -> by how much it exceeds the memory.
    """
    every, low, high = np.arange(len(ceilings)), np.ones_like(ceilings), ceilings.copy()
    above = np.array(excess(every, ceilings))
    found, below = np.where(above <= 0, ceilings, 0), np.zeros_like(above)
    asks = every[(above > 0) & (ceilings > 1)]
    if not len(asks):
        return found
    below[asks] = excess(asks, low[asks])
    holds_one = asks[below[asks] <= 0]
    found[holds_one] = 1
    halved = np.ones(len(ceilings), dtype=bool)
    while len(asks := holds_one[(high - low)[holds_one] > 1]):
        under, over = low[asks], high[asks]
        spans, room = over - under, -below[asks]
        if int(spans.max()) * int(room.max()) > LARGEST:
            spans = spans.astype(object)
        along = under + spans * room // (above - below)[asks]
        tried = np.where(halved[asks], along.clip(under + 1, over - 1), (under + over) // 2).astype(np.int64)
        met = excess(asks, tried)
        fits = met <= 0
        low[asks], high[asks] = np.where(fits, tried, under), np.where(fits, over, tried)
        below[asks], above[asks] = np.where(fits, met, below[asks]), np.where(fits, above[asks], met)
        halved[asks] = 2 * (high - low)[asks] <= over - under
        found[asks] = low[asks]
    return found


def largest(accepts: Callable[[Array], Array], ceilings: Array) -> Array:
    """`verdict.largest` for many ceilings at once: several halvings a step, and the same path through them.

    accepts: array [number sought, candidates] of whole numbers -> array of truths.
    """
    low, high = np.zeros_like(ceilings), ceilings
    edges = _halved(low, high)
    # The ceilings are looked at together with the first candidates.
    accepted = accepts(np.concatenate([_between(edges), high[:, None]], axis=1))
    low, high = _path(edges, accepted)
    low = np.where(accepted[:, -1], ceilings, low)
    high = np.where(accepted[:, -1], ceilings, high)
    while np.any(high - low > 1):
        edges = _halved(low, high)
        low, high = _path(edges, accepts(_between(edges)))
    return low


def _halved(low: Array, high: Array) -> Array:
    """Bounds with all that lies between them after _LEVELS halvings, in order; where nothing does, the lower again."""
    edges = np.stack([low, high], axis=1)
    for _ in range(_LEVELS):
        finer = np.empty((len(edges), 2 * edges.shape[1] - 1), dtype=np.int64)
        finer[:, ::2] = edges
        finer[:, 1::2] = (edges[:, :-1] + edges[:, 1:]) // 2
        edges = finer
    return edges


def _between(edges: Array) -> Array:
    """The candidates. Nothing hangs on the answer to 0, in whose place stands 1."""
    return np.maximum(edges[:, 1:-1], 1)


def _path(edges: Array, accepted: Array) -> tuple[Array, Array]:
    """The bounds after following the answers through the halvings."""
    rows, at, step = np.arange(len(edges)), np.zeros(len(edges), dtype=np.int64), 2**_LEVELS
    while step > 1:
        step //= 2
        at = at + step * accepted[rows, at + step - 1]
    return edges[rows, at], edges[rows, at + 1]
