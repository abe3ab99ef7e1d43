"""fitcalc.sweep: a grid of plans that is computed when it is asked for, piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass, replace
from fitcalc.grids.chunks import COLUMNS, Chunk, compute_all, missing_of, records
from fitcalc.grids.grid import AXES, Grid, pieces
from fitcalc.grids.placing import Array
from fitcalc.grids.plans import REASONS
from fitcalc.grids.points import FLOATS, VERDICTS, type_of
from fitcalc.grids.running import in_order

CHUNK_POINTS = 2**16
"""Points of a piece: its arrays stay in a core's own cache."""
_LARGEST_ARRAY_POINTS = 2**31
_UNITS = {
    "usd_per_h": "USD/h",
    "usd_per_million_tokens": "USD/1e6",
    "_tokens_per_s": "1/s",
    "_token_s": "s",
    "_bytes": "B",
}
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
    def coords(self) -> dict[str, Any]:
        """Axis -> array of its values, as xarray takes them: 'auto', or 0 as a number, where `fit` chooses."""
        return {
            name: np.array(
                [(0 if name == "tensor_parallel" else "auto") if value is None else value for value in values]
            )
            for name, values in self.axes.items()
        }

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
        columns = needed(self)
        work = partial(compute_all, self.grid, wanted=columns)
        left = islice(pieces(self.grid, self.chunk_points), done, None)
        for chunk in in_order(work, self.grid, left, 8 * len(columns), self.executor):
            yield chunk, kept(self.grid, chunk, self.conditions)

    def records(self) -> Iterator[dict[str, Any]]:
        """The points as dictionaries, one after another: axes with what was chosen, columns, the refusal in words."""
        for chunk, keep in self.chunks():
            yield from records(chunk, self.grid, self.wanted, keep)

    def to_records(self) -> list[dict[str, Any]]:
        """All records at once."""
        return list(self.records())

    def best(
        self,
        by: str | Condition,
        *,
        subject_to: Condition | Mapping[str, Any] | None = None,
        per: str | Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """The record with the smallest `by` ('-name': the largest) among the points that meet `subject_to`.

        by: a column, or a function that takes what a condition takes and returns numbers.
        per: axes for each of whose values there is a best one. Groups without any are left out; of equals the first
        one wins.
        """
        from fitcalc.grids.choosing import best

        return best(self, by, subject_to, (per,) if isinstance(per, str) else tuple(per))

    def variables(self) -> dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]:
        """Column -> (names of its dimensions, array, attributes): what xarray.Dataset takes, with `coords`.

        Numbers of points that have none are masked; their verdict is -1, and they do not fit.
        """
        found = arrays_of(self, self.wanted)
        return {name: (AXES, _filled(name, array), _attributes(name)) for name, array in found.items()}

    def write(self, path: str | os.PathLike[str], *, resume: bool = False, progress: bool | None = None) -> int:
        """Write all points to .csv, .jsonl, .parquet or .arrow piece by piece and return their number.

        The file gets its name when it is complete. resume: go on where an interrupted run ended (.csv and .jsonl).
        progress: a bar on stderr; by default on a terminal.
        """
        from fitcalc.grids.writing import write

        return write(self, os.fspath(path), resume=resume, progress=progress)

    def to_arrow(self) -> Any:
        """A pyarrow.RecordBatchReader that computes as it is read (extra 'arrow')."""
        from fitcalc.grids.tables import reader

        return reader(self)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The Arrow stream interface, by which pyarrow.table, polars.DataFrame and pandas' from_arrow read a sweep."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class Columns(Mapping[str, Any]):
    """The columns of a sweep by name. Taking one computes it over the whole grid."""

    sweep: Sweep

    def __getitem__(self, name: str) -> Any:
        """A masked array of the grid's shape."""
        if name not in self.sweep.wanted:
            raise KeyError(name)
        return arrays_of(self.sweep, (name,))[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sweep.wanted)

    def __len__(self) -> int:
        return len(self.sweep.wanted)


def arrays_of(sweep: Sweep, names: Sequence[str]) -> dict[str, Any]:
    """Masked arrays of the grid's shape, computed in one pass."""
    grid = sweep.grid
    if grid.points > _LARGEST_ARRAY_POINTS:
        hint = "write it to a file, or narrow the grid"
        raise RequestError(f"{grid.points:,} points are too many for one array", hint=hint)
    shape = (grid.blocks, *grid.shape[-2:])
    values = {name: np.empty(shape, dtype=type_of(name)) for name in names}
    lost = {name: np.zeros(shape, dtype=bool) for name in names}
    for chunk, keep in replace(sweep, wanted=(*names, "reason")).chunks():
        block, first, stop = chunk.piece
        refused = chunk.full("reason") != 0
        for name in names:
            column = values[name][block, first:stop] = chunk.full(name)
            missing = np.isnan(column) if name in FLOATS else column == missing_of(name)
            masked = ~keep if name == "reason" else ~keep | refused | (missing & (name != "fits"))
            lost[name][block, first:stop] = masked
    return {name: np.ma.MaskedArray(values[name].reshape(grid.shape), lost[name].reshape(grid.shape)) for name in names}


def _filled(name: str, array: Any) -> Any:
    """Small codes and truths keep their type without a mask."""
    return array.filled(False if name == "fits" else -1) if name in ("fits", "verdict", "reason") else array


def _attributes(name: str) -> dict[str, Any]:
    """The unit of a column, or the meanings of its codes."""
    meanings = {"verdict": VERDICTS, "reason": tuple(name or "none" for name in REASONS)}.get(name)
    if meanings is not None:
        return {"flag_values": list(range(len(meanings))), "flag_meanings": " ".join(meanings)}
    unit = next((unit for part, unit in _UNITS.items() if part in name), None)
    return {} if unit is None else {"units": unit}


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


def comparable(conditions: Sequence[Condition]) -> bool:
    """Whether conditions are plain values: they can be compared, sent to workers, and name what they look at."""
    return all(isinstance(condition, Equal) for condition in conditions)


def needed(sweep: Sweep, more: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns that have to be computed: those that are wanted, some more, and what conditions look at."""
    if not comparable(sweep.conditions):
        return COLUMNS
    asked = {condition.name for condition in sweep.conditions if isinstance(condition, Equal)}
    return tuple(name for name in COLUMNS if name in asked.union(sweep.wanted, more))


def kept(grid: Grid, chunk: Chunk, conditions: Sequence[Condition]) -> Array:
    """Points of a chunk that meet every condition."""
    keep: Any = np.True_
    with np.errstate(invalid="ignore"):
        for condition in conditions:
            keep = keep & np.asarray(condition(Seen(grid, chunk)), dtype=bool)
    return np.broadcast_to(keep, chunk.shape)
