"""Plans whose layers lie elsewhere from point to point: on other cards, or in RAM.

The engine's own rule of placing asks about the point that it is at. Here it is led through many points at once: it goes
on with those that answer as the first one does, and is led again for each other answer. What comes out are plans that
hold for arrays of points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitcalc.engines.base import Ask
from fitcalc.frozen import replace
from fitcalc.same import Same
from fitcalc.speeds.figures import is_fixed
from fitcalc.verdict import Case

Array = NDArray[Any]
Columns = dict[str, Any]


def moves(case: Case) -> bool:
    """The plan is another one at other points."""
    return hasattr(case.engine, "placed") and not is_fixed(case)


_MOST_KINDS = 2**62


def led(rule: Callable[[Ask], Any], contexts: Array, requests: Array) -> Iterator[tuple[Any, Array]]:
    """(what the rule comes to, the places of the points where it does) for points given as two columns."""
    waiting: list[tuple[Array, tuple[Any, ...]]] = [(np.arange(len(contexts)), ())] if len(contexts) else []
    while waiting:
        members, answers = waiting.pop()
        asked = 0

        def ask(question: Callable[[Any, Any], Any]) -> Any:
            nonlocal members, answers, asked
            if asked == len(answers):
                first, *others = _parted(question(*_here(contexts, requests, members)), len(members))
                waiting.extend((members[places], (*answers, answer)) for answer, places in others)
                members, answers = members[first[1]], (*answers, first[0])
            asked += 1
            return answers[asked - 1]

        found = rule(ask)
        yield found, members


def _here(contexts: Array, requests: Array, members: Array) -> tuple[Any, Any]:
    """The points; a single one as plain numbers, which are quicker than arrays."""
    here = contexts[members], requests[members]
    return here if len(members) > 1 else (here[0].item(), here[1].item())


def _parted(given: Any, count: int) -> list[tuple[Any, Any]]:
    """The distinct answers, each with the places that give it."""
    if count == 1 and not hasattr(given, "shape"):
        return [(given, np.zeros(1, dtype=np.int64))]
    several = isinstance(given, tuple)
    parts = [_column(part, count) for part in (given if several else (given,))]
    key = _key(parts)
    places = (np.flatnonzero(key == kind) for kind in np.unique(key).tolist())
    told = ((tuple(part[members[0]].item() for part in parts), members) for members in places)
    return [(answer if several else answer[0], members) for answer, members in told]


def _key(parts: Sequence[Array]) -> Array:
    """One number for every combination of answers."""
    key, kinds = np.zeros(1, dtype=np.int64), 1
    for part in parts:
        low, high = int(part.min()), int(part.max())
        if low == high:
            continue
        kinds *= high - low + 1
        if kinds > _MOST_KINDS:
            return np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
        key = key * (high - low + 1) + (part - low)
    return np.broadcast_to(key, len(parts[0])) if kinds == 1 else key


def _column(answer: Any, count: int) -> Array:
    return np.broadcast_to(np.asarray(answer, dtype=np.int64).reshape(-1), count)


def everywhere(
    case: Case, contexts: Array, requests: Array, evaluate: Callable[[Case, Array, Array], Columns]
) -> Columns:
    """Columns of a plan at a column of contexts and a row of requests, or at points in columns of both.

    evaluate: a plan that holds at all the points it is given, contexts and requests -> columns.
    """
    if not moves(case):
        return evaluate(case, contexts, requests)
    settled = _settled(Same(case), Same(contexts), Same(requests))
    if len(settled) == 1:
        return evaluate(settled[0][0], contexts, requests)
    column, row = points_of(contexts, requests)
    shape = np.broadcast_shapes(contexts.shape, requests.shape)
    found = [(evaluate(plan, column[members], row[members]), members) for plan, members in settled]
    full: Columns = {}
    for columns, members in found:
        alike = {name: value for name, value in columns.items() if _is_one([part[name] for part, _ in found])}
        scatter({name: columns[name] for name in columns.keys() - alike.keys()}, full, members, len(column))
    return {name: values.reshape(shape) for name, values in full.items()} | alike


def _is_one(values: Sequence[Any]) -> bool:
    """All plans have the same single number."""
    first = values[0]
    return all(np.size(value) == 1 and (value is first or bool(value == first)) for value in values)


def points_of(contexts: Array, requests: Array) -> tuple[Array, Array]:
    """Every point of two arrays that broadcast, in columns."""
    shape = np.broadcast_shapes(contexts.shape, requests.shape)
    return np.broadcast_to(contexts, shape).reshape(-1, 1), np.broadcast_to(requests, shape).reshape(-1, 1)


def scatter(columns: Columns, full: Columns, members: Array, count: int) -> None:
    """Put the columns of some points to their places among `count`."""
    for name, value in columns.items():
        values = np.asarray(value)
        if name not in full:
            full[name] = np.empty(count, dtype=values.dtype)
        full[name][members] = values.reshape(-1)


@lru_cache(maxsize=8)
def _settled(case_: Same[Case], contexts: Same[Array], requests: Same[Array]) -> list[tuple[Case, Array]]:
    """The plans of all points, each once: several ways of asking may lead to one."""
    case, found = case_.value, dict[Any, tuple[Case, list[Array]]]()
    engine: Any = case.engine
    for plan, members in led(lambda ask: engine.placed(case.prepared, ask), *points_of(contexts.value, requests.value)):
        inner = getattr(plan, "every_card", plan)
        found.setdefault((inner.rules, inner.settings), (replace(case, prepared=plan), []))[1].append(members)
    return [(plan, np.concatenate(parts)) for plan, parts in found.values()]
