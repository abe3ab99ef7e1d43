"""Pieces computed in order: here, or by an executor with a bounded number of tasks under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from itertools import islice

from fitcalc.grids.chunks import Chunk, Piece, compute, compute_all
from fitcalc.grids.grid import Grid

_TASK_POINTS = 2**18
_TASK_PIECES = 32
"""A task ends at so many points or pieces: large beside what it costs to send it, small beside memory."""
_UNDER_WAY = 16
"""Tasks that are computed or wait for being taken; bounds memory whatever the grid."""


def computed(
    grid: Grid, pieces: Iterable[Piece], wanted: tuple[str, ...], executor: Executor | None = None
) -> Iterator[Chunk]:
    """The chunks of pieces, in their order.

    executor: any of concurrent.futures' kind. What a broken one has not delivered is computed here.
    """
    if executor is None:
        yield from (compute(grid, piece, wanted) for piece in pieces)
        return
    tasks, under_way = _tasks(grid, pieces), deque[tuple[tuple[Piece, ...], Future[list[Chunk]] | None]]()
    for task in islice(tasks, _UNDER_WAY):
        under_way.append((task, _submitted(executor, grid, task, wanted)))
    while under_way:
        task, future = under_way.popleft()
        chunks = _result(future, grid, task, wanted)
        for following in islice(tasks, 1):
            under_way.append((following, _submitted(executor, grid, following, wanted)))
        yield from chunks


def _submitted(
    executor: Executor, grid: Grid, task: tuple[Piece, ...], wanted: tuple[str, ...]
) -> Future[list[Chunk]] | None:
    try:
        return executor.submit(compute_all, grid, task, wanted)
    except BrokenExecutor:
        return None


def _result(
    future: Future[list[Chunk]] | None, grid: Grid, task: tuple[Piece, ...], wanted: tuple[str, ...]
) -> list[Chunk]:
    if future is None:
        return compute_all(grid, task, wanted)
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        return compute_all(grid, task, wanted)


def _tasks(grid: Grid, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, ...]]:
    """Neighbouring pieces, as many as make a task."""
    taken: list[Piece] = []
    points = 0
    for piece in pieces:
        taken.append(piece)
        points += (piece[2] - piece[1]) * len(grid.concurrencies)
        if points >= _TASK_POINTS or len(taken) >= _TASK_PIECES:
            yield tuple(taken)
            taken, points = [], 0
    if taken:
        yield tuple(taken)
