"""The generated files beside the profiles, read by single entries: index.json (names) and parsed.json (contents).

Both are JSON objects with one key at the start of each line that belongs to them, so that an entry is found by a search
for its key and the rest is not parsed. `python -m fitcalc.catalog` writes them.
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
    found: dict[str, Any] | None = _entry(INDEX, section, "{")
    return {} if found is None else found


def parsed(path: str, raw: bytes) -> dict[str, Any] | None:
    """The content of a packaged TOML file of these bytes; None where it was edited after parsed.json was written."""
    folder = packaged_folder() + os.sep
    if not path.startswith(folder):
        return None
    name = path[len(folder) :].replace(os.sep, "/")
    if not os.path.exists(folder + PARSED):  # it is being made
        return None
    found = _entry(PARSED, name, f"[{crc32(raw)},")
    return None if found is None else found[1]


def _entry(file: str, key: str, opening: str) -> Any:
    """The value of a key that begins with `opening`; None where there is none."""
    text = _text(file)
    start = text.find(f'\n"{key}":{opening}')
    return None if start < 0 else _decoder.raw_decode(text, start + len(key) + 4)[0]


@lru_cache(maxsize=2)
def _text(file: str) -> str:
    path = os.path.join(packaged_folder(), file)
    try:
        with open(path, encoding="ascii") as opened:
            return opened.read()
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: {error}", hint="the installation is incomplete; install fitcalc again") from error
