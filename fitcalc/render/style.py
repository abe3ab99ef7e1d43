"""How the terminal takes text: width, colour, and whether it can show block characters."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from fitcalc.frozen import dataclass

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Style:
    """Width in columns, colour on or off, block characters or ASCII."""

    width: int = 80
    color: bool = False
    blocks: bool = True

    def paint(self, text: str, *looks: str) -> str:
        """Text with ANSI codes, or as it is when colour is off."""
        if not self.color or not looks:
            return text
        return f"\x1b[{';'.join(_CODES[look] for look in looks)}m{text}\x1b[0m"


def style_of(stream: TextIO | None) -> Style:
    """The style of a stream: NO_COLOR, FORCE_COLOR, COLUMNS and pipes honoured; a closed one (None) takes any."""
    if stream is None:
        return Style()
    color = "NO_COLOR" not in os.environ and (stream.isatty() or bool(os.environ.get("FORCE_COLOR")))
    width = _columns(stream)
    try:
        "█▒░·×–▏".encode(stream.encoding or "ascii")
        blocks = True
    except (UnicodeEncodeError, LookupError):
        blocks = False
    return Style(max(40, min(width, 110)), color, blocks)


def _columns(stream: TextIO) -> int:
    """COLUMNS, else the terminal's width, else 80 (a pipe has none)."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and int(asked):
        return int(asked)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def style_of_stdout() -> Style:
    """The style of standard output."""
    return style_of(sys.stdout)


_PLAIN = str.maketrans({"█": "#", "▒": "+", "░": "-", "▏": "|", "·": "-", "×": "x", "–": "-", "…": "...", "→": "->"})


def plain(text: str) -> str:
    """Text in ASCII, for terminals that cannot show the rest."""
    return text.translate(_PLAIN).encode("ascii", "replace").decode("ascii")
