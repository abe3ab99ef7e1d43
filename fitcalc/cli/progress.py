"""A progress bar on a terminal's stderr while many files are read from the Hub; nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

_FEWEST_FILES = 5
"""Fewer are there before a bar could be read."""


@contextmanager
def shown() -> Iterator[None]:
    """Within it, sets of files that are fetched show how many have come."""
    if not sys.stderr.isatty():
        yield
        return
    from fitcalc.readers.hub_files import watched

    with ExitStack() as bars:
        bar: Any = None

        def progress(done: int, total: int) -> None:
            nonlocal bar
            if bar is None and total >= _FEWEST_FILES:
                drawn = click.progressbar(length=total, label="reading headers", file=sys.stderr, show_pos=True)
                bar = bars.enter_context(drawn)
            if bar is not None:
                bar.update(done - bar.pos)

        with watched(progress):
            yield
