"""Points that do not fit on the cards, with what does not fit in RAM: as `choice.with_offload` answers one of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fitcalc.grids import points
from fitcalc.grids.kinds import kinds_of
from fitcalc.grids.limits import limits
from fitcalc.grids.placing import Array, Columns, led, points_of, scatter
from fitcalc.verdict import Case


def with_moved(found: Columns, moved: Case, contexts: Array, requests: Array) -> Columns:
    """The columns with those points replaced where the plan that moves layers to RAM runs and the other does not."""
    column, row = points_of(contexts, requests)
    shape = np.broadcast_shapes(contexts.shape, requests.shape)
    tried = np.flatnonzero(np.broadcast_to(found["verdict"], shape).reshape(-1) == 0)
    if not len(tried):
        return found
    memory = points.memory(moved, column[tried], row[tried])
    taken = np.flatnonzero(_helps(moved, memory["verdict"], column[tried], row[tried]))
    if not len(taken):
        return found
    apart = tried[taken]
    columns = {name: _at(value, taken, len(tried)) for name, value in memory.items()}
    if "max_context_tokens" in found:
        columns |= _limits(moved, columns["headroom_bytes"][:, None], column[apart], row[apart])
    if "total_tokens_per_s" in found:
        columns |= points.speeds(moved, column[apart], row[apart])
        columns |= points.costs(moved, columns["total_tokens_per_s"])
    full: Columns = {}
    for name, value in found.items():
        full[name] = np.array(np.broadcast_to(value, shape), dtype=points.type_of(name)).reshape(-1)
    scatter({name: value for name, value in columns.items() if name in found}, full, apart, len(column))
    return {name: value.reshape(shape) for name, value in full.items()}


def _at(value: Any, places: Array, count: int) -> Array:
    return np.broadcast_to(np.asarray(value).reshape(-1), count)[places]


def _helps(moved: Case, codes: Any, column: Array, row: Array) -> Array:
    """Where the plan runs and something of it is in RAM."""
    engine: Any = moved.engine
    helps = np.zeros(len(column), dtype=bool)
    runs = np.flatnonzero(_at(codes, np.arange(len(column)), len(column)) > 0)
    for plan, members in led(lambda ask: engine.moved(moved.prepared, ask), column[runs], row[runs]):
        helps[runs[members]] = plan is not None and bool(engine.offload_summary(plan))
    return helps


def _limits(moved: Case, headroom_bytes: Array, column: Array, row: Array) -> Columns:
    """LIMIT_COLUMNS at points in columns."""
    requests, of_row = np.unique(row, return_inverse=True)
    contexts, of_column = np.unique(column, return_inverse=True)
    axes = contexts.tolist(), requests.tolist()
    longest, most = limits(moved, *axes, kinds_of(moved, *axes)[1])
    places = of_row.reshape(-1, 1), of_column.reshape(-1, 1)
    return points.limit_columns(moved, headroom_bytes, longest[places[0]], most[places[1]])
