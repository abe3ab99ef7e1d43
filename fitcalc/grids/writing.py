"""A sweep into a file, stretch by stretch: CSV, JSON Lines, Parquet, Arrow.

A file is written under another name and gets its own when it is complete. Text has a journal beside it until then, by
which an interrupted run is resumed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import IO, Any

from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass, replace
from fitcalc.grids import journal
from fitcalc.grids.choosing import Summary
from fitcalc.grids.chunks import Chunk, compute
from fitcalc.grids.grid import pieces
from fitcalc.grids.journal import Done
from fitcalc.grids.placing import Array
from fitcalc.grids.running import Task, in_order
from fitcalc.grids.sweep import Sweep, comparable, kept, needed
from fitcalc.grids.text import head, lines_of

_TEXT_POINTS = 2**13
"""Points of a piece of text, which takes longer to write than to compute: an interruption loses less than one."""
_STRETCH_BYTES = 2**20
"""Text that is gathered before it goes into the file: the pieces of small blocks would fill the journal."""
TEXT_FORMS, TABLE_FORMS = (".csv", ".jsonl"), (".parquet", ".arrow")
_CELL_BYTES = {".csv": 10, ".jsonl": 40}
Step = Callable[[int], None]


def form_of(path: str) -> str:
    """'.csv', '.jsonl', '.parquet' or '.arrow'; raises RequestError for another ending."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in (*TEXT_FORMS, *TABLE_FORMS):
        hint = f"name the file with {', '.join(TEXT_FORMS)}, {' or '.join(TABLE_FORMS)}"
        raise RequestError(f"{path!r} has no ending that says its form", hint=hint)
    return ending


def write(
    sweep: Sweep, path: str, *, resume: bool = False, progress: bool | None = None, summary: Summary | None = None
) -> int:
    """Write all kept points and return the number of rows. Raises RequestError where that cannot be done."""
    form, unfinished = form_of(path), f"{path}.part"
    if resume and form in TABLE_FORMS:
        raise RequestError(f"a {form} file cannot be resumed", hint=f"write {' or '.join(TEXT_FORMS)} to resume")
    try:
        with bar(sweep, progress) as step:
            if form in TABLE_FORMS:
                rows = _write_table(sweep, unfinished, form, step, summary)
            else:
                rows = _write_text(sweep, unfinished, form, step, summary, resume=resume)
        os.replace(unfinished, path)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error
    with suppress(FileNotFoundError):
        os.remove(journal.name_of(unfinished))
    return rows


# --- text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A piece in words: its points, how many of them are rows, and what a summary has to hear of it."""

    points: int
    rows: int
    data: bytes
    told: dict[str, Any]


def text_of(sweep: Sweep, form: str, summary: Summary | None, chunk: Chunk, keep: Array) -> Text:
    """A computed piece in words."""
    lines = lines_of(chunk, sweep.grid, sweep.wanted, keep, form)
    told = {} if summary is None else summary.of(chunk, keep)
    return Text(chunk.size, int(keep.sum()), lines.encode(), told)


def texts_of(sweep: Sweep, form: str, by: str | None, task: Task) -> list[Text]:
    """Several pieces computed and put into words: what a worker is given at once."""
    summary = None if by is None else Summary(sweep.grid, by)
    columns = needed(sweep, () if summary is None else summary.columns)
    chunks = (compute(sweep.grid, piece, columns) for piece in task)
    return [text_of(sweep, form, summary, chunk, kept(sweep.grid, chunk, sweep.conditions)) for chunk in chunks]


def _texts(sweep: Sweep, form: str, summary: Summary | None, done: int) -> Iterator[Text]:
    """The pieces behind the first `done`. Workers put them into words, unless conditions are functions: these stay
    here, and workers only compute."""
    if not comparable(sweep.conditions):
        wider = replace(sweep, wanted=needed(sweep, () if summary is None else summary.columns))
        return (text_of(sweep, form, summary, *found) for found in wider.chunks_from(done))
    work = partial(texts_of, replace(sweep, executor=None), form, None if summary is None else summary.by)
    left = islice(pieces(sweep.grid, sweep.chunk_points), done, None)
    return in_order(work, sweep.grid, left, _CELL_BYTES[form] * len(sweep.wanted), sweep.executor)


def _write_text(
    sweep: Sweep, unfinished: str, form: str, step: Step, summary: Summary | None, *, resume: bool
) -> int:  # fmt: skip
    sweep = replace(sweep, chunk_points=min(sweep.chunk_points, _TEXT_POINTS))
    known = journal.kept_of(sweep, unfinished, summary) if resume else None
    notes = journal.name_of(unfinished)
    with open(unfinished, "r+b" if known else "wb") as file, open(notes, "a" if known else "w") as book:
        if known is None:
            data, empty = head(sweep.wanted, form).encode(), Done()
            known = journal.put(file, book, empty, empty.after(0, 0, data), data, {"sweep": journal.identity(sweep)})
        file.truncate(known.size)
        step(_points_of(sweep, known.pieces))
        done = _put_texts(file, book, known, _texts(sweep, form, summary, known.pieces), step, summary)
        os.fsync(file.fileno())
    return done.rows


def _points_of(sweep: Sweep, count: int) -> int:
    """Points of the first pieces."""
    first_ones = islice(pieces(sweep.grid, sweep.chunk_points), count)
    return sum(stop - first for _, first, stop in first_ones) * sweep.shape[-1]


def _put_texts(
    file: IO[bytes], book: IO[str], done: Done, texts: Iterator[Text], step: Step, summary: Summary | None
) -> Done:
    """Write pieces, gathered to stretches; what is in words already is written, too, when the run is interrupted."""
    waiting: list[tuple[int, Text]] = []
    size = 0
    try:
        for number, text in enumerate(texts, done.pieces):
            waiting.append((number, text))
            size += len(text.data)
            if size >= _STRETCH_BYTES:
                done = _put_stretch(file, book, done, waiting, summary)
                waiting, size = [], 0
            step(text.points)
    finally:
        done = _put_stretch(file, book, done, waiting, summary)
    return done


def _put_stretch(
    file: IO[bytes], book: IO[str], done: Done, waiting: list[tuple[int, Text]], summary: Summary | None
) -> Done:
    """Write those pieces that are not in the file, whenever the last stretch was interrupted."""
    texts = [text for number, text in waiting if number >= done.pieces]
    if not texts:
        return done
    data = b"".join(text.data for text in texts)
    following = done.after(len(texts), sum(text.rows for text in texts), data)
    news = {} if summary is None else {"summary": summary.take(*(text.told for text in texts))}
    return journal.put(file, book, done, following, data, news)


# --- tables -----------------------------------------------------------------------------------------------------------


def _write_table(sweep: Sweep, unfinished: str, form: str, step: Step, summary: Summary | None) -> int:
    from fitcalc.grids import tables

    rows = 0
    try:
        with tables.sink(sweep, unfinished, form) as put:
            for found, points in tables.batches(sweep, summary):
                if found.num_rows:
                    put(found)
                    rows += found.num_rows
                step(points)
    except BaseException:
        # Nobody can go on with a piece of such a file.
        with suppress(FileNotFoundError):
            os.remove(unfinished)
        raise
    return rows


# --- the bar ----------------------------------------------------------------------------------------------------------


@contextmanager
def bar(sweep: Sweep, progress: bool | None = None) -> Iterator[Step]:
    """A function that is told how many points are done; on a terminal it draws a bar."""
    if not (sys.stderr is not None and sys.stderr.isatty() if progress is None else progress):
        yield lambda _points: None
        return
    import click

    drawn: Any = click.progressbar(
        length=sweep.points, label="points", file=sys.stderr, show_eta=True, update_min_steps=sweep.points // 1000
    )
    with drawn as shown:
        yield shown.update
