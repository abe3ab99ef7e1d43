"""A piece of a block computed: the columns of some contexts and all concurrencies, in the smallest form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from fitcalc.frozen import dataclass
from fitcalc.grids import points
from fitcalc.grids.grid import Block, Grid
from fitcalc.grids.moving import with_moved
from fitcalc.grids.placing import Array, Columns
from fitcalc.grids.plans import Refusal, Run, runs_of
from fitcalc.grids.points import (
    COST_COLUMNS,
    FLOATS,
    LIMIT_COLUMNS,
    MEMORY_COLUMNS,
    MISSING,
    SPEED_COLUMNS,
    type_of,
)  # fmt: skip
from fitcalc.grids.settled import Settled, limits_along, settled
from fitcalc.same import Same

COLUMNS = (*MEMORY_COLUMNS, *LIMIT_COLUMNS, *SPEED_COLUMNS, *COST_COLUMNS, "reason")
"""All columns of numbers, in order."""
Piece = tuple[int, int, int]
"""(block, first context, stop)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring concurrencies of a piece that have one plan or none: its facts in words, or the refusal's."""

    first: int
    stop: int
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A computed piece. Columns have the shape (contexts, concurrencies), or 1 where nothing changes along one."""

    piece: Piece
    shape: tuple[int, int]
    columns: dict[str, Array]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Points."""
        return self.shape[0] * self.shape[1]

    def full(self, name: str) -> Array:
        """A column in the shape of the piece, without a copy."""
        return np.broadcast_to(self.columns[name], self.shape)


def missing_of(column: str) -> Any:
    """What stands where a column has no number."""
    return np.nan if column in FLOATS else {"verdict": -1, "fits": False}.get(column, MISSING)


def compute(grid: Grid, piece: Piece, wanted: tuple[str, ...] = COLUMNS) -> Chunk:
    """The wanted columns of a piece."""
    index, first, stop = piece
    block = grid.block(index)
    found, parts = [], []
    for run in runs_of(Same(grid), index):
        columns, facts = _run_columns(grid, block, run, slice(first, stop), wanted)
        found.append(_shaped(columns, wanted))
        parts.append(Part(run.first, run.stop, facts))
    shape = (stop - first, len(grid.concurrencies))
    if len(found) == 1:
        return Chunk(piece, shape, found[0], tuple(parts))
    joined = {name: _joined([columns[name] for columns in found], parts, shape) for name in wanted}
    return Chunk(piece, shape, joined, tuple(parts))


def compute_all(grid: Grid, pieces: tuple[Piece, ...], wanted: tuple[str, ...]) -> list[Chunk]:
    """Several pieces: what a worker is given at once. An equal grid that came before is taken, with its plans."""
    grid = _first_equal(grid)
    return [compute(grid, piece, wanted) for piece in pieces]


@lru_cache(maxsize=4)
def _first_equal(grid: Grid) -> Grid:
    return grid


def _joined(columns: list[Array], parts: list[Part], shape: tuple[int, int]) -> Array:
    widths = [part.stop - part.first for part in parts]
    wide = [np.broadcast_to(array, (shape[0], width)) for array, width in zip(columns, widths, strict=True)]
    return np.concatenate(wide, axis=1)


def _shaped(columns: Columns, wanted: tuple[str, ...]) -> dict[str, Array]:
    """Every column as an array of two dimensions and its own type."""
    return {name: np.asarray(columns[name], dtype=type_of(name)).reshape(_two(columns[name])) for name in wanted}


def _two(value: Any) -> tuple[int, int]:
    shape = np.shape(value)
    return (1, 1) if not shape else (shape[0], shape[1])


def _run_columns(
    grid: Grid, block: Block, run: Run, piece: slice, wanted: tuple[str, ...]
) -> tuple[Columns, dict[str, Any]]:
    case = run.case
    if isinstance(case, Refusal):
        return _refused(case.code), {**block.labels, "refusal": case.text}
    facts = {
        **block.labels,
        "quant": case.scheme.id,
        "engine": case.profile.id,
        "tensor_parallel": case.workload.tensor_parallel,
        "kv_dtype": case.workload.kv_dtype or next(iter(case.profile.kv_types)),
        "refusal": "",
    }
    plan = settled(Same(run), Same(grid.contexts))
    if plan.kind is not None:
        return _columns(plan, piece, set(wanted)), facts
    most = f"contexts up to {max(plan.contexts):,} × {max(plan.requests):,} requests"
    return _refused(4), {**facts, "refusal": f"{most} are beyond what 64 bits hold"}


def _refused(code: int) -> Columns:
    return {name: missing_of(name) for name in COLUMNS} | {"reason": code}


def _columns(plan: Settled, piece: slice, wanted: set[str]) -> Columns:
    column = np.array(plan.contexts[piece], dtype=plan.kind)[:, None]
    row = np.array(plan.requests, dtype=plan.kind)[None, :]
    found: Columns = {"reason": 0}
    if not wanted.isdisjoint((*MEMORY_COLUMNS, *LIMIT_COLUMNS)) or plan.moved is not None:
        found |= points.memory(plan.case, column, row)
    if not wanted.isdisjoint(LIMIT_COLUMNS):
        longest, most = limits_along(Same(plan))
        found |= points.limit_columns(plan.case, found["headroom_bytes"], longest, most[piece])
    if not wanted.isdisjoint((*SPEED_COLUMNS, *COST_COLUMNS)):
        found |= points.speeds(plan.case, column, row)
        found |= points.costs(plan.case, found["total_tokens_per_s"])
    return found if plan.moved is None else with_moved(found, plan.moved, column, row)


def records(chunk: Chunk, grid: Grid, wanted: tuple[str, ...], keep: Array | None = None) -> Iterator[dict[str, Any]]:
    """The points of a chunk as plain dictionaries; None where a column has no number."""
    columns = {name: _plain(chunk.full(name), name) for name in wanted if name != "reason"}
    first = chunk.piece[1]
    for i in range(chunk.shape[0]):
        for part in chunk.parts:
            for j in range(part.first, part.stop):
                if keep is None or keep[i, j]:
                    at = {"context": grid.contexts[first + i], "concurrency": grid.concurrencies[j]}
                    numbers = {name: values[i][j] for name, values in columns.items()}
                    yield {**_facts(part.facts, at), **numbers, "refusal": part.facts["refusal"] or None}


def _facts(facts: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in facts.items() if name != "refusal"}, **at}


def _plain(values: Array, name: str) -> list[list[Any]]:
    """Python's own numbers, None for what is missing, verdicts by name."""
    if name == "verdict":
        return [[points.VERDICTS[code] if code >= 0 else None for code in line] for line in values.tolist()]
    lost = np.isnan(values) if name in FLOATS else values == missing_of(name) if name != "fits" else None
    if lost is None or not lost.any():
        return values.tolist()  # type: ignore[no-any-return]
    found = values.astype(object)
    found[lost] = None
    return found.tolist()  # type: ignore[no-any-return]
