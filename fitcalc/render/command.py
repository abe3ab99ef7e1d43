"""A start command broken into lines that a shell still takes as one."""

from __future__ import annotations


def wrap_command(command: str, width: int) -> list[str]:
    """Lines of at most `width` columns, joined by a trailing backslash; options stay with their values."""
    if command.startswith("#") and "\n" not in command:
        return [command]
    if "\n" in command:
        # A line that ends in a backslash is laid out already.
        parts = command.splitlines()
        return (
            parts
            if any(part.endswith("\\") for part in parts)
            else [line for part in parts for line in wrap_command(part, width)]
        )
    lines: list[str] = []
    current = ""
    for piece in _pieces(command):
        joined = f"{current} {piece}" if current else piece
        if current and len(joined) > width - 2:
            lines.append(current + " \\")
            joined = "  " + piece
        current = joined
    return [*lines, current] if current else lines


def _words(command: str) -> list[str]:
    """What blanks outside of quotes separate, as it is written."""
    words, quote = [""], ""
    for char in command:
        if char == " " and not quote:
            words.append("")
            continue
        if char in "'\"":
            quote = "" if char == quote else quote or char
        words[-1] += char
    return words


def _pieces(command: str) -> list[str]:
    """Words, an option together with the value that follows it."""
    words = _words(command)
    pieces: list[str] = []
    for word in words:
        is_value = bool(pieces) and not word.startswith("-") and pieces[-1].startswith("-") and " " not in pieces[-1]
        if is_value:
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    return pieces
