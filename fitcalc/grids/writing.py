"""A sweep into a file, piece by piece: CSV, JSON Lines, Parquet, Arrow.

A file is written under another name and gets its own when it is complete. Beside an unfinished CSV or JSON Lines file
stands a journal: after every piece how long the file is, its checksum, and what the summary learned. A resumed run
keeps what the journal and the checksum agree on.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass, replace
from fitcalc.grids.choosing import Summary
from fitcalc.grids.chunks import Chunk, records
from fitcalc.grids.grid import AXES, pieces
from fitcalc.grids.points import Array

if TYPE_CHECKING:
    from fitcalc.grids.sweep import Sweep

_READ_BYTES = 2**20
_TEXT_POINTS = 2**13
"""Points of a piece of text, which takes longer to write than to compute: an interruption loses less than one."""
TEXT_FORMS, TABLE_FORMS = (".csv", ".jsonl"), (".parquet", ".arrow")


def form_of(path: str) -> str:
    """'.csv', '.jsonl', '.parquet' or '.arrow'; raises RequestError for another ending."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in (*TEXT_FORMS, *TABLE_FORMS):
        hint = f"name the file with {', '.join(TEXT_FORMS)}, {' or '.join(TABLE_FORMS)}"
        raise RequestError(f"{path!r} has no ending that says its form", hint=hint)
    return ending


def write(
    sweep: Sweep,
    path: str,
    *,
    resume: bool = False,
    progress: bool | None = None,
    summary: Summary | None = None,
    only: tuple[str, ...] | None = None,
) -> int:
    """Write all kept points and return the number of rows. Raises RequestError where that cannot be done.

    only: the columns that are written, where the summary needs more than these.
    """
    only = only or sweep.wanted
    if form_of(path) in TEXT_FORMS:
        sweep = replace(sweep, chunk_points=min(sweep.chunk_points, _TEXT_POINTS))
    form, unfinished = form_of(path), f"{path}.part"
    if resume and form in TABLE_FORMS:
        raise RequestError(f"a {form} file cannot be resumed", hint=f"write {' or '.join(TEXT_FORMS)} to resume")
    try:
        with _bar(sweep, progress) as step:
            if form in TABLE_FORMS:
                rows = _write_table(sweep, unfinished, form, step, summary, only)
            else:
                rows = _write_text(sweep, unfinished, form, step, summary, only, resume=resume)
        os.replace(unfinished, path)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror or error}") from error
    with suppress(FileNotFoundError):
        os.remove(_journal_of(unfinished))
    return rows


def _journal_of(unfinished: str) -> str:
    return f"{unfinished}.journal"


# --- text -------------------------------------------------------------------------------------------------------------


def names_of(only: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a file: axes, numbers, the refusal in words."""
    return (*AXES, *(name for name in only if name != "reason"), "refusal")


def head(only: tuple[str, ...], form: str) -> str:
    """What stands before the first row."""
    return ",".join(names_of(only)) + "\n" if form == ".csv" else ""


def text_of(sweep: Sweep, chunk: Chunk, keep: Array, form: str, only: tuple[str, ...]) -> tuple[str, int]:
    """The rows of a chunk as text, and their number."""
    found, count = io.StringIO(), 0
    writer = csv.writer(found, lineterminator="\n")
    for record in records(chunk, sweep.grid, only, keep):
        count += 1
        if form == ".csv":
            writer.writerow(record.values())
        else:
            found.write(json.dumps(record) + "\n")
    return found.getvalue(), count


@dataclass(frozen=True, slots=True)
class _Done:
    """How far an interrupted run came: pieces, rows and bytes that are certain, and their checksum."""

    pieces: int = 0
    rows: int = 0
    bytes: int = 0
    crc: int = 0


def _write_text(
    sweep: Sweep, unfinished: str, form: str, step: Callable[[int], None], summary: Summary | None,
    only: tuple[str, ...], *, resume: bool,
) -> int:  # fmt: skip
    journal_path = _journal_of(unfinished)
    done = _kept_of(sweep, only, unfinished, summary) if resume else None
    with open(unfinished, "r+b" if done else "wb") as file, open(journal_path, "a" if done else "w") as journal:
        if done is None:
            start = head(only, form).encode()
            file.write(start)
            file.flush()
            done = _Done(0, 0, len(start), zlib.crc32(start))
            _note(journal, {"sweep": _identity(sweep, only), **_state(done)})
        else:
            file.truncate(done.bytes)
            file.seek(done.bytes)
            step(sum(_size(sweep, piece) for piece in list_first(sweep, done.pieces)))
        for chunk, keep in sweep.chunks_from(done.pieces):
            text, count = text_of(sweep, chunk, keep, form, only)
            data = text.encode()
            file.write(data)
            file.flush()
            done = _Done(done.pieces + 1, done.rows + count, done.bytes + len(data), zlib.crc32(data, done.crc))
            learned = {} if summary is None else {"summary": summary.add(chunk, keep)}
            _note(journal, {**_state(done), **learned})
            step(chunk.size)
        os.fsync(file.fileno())
    return done.rows


def list_first(sweep: Sweep, count: int) -> Iterator[tuple[int, int, int]]:
    """The first pieces of a sweep."""
    for number, piece in enumerate(pieces(sweep.grid, sweep.chunk_points)):
        if number >= count:
            return
        yield piece


def _size(sweep: Sweep, piece: tuple[int, int, int]) -> int:
    return (piece[2] - piece[1]) * len(sweep.grid.concurrencies)


def _identity(sweep: Sweep, only: tuple[str, ...]) -> str:
    """Equal for sweeps whose files are equal."""
    told = repr((only, sweep.conditions, sweep.chunk_points))
    return f"{sweep.grid.fingerprint} {zlib.crc32(told.encode()):08x}"


def _state(done: _Done) -> dict[str, int]:
    return {"pieces": done.pieces, "rows": done.rows, "bytes": done.bytes, "crc": done.crc}


def _note(journal: Any, entry: dict[str, Any]) -> None:
    journal.write(json.dumps(entry) + "\n")
    journal.flush()


def _kept_of(sweep: Sweep, only: tuple[str, ...], unfinished: str, summary: Summary | None) -> _Done | None:
    """What an interrupted run left that is certain; None where there is nothing.

    Raises RequestError for the file of another sweep.
    """
    entries = _journal(_journal_of(unfinished))
    if not entries or not os.path.exists(unfinished):
        return None
    if entries[0].get("sweep") != _identity(sweep, only):
        hint = "leave --resume out to start again, or give the same grid and version"
        raise RequestError(f"{unfinished} is of another sweep", hint=hint)
    with open(unfinished, "rb") as file:
        whole = _agreed(file, entries)
    if not whole:
        return None
    for entry in entries[:whole]:
        if summary is not None and "summary" in entry:
            summary.take(entry["summary"])
    last = entries[whole - 1]
    # Lines behind the last one that holds are written again.
    with open(_journal_of(unfinished), "w") as journal:
        journal.writelines(json.dumps(entry) + "\n" for entry in entries[:whole])
    return _Done(last["pieces"], last["rows"], last["bytes"], last["crc"])


def _journal(path: str) -> list[dict[str, Any]]:
    """Its lines, up to one that was torn."""
    entries: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as journal:
            for line in journal:
                entry = json.loads(line)
                if not line.endswith("\n") or not {"pieces", "rows", "bytes", "crc"} <= entry.keys():
                    break
                entries.append(entry)
    except (FileNotFoundError, json.JSONDecodeError, AttributeError):
        return entries
    return entries


def _agreed(file: BinaryIO, entries: list[dict[str, Any]]) -> int:
    """Entries of the journal, from the first, whose bytes are in the file as they were written."""
    crc = at = 0
    for number, entry in enumerate(entries):
        while at < entry["bytes"]:
            data = file.read(min(_READ_BYTES, entry["bytes"] - at))
            if not data:
                return number
            crc, at = zlib.crc32(data, crc), at + len(data)
        if crc != entry["crc"]:
            return number
    return len(entries)


# --- tables -----------------------------------------------------------------------------------------------------------


def _write_table(
    sweep: Sweep,
    unfinished: str,
    form: str,
    step: Callable[[int], None],
    summary: Summary | None,
    only: tuple[str, ...],
) -> int:
    from fitcalc.grids import tables

    shown = replace(sweep, wanted=only)
    pa, shape, rows = tables.pyarrow(), tables.schema(shown), 0
    if form == ".parquet":
        parquet = import_module("pyarrow.parquet")
        sink: Any = parquet.ParquetWriter(unfinished, shape)
    else:
        sink = pa.ipc.new_file(unfinished, shape)
    with sink:
        for chunk, keep in sweep.chunks():
            if keep.any():
                found = tables.batch(shown, chunk, keep, shape)
                rows += found.num_rows
                sink.write_batch(found)
            if summary is not None:
                summary.add(chunk, keep)
            step(chunk.size)
    return rows


# --- the bar ----------------------------------------------------------------------------------------------------------


@contextmanager
def _bar(sweep: Sweep, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """A function that is told how many points are done; on a terminal it draws a bar."""
    if not (sys.stderr is not None and sys.stderr.isatty() if progress is None else progress):
        yield lambda _points: None
        return
    import click

    drawn: Any = click.progressbar(length=sweep.points, label="points", file=sys.stderr, show_eta=True)
    with drawn as bar:
        yield bar.update
