"""The best point of a sweep, or of each of its groups, in one pass; what came of all points, counted on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.grids.chunks import COLUMNS, Chunk, Part, compute, missing_of, records
from fitcalc.grids.grid import AXES, PLAN_AXES, Grid
from fitcalc.grids.points import VERDICTS, Array

if TYPE_CHECKING:
    from fitcalc.grids.sweep import Sweep

_NOT_SORTED = ("verdict", "reason", "fits")
REFUSED = "refused"


def best(sweep: Sweep, by: str, subject_to: Any, per: tuple[str, ...]) -> list[dict[str, Any]]:
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

    def __init__(self, grid: Grid, by: str, per: tuple[str, ...]) -> None:
        self.name, self._sign = (by[1:], -1) if by.startswith("-") else (by, 1)
        if self.name not in COLUMNS or self.name in _NOT_SORTED:
            hint = "give a column of numbers, such as usd_per_h or -total_tokens_per_s"
            raise RequestError(f"a sweep has no column of numbers {self.name!r}", hint=hint)
        unknown = next((axis for axis in per if axis not in AXES), None)
        if unknown is not None:
            raise RequestError(f"a sweep has no axis {unknown!r}", hint=f"it has {', '.join(AXES)}")
        self.columns = (self.name, "reason")
        self._grid, self._per = grid, per
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
        values = chunk.full(self.name)
        lost = np.isnan(values) if values.dtype.kind == "f" else values == missing_of(self.name)
        open_ = keep & ~lost & (chunk.full("reason") == 0)
        if not open_.any():
            return []
        scores = np.where(open_, self._sign * values.astype(float), np.inf)
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
        self.best = Best(grid, by, ("model",))
        self.columns = (*self.best.columns, "verdict", "fits")

    def of(self, chunk: Chunk, keep: Array) -> dict[str, Any]:
        """What there is to say of a chunk alone, as plain data."""
        codes = chunk.full("verdict")
        counts = {str(name): int(np.count_nonzero(keep & (codes == code))) for code, name in enumerate(VERDICTS)}
        counts[REFUSED] = int(np.count_nonzero(keep & (codes < 0)))
        return {"counts": counts, "best": self.best.of(chunk, keep & chunk.full("fits"))}

    def take(self, *told: Mapping[str, Any]) -> dict[str, Any]:
        """Add what was said of chunks, and return as much of it as is news."""
        counts, best = dict.fromkeys(self.counts, 0), dict[str, Found]()
        for one in told:
            for name, count in one["counts"].items():
                counts[name] += count
            best |= {found[0]: found for found in self.best.take(tuple(found) for found in one["best"])}
        for name, count in counts.items():
            self.counts[name] += count
        return {"counts": counts, "best": list(best.values())}
