"""A piece of a block computed: the columns of some contexts and all concurrencies, in the smallest form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from fitcalc.frozen import dataclass
from fitcalc.grids import points
from fitcalc.grids.grid import Block, Grid
from fitcalc.grids.plans import Refusal, Run, runs_of
from fitcalc.grids.points import (
    COST_COLUMNS,
    FLOATS,
    LIMIT_COLUMNS,
    MEMORY_COLUMNS,
    MISSING,
    SPEED_COLUMNS,
    Array,
    Columns,
)  # fmt: skip
from fitcalc.plan import Request
from fitcalc.verdict import Case

COLUMNS = (*MEMORY_COLUMNS, *LIMIT_COLUMNS, *SPEED_COLUMNS, *COST_COLUMNS, "reason")
"""All columns of numbers, in order."""
_TYPES = {"verdict": np.int8, "fits": np.bool_, "reason": np.int8}
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


def type_of(column: str) -> Any:
    """The numpy type of a column."""
    return np.float64 if column in FLOATS else _TYPES.get(column, np.int64)


def missing_of(column: str) -> Any:
    """What stands where a column has no number."""
    return np.nan if column in FLOATS else {"verdict": -1, "fits": False}.get(column, MISSING)


def compute(grid: Grid, piece: Piece, wanted: tuple[str, ...] = COLUMNS) -> Chunk:
    """The wanted columns of a piece."""
    index, first, stop = piece
    contexts = grid.contexts[first:stop]
    found, parts = [], []
    for run in runs_of(grid, index):
        requests = grid.concurrencies[run.first : run.stop]
        columns, facts = _run_columns(grid, grid.block(index), run, contexts, requests, wanted)
        found.append(_shaped(columns, wanted))
        parts.append(Part(run.first, run.stop, facts))
    shape = (len(contexts), len(grid.concurrencies))
    if len(found) == 1:
        return Chunk(piece, shape, found[0], tuple(parts))
    joined = {name: _joined([columns[name] for columns in found], parts, shape) for name in wanted}
    return Chunk(piece, shape, joined, tuple(parts))


def compute_all(grid: Grid, pieces: tuple[Piece, ...], wanted: tuple[str, ...]) -> list[Chunk]:
    """Several pieces: what a worker is given at once."""
    return [compute(grid, piece, wanted) for piece in pieces]


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
    grid: Grid, block: Block, run: Run, contexts: tuple[int, ...], requests: tuple[int, ...], wanted: tuple[str, ...]
) -> tuple[Columns, dict[str, Any]]:
    case = run.case
    if isinstance(case, Refusal):
        return _refused(case.code), {**block.labels, "refusal": case.text}
    assert run.request is not None
    facts = {
        **block.labels,
        "quant": case.scheme.id,
        "engine": case.profile.id,
        "tensor_parallel": case.workload.tensor_parallel,
        "kv_dtype": case.workload.kv_dtype or next(iter(case.profile.kv_types)),
        "refusal": "",
    }
    kind = _number_type(grid, block.index, run.first)
    if kind is None:
        text = f"contexts up to {max(grid.contexts):,} × {max(requests):,} requests are beyond what 64 bits hold"
        return _refused(4), {**facts, "refusal": text}
    limits = _limits(grid, block.index, run.first, contexts) if set(wanted) & set(LIMIT_COLUMNS) else {}
    column, row = np.array(contexts, dtype=kind)[:, None], np.array(requests, dtype=kind)[None, :]
    return _columns(run.request, case, limits, column, row, wanted), facts


def _refused(code: int) -> Columns:
    return {name: missing_of(name) for name in COLUMNS} | {"reason": code}


def _run_of(grid: Grid, index: int, first: int) -> tuple[Case, tuple[int, ...]]:
    """The plan and the concurrencies of a run."""
    run = next(run for run in runs_of(grid, index) if run.first == first)
    assert isinstance(run.case, Case)
    return run.case, grid.concurrencies[run.first : run.stop]


def _limits(grid: Grid, index: int, first: int, contexts: tuple[int, ...]) -> Columns:
    """LIMIT_COLUMNS of a run: a row along its concurrencies and a column along contexts."""
    case, _ = _run_of(grid, index, first)
    kind, longest = _longest(grid, index, first)
    most = points.most_concurrent(case, contexts, moving=points.moves(case), kind=kind)
    return {"max_context_tokens": longest, "max_concurrency": most}


@lru_cache(maxsize=32)
def _longest(grid: Grid, index: int, first: int) -> tuple[Any, Any]:
    """What limits are sought in, and the largest contexts along a run: the same for all pieces of a block."""
    case, requests = _run_of(grid, index, first)
    kind = points.sought_type(case, grid.contexts, requests)
    return kind, points.longest_contexts(case, requests, moving=points.moves(case), kind=kind)


@lru_cache(maxsize=32)
def _number_type(grid: Grid, index: int, first: int) -> Any:
    """What a run is computed in, by its largest corner; the same for all pieces of a block."""
    case, requests = _run_of(grid, index, first)
    return points.number_type(case, max(grid.contexts), max(requests))


def _columns(
    request: Request, case: Case, limits: Columns, column: Array, row: Array, wanted: tuple[str, ...]
) -> Columns:
    has = set(wanted).__contains__
    moving = points.moves(case)
    found: Columns = {"reason": 0, **limits}
    if any(map(has, MEMORY_COLUMNS)):
        found |= points.memory(case, column, row)
    if any(map(has, (*SPEED_COLUMNS, *COST_COLUMNS))):
        found |= points.speeds(case, column, row)
        found |= points.costs(case, found["total_tokens_per_s"])
    if moving or request.machine.ram_bytes is not None:
        found = _with_single_points(found, request, case, column, row, moving)
    return found


def _with_single_points(
    found: Columns, request: Request, case: Case, column: Array, row: Array, moving: bool
) -> Columns:
    """The columns with those points asked one by one whose plan is another one than arrays take."""
    settled = points.settled_by_arrays(case, column, row) if moving else points.holds(case, column, row)
    apart = np.argwhere(~settled)
    if not len(apart):
        return found
    shape = settled.shape
    full = {
        name: np.broadcast_to(np.asarray(value, dtype=type_of(name)), shape).copy() for name, value in found.items()
    }
    for i, j in apart:
        single = points.one_point(request, case, int(column[i, 0]), int(row[0, j]))
        for name in full.keys() & single.keys():
            full[name][i, j] = np.asarray(single[name]).reshape(())
    return full


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
