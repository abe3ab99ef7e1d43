"""Whole numbers that remember how large they and all that is computed from them became.

Arrays of 64 bits wrap without a word. The largest corner of a grid is computed once in Python's own integers, and every
number on the way, not only the result, has to stay within bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LARGEST = 2**61
"""Two bits below what 64 hold, for what is added up over terms and devices."""


class Watched(int):
    """A whole number that is followed: `seen` holds the largest magnitude among its descendants."""

    seen: list[int]


def watched(number: int, seen: list[int]) -> Watched:
    """A number whose descendants leave the largest magnitude among them in seen[0]."""
    found = Watched(number)
    found.seen = seen
    return found


def _following(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def operate(self: Watched, *others: Any) -> Any:
        found, seen = plain(self, *others), self.seen
        if type(found) is not int:
            return found
        if not -seen[0] <= found <= seen[0]:
            seen[0] = abs(found)
        return watched(found, seen)

    return operate


for _operator in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(Watched, f"__{_operator}__", _following(f"__{_operator}__"))
    setattr(Watched, f"__r{_operator}__", _following(f"__r{_operator}__"))
Watched.__neg__ = _following("__neg__")  # type: ignore[method-assign]


def stays_within(evaluate: Callable[[int, int], Any], first: int, second: int) -> bool:
    """Whether all that `evaluate` computes from two numbers has room in 64 bits."""
    seen = [max(first, second)]
    evaluate(watched(first, seen), watched(second, seen))
    return seen[0] < LARGEST
