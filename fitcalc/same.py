"""Same: a large value as a key of a bounded cache, so that what follows from it is computed once.

Hashing a model of hundreds of tensors would cost more than what is saved; the very same object is the same in any case.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Same(Generic[T]):
    """Equal where it holds the very same object, whatever that object's own equality says."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value
