"""The largest context and the largest number of requests, found for all values of an axis at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fitcalc.grids.kinds import concurrency_ceiling, context_ceiling
from fitcalc.grids.placing import Array
from fitcalc.grids.points import holds
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
    fixed, is_context = known[:, None], seeks_context[:, None]

    def accepts(candidates: Array) -> Array:
        contexts, requests = np.where(is_context, candidates, fixed), np.where(is_context, fixed, candidates)
        return holds(case, contexts.astype(kind, copy=False), requests.astype(kind, copy=False))

    return largest(accepts, ceilings)


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
