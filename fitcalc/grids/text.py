"""The points of a chunk as lines of text: CSV and JSON Lines.

Lines are made column by column: what all of them share stands in their template, what changes along one axis is put
into words once, and only what differs from point to point is written out for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isinf
from typing import Any

import numpy as np

from fitcalc.grids.chunks import Chunk
from fitcalc.grids.grid import AXES, PLAN_AXES, Grid
from fitcalc.grids.placing import Array
from fitcalc.grids.points import FLOATS, MISSING, VERDICTS

_ASKS_FOR_QUOTES = frozenset(',"\r\n')


def names_of(only: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a file: axes, numbers, the refusal in words."""
    return (*AXES, *(name for name in only if name != "reason"), "refusal")


def head(only: tuple[str, ...], form: str) -> str:
    """What stands before the first row."""
    return ",".join(names_of(only)) + "\n" if form == ".csv" else ""


def lines_of(chunk: Chunk, grid: Grid, only: tuple[str, ...], keep: Array, form: str) -> str:
    """The kept points of a chunk, a line each: what `records` says, in CSV or JSON Lines."""
    told, varying = [], []
    for name, cells in _columns(chunk, grid, only):
        words = _in_words(name, cells, form)
        label = "" if form == ".csv" else json.dumps(name) + ": "
        if words.size == 1:
            told.append(_escaped(f"{label}{words.item()}"))
        else:
            told.append(f"{_escaped(label)}%s")
            varying.append(_spread(words, chunk.shape, keep))
    template = ",".join(told) + "\n" if form == ".csv" else "{" + ", ".join(told) + "}\n"
    if not varying:
        return template % () * int(np.count_nonzero(keep))
    return "".join(map(template.__mod__, zip(*varying, strict=True)))


def _columns(chunk: Chunk, grid: Grid, only: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """The columns of the file in order, each in its smallest form: of length 1 where nothing changes along an axis."""
    _, first, stop = chunk.piece
    yield from ((name, _facts(chunk, name)) for name in PLAN_AXES)
    yield "context", np.array(grid.contexts[first:stop], dtype=np.int64)[:, None]
    yield "concurrency", np.array(grid.concurrencies, dtype=np.int64)[None, :]
    yield from ((name, chunk.columns[name]) for name in only if name != "reason")
    yield "refusal", _facts(chunk, "refusal")


def _facts(chunk: Chunk, name: str) -> Array:
    """What the parts of a chunk say of themselves, along the concurrencies."""
    told = [part.facts[name] or None for part in chunk.parts]
    if len(set(told)) == 1:
        return np.array([[told[0]]], dtype=object)
    row = [fact for fact, part in zip(told, chunk.parts, strict=True) for _ in range(part.first, part.stop)]
    return np.array([row], dtype=object)


def _in_words(name: str, cells: Array, form: str) -> Array:
    """Cells whose str() is what the file says; numbers stay numbers where that is their own."""
    if name in ("verdict", "fits"):
        meanings = (*VERDICTS, None) if name == "verdict" else (False, True)
        return _literals(meanings, form)[cells.astype(np.intp)]
    if cells.dtype == object:
        return _literals(cells.ravel().tolist(), form).reshape(cells.shape)
    odd = ~np.isfinite(cells) if name in FLOATS else cells == MISSING
    if not odd.any():
        return cells
    found = cells.astype(object)
    found[odd] = _literals([value if isinf(value) else None for value in found[odd]], form)
    return found


def _literals(values: Any, form: str) -> Array:
    """Each value as the form writes it."""
    found = np.empty(len(values), dtype=object)
    found[:] = [_quoted(value) if form == ".csv" else json.dumps(value) for value in values]
    return found


def _quoted(value: Any) -> str:
    text = "" if value is None else str(value)
    if _ASKS_FOR_QUOTES.isdisjoint(text):
        return text
    return '"' + text.replace('"', '""') + '"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _spread(words: Array, shape: tuple[int, int], keep: Array) -> list[Any]:
    """One entry for every kept point. Numbers that serve several points are put into words before."""
    if words.size < shape[0] * shape[1] and words.dtype != object:
        told = np.empty(words.size, dtype=object)
        told[:] = list(map(str, words.ravel().tolist()))
        words = told.reshape(words.shape)
    full = np.broadcast_to(words, shape)
    return list((full if keep.all() else full[keep]).ravel().tolist())
