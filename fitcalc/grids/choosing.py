"""The best point of a sweep, or of each of its groups, in one pass; what came of all points, counted on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.grids.chunks import COLUMNS, Chunk, Part, compute, missing_of, records
from fitcalc.grids.grid import AXES, PLAN_AXES, Grid
from fitcalc.grids.placing import Array
from fitcalc.grids.points import FLOATS, VERDICTS
from fitcalc.grids.sweep import Seen, Sweep

_NOT_SORTED = ("verdict", "reason", "fits")
REFUSED = "refused"
By = str | Callable[[Mapping[str, Any]], Any]
"""A column, '-' before it where the largest is best, or a function of columns and axes whose smallest result is."""
_MOST_REFUSALS = 1000
"""Different words of refusal that are counted; a large grid may have one for every plan."""


def best(sweep: Sweep, by: By, subject_to: Any, per: tuple[str, ...]) -> list[dict[str, Any]]:
    """One record for every group that has a point; see Sweep.best."""
    if isinstance(subject_to, Mapping):
        sweep = sweep.where(**subject_to)
    elif subject_to is not None:
        sweep = sweep.where(subject_to)
    found = Best(sweep.grid, by, per)
    for chunk, keep in replace(sweep, wanted=found.columns).chunks():
        found.take(found.of(chunk, keep))
    return found.records()


Found = tuple[str, float, int, int, int]
"""A group's best point: the group's values, its score, its block, and its places on the two inner axes."""


class Best:
    """The best points so far, one per group of values on the axes `per`."""

    def __init__(self, grid: Grid, by: By, per: tuple[str, ...]) -> None:
        name = by.removeprefix("-") if isinstance(by, str) else None
        if name is not None and (name not in COLUMNS or name in _NOT_SORTED):
            hint = "give a column of numbers, such as usd_per_h or -total_tokens_per_s"
            raise RequestError(f"a sweep has no column of numbers {name!r}", hint=hint)
        unknown = next((axis for axis in per if axis not in AXES), None)
        if unknown is not None:
            raise RequestError(f"a sweep has no axis {unknown!r}", hint=f"it has {', '.join(AXES)}")
        self.columns = COLUMNS if name is None else (name, "reason")
        self._grid, self._by, self._per = grid, by, per
        self._found: dict[str, Found] = {}

    def records(self) -> list[dict[str, Any]]:
        """The best of every group, in the order of the grid: all columns, computed for these points alone."""
        row = lru_cache(maxsize=1)(lambda block, i: compute(self._grid, (block, i, i + 1), COLUMNS))
        return [_record(self._grid, row(block, i), j) for _, _, block, i, j in self._found.values()]

    def take(self, found: Iterable[Found]) -> list[Found]:
        """Keep those that are better than what their groups have, and return them; of equals the first stays."""
        better = [one for one in found if one[0] not in self._found or one[1] < self._found[one[0]][1]]
        self._found.update((one[0], one) for one in better)
        return better

    def of(self, chunk: Chunk, keep: Array) -> list[Found]:
        """The best of every group within a chunk."""
        values = _scores(self._grid, chunk, self._by)
        open_ = keep & ~np.isnan(values) & (chunk.full("reason") == 0)
        if not open_.any():
            return []
        scores = np.where(open_, values, np.inf)
        block, first, _ = chunk.piece
        found = []
        for group, rows, lines in self._groups(chunk):
            inside = scores[rows, lines]
            i, j = np.unravel_index(int(np.argmin(inside)), inside.shape)
            if inside[i, j] < np.inf:
                place = (first + (rows.start or 0) + int(i), (lines.start or 0) + int(j))
                found.append((group, float(inside[i, j]), block, *place))
        return found

    def _groups(self, chunk: Chunk) -> list[tuple[str, slice, slice]]:
        """(the group's values, its contexts, its concurrencies) in a chunk."""
        block, first, stop = chunk.piece
        labels = self._grid.block(block).labels
        fixed = [labels[axis] for axis in self._per if axis in PLAN_AXES]
        contexts = range(stop - first) if "context" in self._per else [None]
        counts = range(chunk.shape[1]) if "concurrency" in self._per else [None]
        return [
            (
                repr((*fixed, None if i is None else first + i, j)),
                slice(None) if i is None else slice(i, i + 1),
                slice(None) if j is None else slice(j, j + 1),
            )
            for i in contexts
            for j in counts
        ]


def _scores(grid: Grid, chunk: Chunk, by: By) -> Array:
    """What is to be small at every point; nan where there is no number."""
    if not isinstance(by, str):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.broadcast_to(np.asarray(by(Seen(grid, chunk)), dtype=float), chunk.shape)
    name = by.removeprefix("-")
    values = chunk.full(name)
    found = values.astype(float)
    if name not in FLOATS:
        found[values == missing_of(name)] = np.nan
    return -found if by.startswith("-") else found


def _record(grid: Grid, row: Chunk, j: int) -> dict[str, Any]:
    """One point of a chunk of one context."""
    block, i, _ = row.piece
    part = next(part for part in row.parts if part.first <= j < part.stop)
    point = Chunk(
        (block, 0, 1), (1, 1), {name: row.full(name)[:, j : j + 1] for name in COLUMNS}, (Part(0, 1, part.facts),)
    )
    alone = replace(grid, contexts=(grid.contexts[i],), concurrencies=(grid.concurrencies[j],))
    return next(records(point, alone, COLUMNS))


class Summary:
    """What came of the points of a sweep: how many of each verdict, and the best one that fits, model by model."""

    def __init__(self, grid: Grid, by: str) -> None:
        self.by = by
        self.counts: dict[str, int] = dict.fromkeys((*reversed(VERDICTS), REFUSED), 0)
        self.refusals: dict[str, int] = {}
        self.best = Best(grid, by, ("model",))
        self.columns = (*self.best.columns, "verdict", "fits")

    def of(self, chunk: Chunk, keep: Array) -> dict[str, Any]:
        """What there is to say of a chunk alone, as plain data."""
        codes = chunk.full("verdict")
        counts = {str(name): int(np.count_nonzero(keep & (codes == code))) for code, name in enumerate(VERDICTS)}
        counts[REFUSED] = int(np.count_nonzero(keep & (codes < 0)))
        told = {"counts": counts, "best": self.best.of(chunk, keep & chunk.full("fits"))}
        refused = [part for part in chunk.parts if part.facts["refusal"]]
        if refused:
            told["refusals"] = _added(
                (part.facts["refusal"], int(np.count_nonzero(keep[:, part.first : part.stop]))) for part in refused
            )
        return told

    def take(self, *told: Mapping[str, Any]) -> dict[str, Any]:
        """Add what was said of chunks, and return as much of it as is news."""
        news = {
            name: _added(pair for one in told for pair in one.get(name, {}).items()) for name in ("counts", "refusals")
        }
        best = {found[0]: found for one in told for found in self.best.take(tuple(found) for found in one["best"])}
        self.counts = _added((*self.counts.items(), *news["counts"].items()))
        for text in news["refusals"].keys() - self.refusals.keys() if len(self.refusals) > _MOST_REFUSALS else ():
            del news["refusals"][text]
        self.refusals = _added((*self.refusals.items(), *news["refusals"].items()))
        return {**news, "best": list(best.values())}


def _added(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sums by name."""
    found: dict[str, int] = {}
    for name, count in pairs:
        found[name] = found.get(name, 0) + count
    return found
