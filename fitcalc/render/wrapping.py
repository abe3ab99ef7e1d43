"""Text in lines of a width. The standard library's textwrap does the same and more, at the cost of a slower start."""

from __future__ import annotations


def wrap(text: str, width: int, *, initial_indent: str = "", subsequent_indent: str = "") -> list[str]:
    """Lines of at most `width` columns, broken at blanks; a word that is wider is cut. [] for an empty text."""
    lines: list[str] = []
    line, indent = "", initial_indent
    for word in text.split():
        rest = word
        if line and len(line) + 1 + len(word) <= width:
            line += f" {word}"
            continue
        if line:
            lines.append(line)
            indent = subsequent_indent
        while len(indent) + len(rest) > width:
            room = max(width - len(indent), 1)
            lines.append(indent + rest[:room])
            rest, indent = rest[room:], subsequent_indent
        line = indent + rest
    return [*lines, line] if line else lines


def shorten(text: str, width: int) -> str:
    """The text, or as many of its words as leave room for ' …' behind them."""
    if len(text) <= width:
        return text
    return f"{text[: width - 1].rpartition(' ')[0]} …".strip()
