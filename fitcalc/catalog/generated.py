"""The generated files beside the profiles, read by single entries: index.json (names) and parsed.json (contents).

Both are JSON objects whose own keys stand at the start of lines, so that an entry is found by its key and the rest is
not parsed; parsed.json has one line per entry, sorted. `python -m fitcalc.catalog` writes them.
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from json import JSONDecoder
from typing import Any
from zlib import crc32

from fitcalc.catalog.files import packaged_folder
from fitcalc.errors import ProfileError

INDEX, PARSED = "index.json", "parsed.json"
_decoder = JSONDecoder()


@cache
def indexed(section: str) -> dict[str, Any]:
    """A section of the index (see catalog.index); {} where there is none of that name."""
    text = _index_text()
    start = text.find(f'\n"{section}":{{')
    found: dict[str, Any] = _decoder.raw_decode(text, start + len(section) + 4)[0] if start >= 0 else {}
    return found


def parsed(path: str, raw: bytes) -> dict[str, Any] | None:
    """The content of a packaged TOML file of these bytes; None where it was edited after parsed.json was written."""
    folder = packaged_folder() + os.sep
    if not path.startswith(folder):
        return None
    name = path[len(folder) :].replace(os.sep, "/")
    line = _line_of(folder + PARSED, f'"{name}":['.encode())
    checksum, _, rest = line.partition(b",")
    if not line or int(checksum) != crc32(raw):
        return None
    content: dict[str, Any] = _decoder.raw_decode(rest.decode())[0]
    return content


def _line_of(path: str, start: bytes) -> bytes:
    """What follows `start` in the line that begins so, in a file of sorted lines; b"" where there is none.

    Found by halving: a start reads some blocks of the file, not all of it.
    """
    try:
        with open(path, "rb") as file:
            low, high = 0, file.seek(0, os.SEEK_END)
            while low < high:
                middle = (low + high) // 2
                file.seek(middle)
                file.readline()
                first = file.tell()
                line = file.readline()
                if line.startswith(start):
                    return line[len(start) :]
                low, high = (first, high) if line and line < start else (low, middle)
    except FileNotFoundError:  # it is being made
        pass
    return b""


@lru_cache(maxsize=1)
def _index_text() -> str:
    path = os.path.join(packaged_folder(), INDEX)
    try:
        with open(path, encoding="utf-8") as opened:
            return opened.read()
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: {error}", hint="the installation is incomplete; install fitcalc again") from error
