"""Formulas: numbers in, numbers out, written with operators only, so that ints stay exact and arrays broadcast.

Each carries its own text (`function.text`), which `--explain` shows and a test evaluates against the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Formula(Protocol):
    """A function of keyword numbers with the text of what it computes."""

    text: str

    def __call__(self, **numbers: Any) -> Any:
        """Its value."""


def formula(text: str) -> Callable[[Callable[..., Any]], Any]:
    """Attach the text of a formula: + - * // and parentheses, ceil_div, least, most, round_up, and its parameters."""

    def attach(function: Callable[..., Any]) -> Any:
        function.text = text  # type: ignore[attr-defined]
        return function

    return attach
