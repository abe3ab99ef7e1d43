"""A trace of real requests from a CSV file: when they arrived, and how many tokens went in and came out."""

from __future__ import annotations

import csv
import math
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass

MOST_BYTES = 256 * 1024 * 1024
MOST_ROWS = 2_000_000
MOST_TOKENS = 2**31
PEAK_S = 60.0
"""Length of the busiest window that a fleet is sized for."""
_COLUMNS = {
    "arrival": ("arrival", "arrivals", "arrivaltime", "arrivaltimes", "arrivedat", "timestamp", "time"),
    "prompt": ("prompt", "prompttokens", "input", "inputtokens", "contexttokens", "requesttokens"),
    "output": ("output", "outputtokens", "generatedtokens", "completiontokens", "responsetokens"),
}
"""What is read -> names of its column, without blanks, dashes and capitals."""
_HINT = "the first line names the columns: arrival (seconds, or date and time), prompt and output (tokens)"


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival."""

    arrivals: tuple[tuple[float, int, int], ...]
    """(seconds since the first, prompt tokens, output tokens)"""
    skipped: int
    """Rows without a prompt or an answer, which failed requests leave."""

    @property
    def span_s(self) -> float:
        """From the first arrival to the last."""
        return self.arrivals[-1][0]

    @property
    def rate(self) -> float:
        """Mean requests per second."""
        return (len(self.arrivals) - 1) / self.span_s

    @property
    def peak_rate(self) -> float:
        """Requests per second in the busiest minute, or over all of a shorter trace."""
        moments = [arrival[0] for arrival in self.arrivals]
        if self.span_s <= PEAK_S:
            return self.rate
        most = max(bisect_left(moments, start + PEAK_S, index) - index for index, start in enumerate(moments))
        return max(most / PEAK_S, self.rate)


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace in a file. Raises RequestError with the line for what cannot be read."""
    name = os.path.basename(os.fspath(path))
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise RequestError(f"trace {name} is not a file", hint=_HINT)
        if found.st_size > MOST_BYTES:
            raise RequestError(f"trace {name} is longer than {MOST_BYTES >> 20} MiB", hint="give a part of it")
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _trace(_rows(file, name), name)
    except OSError as error:
        raise RequestError(f"trace {name} cannot be read: {error.strerror or error}", hint=_HINT) from error
    except UnicodeDecodeError as error:
        raise RequestError(f"trace {name} is not text in UTF-8", hint=_HINT) from error


def _trace(rows: Iterable[tuple[float, int, int]], name: str) -> Trace:
    kept, skipped = [], 0
    for row in rows:
        if row[1] and row[2]:
            kept.append(row)
        else:
            skipped += 1
    kept.sort()
    if len(kept) < 2 or kept[-1][0] <= kept[0][0]:
        raise RequestError(f"trace {name} has no two requests at different times", hint=_HINT)
    start = kept[0][0]
    return Trace(tuple((moment - start, prompt, output) for moment, prompt, output in kept), skipped)


def _rows(lines: Iterable[str], name: str) -> Iterator[tuple[float, int, int]]:
    reader = csv.reader(lines)
    try:
        places = _places(next(reader, []), name)
        for row in reader:
            if not row:
                continue
            where = f"trace {name}, line {reader.line_num}"
            if reader.line_num > MOST_ROWS:
                raise RequestError(f"trace {name} has more than {MOST_ROWS:,} lines", hint="give a part of it")
            if len(row) <= max(places):
                raise RequestError(f"{where}: {len(row)} columns, fewer than the first line names", hint=_HINT)
            arrival, prompt, output = (row[place].strip() for place in places)
            yield _moment(arrival, where), _tokens(prompt, where), _tokens(output, where)
    except csv.Error as error:
        raise RequestError(f"trace {name}, line {reader.line_num}: {error}", hint=_HINT) from error


def _places(head: list[str], name: str) -> tuple[int, ...]:
    """Where the three columns stand."""
    words = [re.sub(r"[^a-z]", "", re.sub(r"\(.*\)|_s$", "", word.strip().lower())) for word in head]
    places = []
    for wanted, known in _COLUMNS.items():
        place = next((words.index(word) for word in known if word in words), None)
        if place is None:
            raise RequestError(f"trace {name} has no column {wanted!r}", hint=_HINT)
        places.append(place)
    return tuple(places)


def _moment(text: str, where: str) -> float:
    """Seconds, or a date and time; one without a zone is taken as UTC."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
        try:
            # More digits than microseconds have are of no use here.
            found = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
            value = found.replace(tzinfo=found.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            pass
    if not abs(value) < 1e15:
        raise RequestError(f"{where}: {text[:40]!r} is not a time", hint=_HINT)
    return value


def _tokens(text: str, where: str) -> int:
    if not re.fullmatch(r"\d{1,12}(\.0*)?", text, re.ASCII):
        raise RequestError(f"{where}: {text[:40]!r} is not a number of tokens", hint=_HINT)
    value = int(text.partition(".")[0])
    if value > MOST_TOKENS:
        raise RequestError(f"{where}: {value:,} tokens are out of range", hint=_HINT)
    return value
