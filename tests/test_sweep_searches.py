"""What a sweep does for many points at once ends for each of them as it would alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from fitcalc import verdict as judge
from fitcalc.engines.base import at
from fitcalc.grids.limits import crossing, largest
from fitcalc.grids.placing import led


@given(
    table=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=8, max_size=8),
    points=st.lists(st.integers(0, 7), min_size=1, max_size=12),
)
def test_many_points_are_led_to_where_each_is_led(table: list[tuple[int, bool]], points: list[int]) -> None:
    """A rule of several questions, whose later ones depend on the answers before."""
    numbers, truths = (np.array(column) for column in zip(*table, strict=True))

    def rule(ask: Any) -> tuple[Any, ...]:
        number = ask(lambda place, _: numbers[place])
        if number == 0:
            return (0,)
        pair = ask(lambda place, other: ((numbers[place] + number) % 2, truths[place] & (other > number)))
        return number, *pair, ask(lambda place, _: place // 3) if pair[0] else None

    column = np.array(points)[:, None]
    found = dict[int, Any]()
    for answer, members in led(rule, column, column):
        found |= dict.fromkeys(members.tolist(), answer)
    alone = [rule(at(place, place)) for place in points]
    assert [found[place] for place in range(len(points))] == alone


@given(
    ceilings=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    steps=st.lists(st.tuples(st.integers(0, 5000), st.integers(-2000, 2000)), max_size=4),
    slope=st.integers(0, 9),
    start=st.integers(-20_000, 2000),
    scale=st.sampled_from([1, 2**18]),
)
@example([3562], [(3158, 986), (198, -1523)], 6, -105, 2**18)
def test_limits_are_sought_together_as_each_alone(
    ceilings: list[int], steps: list[tuple[int, int]], slope: int, start: int, scale: int
) -> None:
    """By the same questions, so that even numbers that shrink in places give the same; contexts of millions on machines
    of terabytes as well, whose product 64 bits do not hold.
    """

    def excess(count: Any) -> Any:
        grown = start + slope * (count // scale) + sum(height * (count > place * scale) for place, height in steps)
        return grown * scale**2

    sought = np.array(ceilings) * scale
    ceilings = sought.tolist()
    assert crossing(lambda _, tried: excess(tried), sought).tolist() == [judge.crossing(excess, c) for c in ceilings]
    halved = [judge.largest(lambda count: bool(excess(count) <= 0), c) for c in ceilings]
    assert largest(lambda tried: excess(tried) <= 0, sought).tolist() == halved
