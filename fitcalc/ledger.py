"""The result's atom: a named term with its bytes, its interval, and where the number came from.

A ledger is a tuple of terms; totals are sums of terms and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from fitcalc.frozen import dataclass

Basis = Literal["exact", "derived", "estimated", "unknown"]
"""exact: the bytes follow from shapes; derived: from an engine's source or rule; estimated: fitted to
measurements, has an interval; unknown: only the bound `high_bytes` is known."""

TERM_NAMES = (
    "weights",
    "kv_cache",
    "state",
    "activations",
    "compute_buffer",
    "cuda_context",
    "cuda_graphs",
    "runtime",
    "reserve",
    "vision",
    "lora",
    "draft_model",
    "adapters",
    "weight_copies",
    "optimizer",
    "master_weights",
    "gradients",
    "logits",
    "gathered",
    "whole_copy",
    "dequantized",
    "weight_norm",
    "allocator",
    "communication",
    "desktop",
)
"""Stable names of terms, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Input:
    """One number put into a formula: its symbol, value, and source (profile file, header, option, measurement)."""

    name: str
    value: Any
    source: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """Bytes that one thing takes on one device. `low_bytes <= bytes <= high_bytes`; equal when exact or derived.

    In a sweep the three are int64 arrays of the grid's shape instead of ints.
    """

    name: str
    bytes: int
    low_bytes: int
    high_bytes: int
    basis: Basis
    formula: str = ""
    inputs: tuple[Input, ...] = ()
    note: str = ""


def fixed(
    name: str,
    size_bytes: Any,
    basis: Basis,
    formula: str = "",
    inputs: tuple[Input, ...] = (),
    note: str = "",
) -> Term:
    """A term without a spread: exact or derived."""
    return Term(name, size_bytes, size_bytes, size_bytes, basis, formula, inputs, note)


def computed(
    name: str,
    function: Callable[..., Any],
    basis: Basis,
    *,
    sources: dict[str, str] | None = None,
    note: str = "",
    **inputs: Any,
) -> Term:
    """A term that is one formula of `fitcalc.formulas`: its text and inputs are kept beside its value."""
    where = sources or {}
    listed = tuple(Input(key, value, where.get(key, "")) for key, value in inputs.items())
    return fixed(name, function(**inputs), basis, function.text, listed, note)  # type: ignore[attr-defined]


def total_bytes(terms: Iterable[Term]) -> Any:
    """Sum of the estimates."""
    return sum(term.bytes for term in terms)


def low_bytes(terms: Iterable[Term]) -> Any:
    """Sum of the low ends."""
    return sum(term.low_bytes for term in terms)


def high_bytes(terms: Iterable[Term]) -> Any:
    """Sum of the high ends."""
    return sum(term.high_bytes for term in terms)
