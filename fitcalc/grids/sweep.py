"""fitcalc.sweep: a grid of plans that is computed when it is asked for, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass, replace
from fitcalc.grids.chunks import COLUMNS, Chunk, missing_of, records, type_of
from fitcalc.grids.grid import AXES, Grid, pieces
from fitcalc.grids.plans import REASONS
from fitcalc.grids.points import VERDICTS, Array
from fitcalc.grids.running import computed

CHUNK_POINTS = 2**16
"""Points of a piece: its arrays stay in a core's own cache."""
_LARGEST_ARRAY_POINTS = 2**31
Condition = Callable[[Mapping[str, Array]], Any]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every combination of the axes, each point as `fit` answers it. Nothing is computed before it is asked for.

    Points that no engine runs are there too: their numbers are masked, `reason` says why in a code of `reasons`, the
    records in words.
    """

    grid: Grid
    wanted: tuple[str, ...] = COLUMNS
    conditions: tuple[Condition, ...] = ()
    executor: Executor | None = None
    chunk_points: int = CHUNK_POINTS

    verdicts = VERDICTS
    """Names of the codes in the column `verdict`."""
    reasons = REASONS
    """Names of the codes in the column `reason`."""

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Axis -> its values; None where `fit` chooses."""
        return self.grid.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Values on every axis, in the order of `axes`."""
        return self.grid.shape

    @property
    def points(self) -> int:
        """Points of the whole grid."""
        return self.grid.points

    @property
    def columns(self) -> Columns:
        """Column -> masked array of the grid's shape, computed when it is taken."""
        return Columns(self)

    def where(self, condition: Condition | None = None, **values: Any) -> Sweep:
        """The points that meet a condition; the others are masked in columns and left out of records.

        condition: takes a mapping of columns and axes, arrays of one piece, and returns an array of truths. values:
        axis or column = a value or a collection of values; verdicts by name.
        """
        added = [] if condition is None else [condition]
        added += [Equal(name, _listed(value)) for name, value in values.items()]
        for name in values:
            if name not in (*AXES, *COLUMNS):
                hint = f"columns: {', '.join(COLUMNS[:6])} …; axes: {', '.join(AXES)}"
                raise RequestError(f"a sweep has no column or axis {name!r}", hint=hint)
        return replace(self, conditions=(*self.conditions, *added))

    def chunks(self) -> Iterator[tuple[Chunk, Array]]:
        """Pieces in order, each with an array of its points that are kept."""
        return self.chunks_from(0)

    def chunks_from(self, done: int) -> Iterator[tuple[Chunk, Array]]:
        """The pieces behind the first `done` of them."""
        needed = self.wanted if not self.conditions else COLUMNS
        wanted = islice(pieces(self.grid, self.chunk_points), done, None)
        for chunk in computed(self.grid, wanted, needed, self.executor):
            yield chunk, kept(self.grid, chunk, self.conditions)

    def records(self) -> Iterator[dict[str, Any]]:
        """The points as dictionaries, one after another: axes with what was chosen, columns, the refusal in words."""
        for chunk, keep in self.chunks():
            yield from records(chunk, self.grid, self.wanted, keep)

    def to_records(self) -> list[dict[str, Any]]:
        """All records at once."""
        return list(self.records())

    def best(
        self, by: str, *, subject_to: Condition | Mapping[str, Any] | None = None, per: str | Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """The record with the smallest `by` ('-name': the largest) among the points that meet `subject_to`.

        per: axes for each of whose values there is a best one. Groups without any are left out; of equals the first
        one wins.
        """
        from fitcalc.grids.choosing import best

        return best(self, by, subject_to, (per,) if isinstance(per, str) else tuple(per))

    def variables(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Column -> (names of its dimensions, masked array): what xarray.Dataset takes."""
        return {name: (AXES, self.columns[name]) for name in self.wanted}

    def write(self, path: str | os.PathLike[str], *, resume: bool = False, progress: bool | None = None) -> int:
        """Write all points to .csv, .jsonl, .parquet or .arrow piece by piece and return their number.

        The file gets its name when it is complete. resume: go on where an interrupted run ended (.csv and .jsonl).
        progress: a bar on stderr; by default on a terminal.
        """
        from fitcalc.grids.writing import write

        return write(self, os.fspath(path), resume=resume, progress=progress)

    def to_arrow(self) -> Any:
        """A pyarrow.RecordBatchReader that computes as it is read (extra 'arrow'); pandas and polars take it."""
        from fitcalc.grids.tables import reader

        return reader(self)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The Arrow stream interface, by which dataframe libraries read a sweep."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class Columns(Mapping[str, Any]):
    """The columns of a sweep by name. Taking one computes it over the whole grid."""

    sweep: Sweep

    def __getitem__(self, name: str) -> Any:
        """A masked array of the grid's shape."""
        if name not in self.sweep.wanted:
            raise KeyError(name)
        grid = self.sweep.grid
        if grid.points > _LARGEST_ARRAY_POINTS:
            hint = "write it to a file, or narrow the grid"
            raise RequestError(f"{grid.points:,} points are too many for one array", hint=hint)
        values = np.empty((grid.blocks, *grid.shape[-2:]), dtype=type_of(name))
        lost = np.zeros(values.shape, dtype=bool)
        alone = replace(self.sweep, wanted=(name, "reason"))
        for chunk, keep in alone.chunks():
            block, first, stop = chunk.piece
            column = chunk.full(name)
            values[block, first:stop] = column
            missing = np.isnan(column) if values.dtype.kind == "f" else column == missing_of(name)
            refused = chunk.full("reason") != 0
            lost[block, first:stop] = ~keep | ((missing & (name != "fits")) | refused) & (name != "reason")
        return np.ma.MaskedArray(values.reshape(grid.shape), lost.reshape(grid.shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sweep.wanted)

    def __len__(self) -> int:
        return len(self.sweep.wanted)


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple | set | frozenset | range) else (value,)


@dataclass(frozen=True, slots=True)
class Equal:
    """A condition: an axis or column has one of these values."""

    name: str
    values: tuple[Any, ...]

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """Where it holds."""
        found = columns[self.name]
        if self.name == "verdict":
            return np.isin(found, [VERDICTS.index(value) for value in self.values if value in VERDICTS])
        if isinstance(found, np.ndarray):
            return np.isin(found, list(self.values))
        return found in self.values


class Seen(Mapping[str, Any]):
    """What a condition sees of a chunk: columns and the two inner axes as arrays, the plan's axes as single values."""

    def __init__(self, grid: Grid, chunk: Chunk) -> None:
        block, first, stop = chunk.piece
        self._chunk, self._labels = chunk, grid.block(block).labels
        self._inner = {
            "context": np.array(grid.contexts[first:stop])[:, None],
            "concurrency": np.array(grid.concurrencies)[None, :],
        }

    def __getitem__(self, name: str) -> Any:
        """An array that broadcasts to the chunk's shape, or a plain value."""
        for place in (self._inner, self._labels):
            if name in place:
                return place[name]
        return self._chunk.columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._labels, *self._inner, *self._chunk.columns))

    def __len__(self) -> int:
        return len(self._labels) + len(self._inner) + len(self._chunk.columns)


def kept(grid: Grid, chunk: Chunk, conditions: Sequence[Condition]) -> Array:
    """Points of a chunk that meet every condition."""
    keep: Any = np.True_
    with np.errstate(invalid="ignore"):
        for condition in conditions:
            keep = keep & np.asarray(condition(Seen(grid, chunk)), dtype=bool)
    return np.broadcast_to(keep, chunk.shape)
