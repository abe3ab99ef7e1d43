"""A sweep as Arrow tables, through pyarrow (extra 'arrow'): record batches that are computed as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.grids.chunks import Chunk, missing_of, type_of
from fitcalc.grids.points import FLOATS, VERDICTS, Array

if TYPE_CHECKING:
    from fitcalc.grids.sweep import Sweep

_WORDS = ("model", "quant", "engine", "device", "kv_dtype")


def pyarrow() -> Any:
    """The package, or a RequestError that names the extra."""
    try:
        return import_module("pyarrow")
    except ImportError as error:
        hint = 'pip install "fitcalc[arrow]", or write .csv or .jsonl'
        raise RequestError("Arrow and Parquet need pyarrow", hint=hint) from error


def schema(sweep: Sweep) -> Any:
    """Columns and types of the table: axes, columns, refusal."""
    pa = pyarrow()
    word = pa.string()
    fields = [(name, word) for name in ("model", "quant", "engine", "device")]
    fields += [
        ("tensor_parallel", pa.int32()),
        ("kv_dtype", word),
        ("context", pa.int64()),
        ("concurrency", pa.int64()),
    ]
    for name in _numbers(sweep):
        kind = word if name == "verdict" else pa.from_numpy_dtype(np.dtype(type_of(name)))
        fields.append((name, kind))
    return pa.schema([*fields, ("refusal", word)])


def _numbers(sweep: Sweep) -> tuple[str, ...]:
    return tuple(name for name in sweep.wanted if name != "reason")


def reader(sweep: Sweep) -> Any:
    """A pyarrow.RecordBatchReader over the points that are kept."""
    pa = pyarrow()
    shape = schema(sweep)
    return pa.RecordBatchReader.from_batches(shape, batches(sweep, shape))


def batches(sweep: Sweep, shape: Any) -> Iterator[Any]:
    """One record batch for every piece that keeps a point."""
    for chunk, keep in sweep.chunks():
        if keep.any():
            yield batch(sweep, chunk, keep, shape)


def batch(sweep: Sweep, chunk: Chunk, keep: Array, shape: Any) -> Any:
    """The kept points of a chunk."""
    pa = pyarrow()
    every = bool(keep.all())
    flat = (lambda values: np.ascontiguousarray(values).ravel()) if every else (lambda values: values[keep])
    widths = [part.stop - part.first for part in chunk.parts]
    part_of = flat(np.broadcast_to(np.repeat(np.arange(len(widths), dtype=np.int32), widths), chunk.shape))
    _, first, stop = chunk.piece
    contexts = np.array(sweep.grid.contexts[first:stop], dtype=np.int64)[:, None]
    counts = np.array(sweep.grid.concurrencies, dtype=np.int64)[None, :]
    columns: dict[str, Any] = {}
    for name in (*_WORDS, "tensor_parallel", "refusal"):
        told = [part.facts[name] or None for part in chunk.parts]
        kind = pa.int32() if name == "tensor_parallel" else pa.string()
        columns[name] = pa.array(told, kind).take(pa.array(part_of))
    columns["context"] = pa.array(flat(np.broadcast_to(contexts, chunk.shape)))
    columns["concurrency"] = pa.array(flat(np.broadcast_to(counts, chunk.shape)))
    for name in _numbers(sweep):
        columns[name] = _column(pa, name, flat(chunk.full(name)), flat(chunk.full("reason")) != 0)
    return pa.RecordBatch.from_arrays([columns[field.name] for field in shape], schema=shape)


def _column(pa: Any, name: str, values: Array, refused: Array) -> Any:
    if name == "verdict":
        return pa.array(VERDICTS).take(pa.array(values.astype(np.int32), mask=refused))
    lost = np.isnan(values) if name in FLOATS else refused if name == "fits" else values == missing_of(name)
    return pa.array(values, mask=lost)
