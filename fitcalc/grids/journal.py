"""The journal beside an unfinished file: after every stretch how long the file is, its checksum, and what was learned.

A resumed run keeps what the journal and the file agree on, from the first byte to the last stretch that holds.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from typing import IO, Any

from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass
from fitcalc.grids.choosing import Summary
from fitcalc.grids.sweep import Sweep, comparable

_READ_BYTES = 2**20
_NUMBERS = ("pieces", "rows", "size", "crc")


@dataclass(frozen=True, slots=True)
class Done:
    """How far a file has come: pieces, rows and bytes that are certain, and their checksum."""

    pieces: int = 0
    rows: int = 0
    size: int = 0
    crc: int = 0

    def after(self, pieces: int, rows: int, data: bytes) -> Done:
        """With so much more."""
        return Done(self.pieces + pieces, self.rows + rows, self.size + len(data), zlib.crc32(data, self.crc))


def name_of(unfinished: str) -> str:
    """The journal of a file."""
    return f"{unfinished}.journal"


def put(file: IO[bytes], journal: IO[str], done: Done, following: Done, data: bytes, entry: dict[str, Any]) -> Done:
    """Write a stretch behind what is done, then say so in the journal; return how far the file has come."""
    file.seek(done.size)
    file.write(data)
    file.flush()
    journal.write(json.dumps({name: getattr(following, name) for name in _NUMBERS} | entry) + "\n")
    journal.flush()
    return following


def identity(sweep: Sweep) -> str:
    """Equal for sweeps whose files are equal."""
    told = repr((sweep.wanted, sweep.conditions, sweep.chunk_points))
    return f"{sweep.grid.fingerprint} {zlib.crc32(told.encode()):08x}"


def kept_of(sweep: Sweep, unfinished: str, summary: Summary | None) -> Done | None:
    """What an interrupted run left that is certain; None where there is nothing. The journal is cut to it.

    Raises RequestError for the file of another sweep.
    """
    done, end = None, 0
    try:
        with open(unfinished, "rb") as file, open(name_of(unfinished), "rb") as journal:
            for entry, stop in _entries(journal):
                if done is None:
                    _check(sweep, unfinished, entry)
                following = Done(*(entry[name] for name in _NUMBERS))
                if not _agrees(file, done or Done(), following):
                    break
                # An interruption may have left the same line twice.
                if summary is not None and "summary" in entry and done is not None and following.pieces > done.pieces:
                    summary.take(entry["summary"])
                done, end = following, stop
    except FileNotFoundError:
        return None
    if done is not None:
        os.truncate(name_of(unfinished), end)
    return done


def _check(sweep: Sweep, unfinished: str, entry: dict[str, Any]) -> None:
    """Raise RequestError unless the file is of this sweep."""
    if not comparable(sweep.conditions):
        hint = "give conditions as values, where(fits=True), or start again without resume"
        raise RequestError(f"{unfinished} has conditions that are functions, which cannot be compared", hint=hint)
    if entry.get("sweep") != identity(sweep):
        hint = "leave --resume out to start again, or give the same grid and version"
        raise RequestError(f"{unfinished} is of another sweep", hint=hint)


def _entries(journal: IO[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    """Its lines and where each ends, up to one that was torn."""
    end = 0
    for line in journal:
        end += len(line)
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(entry, dict) or not set(_NUMBERS) <= entry.keys():
            return
        yield entry, end


def _agrees(file: IO[bytes], done: Done, following: Done) -> bool:
    """Whether the file holds the bytes of a stretch as they were written; it is read on from `done`."""
    crc, at = done.crc, done.size
    while at < following.size:
        data = file.read(min(_READ_BYTES, following.size - at))
        if not data:
            return False
        crc, at = zlib.crc32(data, crc), at + len(data)
    return crc == following.crc
