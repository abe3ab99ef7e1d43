"""A profile as TOML text: what tomllib reads back is what was given. TOML has no null: those keys are named apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LONGEST_LINE = 110
_DEEPEST = 32


def toml_text(content: Mapping[str, Any]) -> str:
    """The text of a table: texts, numbers, booleans, lists and tables with text as keys; see `without_nulls`."""
    return "\n".join(_table(content, ())).lstrip("\n") + "\n"


def without_nulls(content: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """(what TOML can hold, paths of keys that are null, keys that cannot be kept).

    Dots step into tables in the paths. A key cannot be kept where a null stands in a list or under a key with a dot,
    where a text is no Unicode, or where it is nested deeper than any profile.
    """
    kept: dict[str, Any] = {}
    nulls: list[str] = []
    left: list[str] = []
    for key, value in content.items():
        inner = [path for path, found in _leaves(value, (key,)) if found is None]
        if not _fits(key, value) or any(not path or any("." in part for part in path) for path in inner):
            left.append(key)
            continue
        nulls += [".".join(path) for path in inner]
        if value is not None:
            kept[key] = _dense(value)
    return kept, tuple(nulls), tuple(left)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of everything in tables that is no table; within a list the path is ()."""
    if len(path) > _DEEPEST:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        yield from (((), None) for inner in value if _holds_null(inner, len(path)))
    else:
        yield path, value


def _holds_null(value: Any, depth: int) -> bool:
    if depth > _DEEPEST or value is None:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_holds_null(one, depth + 1) for one in inner)


def _fits(key: str, value: Any, depth: int = 0) -> bool:
    """Not too deep, and Unicode throughout."""
    if depth > _DEEPEST or not _is_unicode(key) or (isinstance(value, str) and not _is_unicode(value)):
        return False
    if isinstance(value, dict):
        return all(_fits(name, inner, depth + 1) for name, inner in value.items())
    return not isinstance(value, list) or all(_fits("", inner, depth + 1) for inner in value)


def _is_unicode(text: str) -> bool:
    """No half of a pair of surrogates, which JSON can escape and UTF-8 cannot hold."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _dense(value: Any) -> Any:
    """The value without the null keys of its tables."""
    if isinstance(value, dict):
        return {key: _dense(inner) for key, inner in value.items() if inner is not None}
    return value


def _table(content: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    inner = {key: value for key, value in content.items() if isinstance(value, dict)}
    plain = {key: value for key, value in content.items() if key not in inner}
    # A table that only holds tables needs no header of its own.
    if path and (plain or not inner):
        yield ""
        yield f"[{'.'.join(_key(part) for part in path)}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {_spread(value, len(_key(key)) + 3)}"
    for key, value in inner.items():
        yield from _table(value, (*path, key))


def _spread(value: Any, before: int) -> str:
    """The value on one line, or a long list on several."""
    text = _value(value)
    if not isinstance(value, list) or before + len(text) <= _LONGEST_LINE:
        return text
    lines, line = ["["], " "
    for one in value:
        word = f" {_value(one)},"
        if len(line) + len(word) > _LONGEST_LINE and line.strip():
            lines.append(line)
            line = " "
        line += word
    return "\n".join([*lines, line, "]"])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(inner)}' for key, inner in value.items())}}}"
    return repr(value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    return f'"{"".join(_ESCAPES.get(sign) or _plain(sign) for sign in text)}"'


def _plain(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) < 32 or ord(sign) == 127 else sign
