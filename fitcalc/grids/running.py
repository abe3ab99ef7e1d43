"""Pieces worked on in order: here, or by an executor with a bounded number of tasks under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from fitcalc.grids.chunks import Piece
from fitcalc.grids.grid import Grid

Found = TypeVar("Found")
Task = tuple[Piece, ...]
Work = Callable[[Task], list[Found]]
"""What is done with the pieces of a task: one result for each. An executor's workers get it as a pickle."""

_TASK_BYTES = 2**22
_TASK_PIECES = 32
"""A task ends at so many bytes of results or pieces: large beside what it costs to send, small beside memory."""
_FIRST_UNDER_WAY, _MOST_UNDER_WAY = 16, 256
"""Tasks that are under way at first, and at most: more are added as long as one has to wait for results."""
_MOST_FINISHED = 16
"""Results that may wait to be taken before tasks are added. Together they bound memory, whatever the grid."""


def in_order(
    work: Work[Found], grid: Grid, pieces: Iterable[Piece], point_bytes: int, executor: Executor | None = None
) -> Iterator[Found]:
    """What `work` makes of every piece, in their order.

    point_bytes: about what the result of a point takes. executor: any of concurrent.futures' kind. What it does not
    deliver, whatever befell it, is done here.
    """
    if executor is None:
        for piece in pieces:
            yield from work((piece,))
        return
    tasks = _tasks(grid, pieces, _TASK_BYTES // point_bytes)
    under_way = deque((task, _submitted(executor, work, task)) for task in islice(tasks, _FIRST_UNDER_WAY))
    try:
        while under_way:
            finished = sum(future is None or future.done() for _, future in under_way)
            room = min(2, _MOST_UNDER_WAY - len(under_way)) if finished < _MOST_FINISHED else 0
            task, future = under_way.popleft()
            under_way.extend((added, _submitted(executor, work, added)) for added in islice(tasks, room))
            yield from _result(future, work, task)
    finally:
        for _, future in under_way:  # left when nobody reads on
            if future is not None:
                future.cancel()


def _submitted(executor: Executor, work: Work[Found], task: Task) -> Future[list[Found]] | None:
    try:
        return executor.submit(work, task)
    except Exception:
        return None


def _result(future: Future[list[Found]] | None, work: Work[Found], task: Task) -> list[Found]:
    """What a worker delivers. A task that fails by its own fault fails here once more, and says so."""
    if future is not None:
        with suppress(Exception):
            return future.result()
    return work(task)


def _tasks(grid: Grid, pieces: Iterable[Piece], most_points: int) -> Iterator[Task]:
    """Neighbouring pieces, as many as make a task."""
    taken: list[Piece] = []
    points = 0
    for piece in pieces:
        taken.append(piece)
        points += (piece[2] - piece[1]) * len(grid.concurrencies)
        if points >= most_points or len(taken) >= _TASK_PIECES:
            yield tuple(taken)
            taken, points = [], 0
    if taken:
        yield tuple(taken)
