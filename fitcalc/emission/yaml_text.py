"""YAML of plain dicts, lists, texts, whole numbers and truth values, for files that tools and people read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
"""Texts that some reader of YAML takes for something else."""


def document(content: dict[str, Any]) -> str:
    """One YAML document in block style; the keys in the order of the dict."""
    return "\n".join(_block(content, 0)) + "\n"


def _block(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _entry(f"{pad}{_scalar(key)}:", item, depth)
        return
    for item in value:
        if isinstance(item, dict) and item:
            first, *rest = _block(item, depth + 1)
            yield f"{pad}- {first.lstrip(' ')}"
            yield from rest
        else:
            yield from _entry(f"{pad}-", item, depth)


def _entry(head: str, item: Any, depth: int) -> Iterator[str]:
    if isinstance(item, dict | list | tuple) and item:
        yield head
        yield from _block(item, depth + 1)
    elif isinstance(item, str) and _is_literal(item):
        yield f"{head} |"
        yield from (f"{'  ' * (depth + 1)}{line}" if line else "" for line in item.splitlines())
    else:
        yield f"{head} {_scalar(item)}"


def _is_literal(text: str) -> bool:
    """Lines that stand as they are: the last one ended, none that begins or ends with a blank, nothing unprintable."""
    lines = text.split("\n")
    ended = len(lines) > 1 and not lines[-1] and bool(lines[-2]) and bool(lines[0])
    return (
        ended and lines[0] == lines[0].lstrip() and all(line.isprintable() and line == line.rstrip() for line in lines)
    )


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return value if plain else _quoted(value)
    return "{}" if isinstance(value, dict) else "[]"


def _quoted(text: str) -> str:
    """The text in double quotes; characters that no screen shows by their number."""
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in shown)
