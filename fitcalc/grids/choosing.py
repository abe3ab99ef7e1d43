"""The best point of a sweep, or of each of its groups, in one pass; what came of all points, counted on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.grids.chunks import COLUMNS, Chunk, missing_of, records
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
    for chunk, keep in replace(sweep, wanted=COLUMNS).chunks():
        found.add(chunk, keep)
    return found.records


class Best:
    """The best records so far, one per group of values on the axes `per`."""

    def __init__(self, grid: Grid, by: str, per: tuple[str, ...]) -> None:
        self.name, self._sign = (by[1:], -1) if by.startswith("-") else (by, 1)
        if self.name not in COLUMNS or self.name in _NOT_SORTED:
            hint = "give a column of numbers, such as usd_per_h or -total_tokens_per_s"
            raise RequestError(f"a sweep has no column of numbers {self.name!r}", hint=hint)
        unknown = next((axis for axis in per if axis not in AXES), None)
        if unknown is not None:
            raise RequestError(f"a sweep has no axis {unknown!r}", hint=f"it has {', '.join(AXES)}")
        self._grid, self._per = grid, per
        self._found: dict[str, tuple[float, dict[str, Any]]] = {}

    @property
    def records(self) -> list[dict[str, Any]]:
        """The best of every group, in the order of the grid."""
        return [record for _, record in self._found.values()]

    def put(self, group: str, value: float, record: dict[str, Any]) -> None:
        """Take over a record that was found before."""
        self._found[group] = value, record

    def add(self, chunk: Chunk, keep: Array) -> list[tuple[str, float, dict[str, Any]]]:
        """Look at a chunk; what became the best of its group."""
        values = chunk.full(self.name)
        lost = np.isnan(values) if values.dtype.kind == "f" else values == missing_of(self.name)
        open_ = keep & ~lost & (chunk.full("reason") == 0)
        if not open_.any():
            return []
        scores = np.where(open_, self._sign * values.astype(float), np.inf)
        changes = []
        for group, rows, lines in self._groups(chunk):
            inside = scores[rows, lines]
            place = np.unravel_index(int(np.argmin(inside)), inside.shape)
            score = float(inside[place])
            if score < np.inf and (group not in self._found or score < self._found[group][0]):
                one = np.zeros(chunk.shape, dtype=bool)
                one[rows, lines][place] = True
                self.put(group, score, next(records(chunk, self._grid, COLUMNS, one)))
                changes.append((group, *self._found[group]))
        return changes

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


class Summary:
    """What came of the points of a sweep: how many of each verdict, and the best one that fits, model by model."""

    def __init__(self, grid: Grid, by: str) -> None:
        self.counts: dict[str, int] = dict.fromkeys((*reversed(VERDICTS), REFUSED), 0)
        self.best = Best(grid, by, ("model",))

    def add(self, chunk: Chunk, keep: Array) -> dict[str, Any]:
        """Look at a chunk; what it changed, as plain data."""
        codes = chunk.full("verdict")
        counts = {str(name): int(np.count_nonzero(keep & (codes == code))) for code, name in enumerate(VERDICTS)}
        counts[REFUSED] = int(np.count_nonzero(keep & (codes < 0)))
        change = {"counts": counts, "best": self.best.add(chunk, keep & chunk.full("fits"))}
        self._count(counts)
        return change

    def take(self, change: Mapping[str, Any]) -> None:
        """Repeat a change that an interrupted run made."""
        self._count(change["counts"])
        for group, value, record in change["best"]:
            self.best.put(group, value, record)

    def _count(self, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self.counts[name] += count
