"""A sweep as Arrow tables, through pyarrow (extra 'arrow'): record batches that are computed as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.grids.choosing import Summary
from fitcalc.grids.chunks import Chunk, missing_of
from fitcalc.grids.grid import PLAN_AXES
from fitcalc.grids.placing import Array
from fitcalc.grids.points import FLOATS, VERDICTS, type_of
from fitcalc.grids.sweep import Sweep, needed

_BATCH_BYTES = 2**26
"""About what the numbers of a batch take: rows enough for a row group of Parquet, little beside memory."""
_WORDS = ("model", "quant", "engine", "device", "kv_dtype")
Gathered = Sequence[tuple[Chunk, Array | None]]
Words = dict[str, dict[str, int]]
"""Column -> word -> its code. Codes stay from batch to batch; words are added."""


def pyarrow() -> Any:
    """The package, or a RequestError that names the extra."""
    try:
        return import_module("pyarrow")
    except ImportError as error:
        hint = 'pip install "fitcalc[arrow]", or write .csv or .jsonl'
        raise RequestError("Arrow and Parquet need pyarrow", hint=hint) from error


def schema(sweep: Sweep) -> Any:
    """Columns and types of the table: axes, columns, refusal. Words that repeat are codes of a dictionary."""
    pa = pyarrow()
    word = pa.dictionary(pa.int32(), pa.string())
    kinds = dict.fromkeys(PLAN_AXES, word) | {"tensor_parallel": pa.int32()}
    kinds |= {"context": pa.int64(), "concurrency": pa.int64()}
    kinds |= {
        name: word if name == "verdict" else pa.from_numpy_dtype(np.dtype(type_of(name))) for name in _numbers(sweep)
    }
    return pa.schema([*kinds.items(), ("refusal", pa.string())])


def _numbers(sweep: Sweep) -> tuple[str, ...]:
    return tuple(name for name in sweep.wanted if name != "reason")


def reader(sweep: Sweep) -> Any:
    """A pyarrow.RecordBatchReader over the points that are kept."""
    pa = pyarrow()
    found = (batch for batch, _ in batches(sweep, None) if batch.num_rows)
    return pa.RecordBatchReader.from_batches(schema(sweep), found)


@contextmanager
def sink(sweep: Sweep, path: str, form: str) -> Iterator[Callable[[Any], None]]:
    """A function that writes a batch into a file."""
    pa, shape = pyarrow(), schema(sweep)
    if form == ".arrow":
        # Such a file has one dictionary for all batches, and not every reader takes words that come later.
        plain = pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in shape])
        with pa.ipc.new_file(path, plain) as file:
            yield lambda batch: file.write_batch(batch.cast(plain))
        return
    # Whole numbers go up in steps along the axes: their differences take little. Others seldom repeat.
    steps = {
        field.name: "DELTA_BINARY_PACKED"
        for field in shape
        if pa.types.is_integer(field.type) and field.type.bit_width > 8
    }
    others = [field.name for field in shape if field.name not in steps and not pa.types.is_floating(field.type)]
    parquet = import_module("pyarrow.parquet")
    with parquet.ParquetWriter(path, shape, use_dictionary=others, column_encoding=steps) as file:
        yield file.write_batch


def batches(sweep: Sweep, summary: Summary | None) -> Iterator[tuple[Any, int]]:
    """Record batches of many pieces each, and how many points of the grid they cover."""
    shape, words = schema(sweep), _words_of(sweep)
    for gathered in _gathered(sweep, summary, _BATCH_BYTES // (8 * len(shape))):
        yield _batch(shape, gathered, sweep, words), sum(chunk.size for chunk, _ in gathered)


def _words_of(sweep: Sweep) -> Words:
    """The words that axes have: most of those that will come."""
    return {
        name: {word: code for code, word in enumerate(word for word in sweep.axes[name] if word is not None)}
        for name in _WORDS
    }


def _gathered(sweep: Sweep, summary: Summary | None, most: int) -> Iterator[Gathered]:
    """Pieces, as many as have about so many points; None in place of a mask that keeps all."""
    columns = needed(sweep, () if summary is None else summary.columns)
    found: list[tuple[Chunk, Array | None]] = []
    points = 0
    for chunk, keep in replace(sweep, wanted=columns).chunks():
        if summary is not None:
            summary.take(summary.of(chunk, keep))
        found.append((chunk, None if keep.all() else keep))
        points += chunk.size
        if points >= most:
            yield found
            found, points = [], 0
    if found:
        yield found


def _batch(shape: Any, gathered: Gathered, sweep: Sweep, words: Words) -> Any:
    """The kept points of some pieces."""
    pa, grid = pyarrow(), sweep.grid
    contexts = [np.array(grid.contexts[chunk.piece[1] : chunk.piece[2]])[:, None] for chunk, _ in gathered]
    counts = [np.array(grid.concurrencies)[None, :]] * len(gathered)
    degrees = [_along(chunk, [part.facts["tensor_parallel"] or 0 for part in chunk.parts]) for chunk, _ in gathered]
    columns: dict[str, Any] = {name: _coded(pa, gathered, name, words[name]) for name in _WORDS}
    columns["tensor_parallel"] = _array(pa, gathered, degrees, np.int32, [degree == 0 for degree in degrees])
    columns["context"] = _array(pa, gathered, contexts, np.int64)
    columns["concurrency"] = _array(pa, gathered, counts, np.int64)
    columns |= {name: _numbers_of(pa, gathered, name) for name in _numbers(sweep)}
    columns["refusal"] = _coded(pa, gathered, "refusal", {}).dictionary_decode()
    return pa.RecordBatch.from_arrays([columns[field.name] for field in shape], schema=shape)


def _numbers_of(pa: Any, gathered: Gathered, name: str) -> Any:
    arrays = [chunk.columns[name] for chunk, _ in gathered]
    if name == "verdict":
        return pa.DictionaryArray.from_arrays(_array(pa, gathered, arrays, np.int32, [a < 0 for a in arrays]), VERDICTS)
    if name == "fits":
        return _array(pa, gathered, arrays, np.bool_)
    lost = [np.isnan(array) if name in FLOATS else array == missing_of(name) for array in arrays]
    return _array(pa, gathered, arrays, type_of(name), lost)


def _coded(pa: Any, gathered: Gathered, name: str, words: dict[str, int]) -> Any:
    """What the parts of pieces say of themselves, as codes; new words are added."""
    told = [[part.facts[name] or None for part in chunk.parts] for chunk, _ in gathered]
    for word in (word for facts in told for word in facts if word is not None):
        words.setdefault(word, len(words))
    arrays = [
        _along(chunk, [-1 if word is None else words[word] for word in facts])
        for (chunk, _), facts in zip(gathered, told, strict=True)
    ]
    codes = _array(pa, gathered, arrays, np.int32, [array < 0 for array in arrays])
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(words), pa.string()))


def _along(chunk: Chunk, values: list[int]) -> Array:
    """A number for every part, along the concurrencies."""
    if len(set(values)) == 1:
        return np.array([values[:1]])
    return np.repeat(values, [part.stop - part.first for part in chunk.parts])[None, :]


def _array(pa: Any, gathered: Gathered, arrays: list[Array], kind: Any, lost: Sequence[Any] = ()) -> Any:
    """A column over all pieces, of one array for each in its smallest form; null where it is lost."""
    mask = _flat(gathered, lost, np.bool_) if any(array.any() for array in lost) else None
    found = _flat(gathered, arrays, kind)
    if mask is not None and kind is np.int32:
        found[mask] = 0  # some readers look up a code though it is null
    return pa.array(found, mask=mask)


def _flat(gathered: Gathered, arrays: Sequence[Any], kind: Any) -> Array:
    rows = [chunk.size if keep is None else int(np.count_nonzero(keep)) for chunk, keep in gathered]
    found = np.empty(sum(rows), dtype=kind)
    for (chunk, keep), array, (first, stop) in zip(
        gathered, arrays, pairwise(accumulate(rows, initial=0)), strict=True
    ):
        if keep is None:
            found[first:stop].reshape(chunk.shape)[...] = array
        else:
            found[first:stop] = np.broadcast_to(array, chunk.shape)[keep]
    return found
