"""Choosing: what to run a model on (`recommend`), what a machine runs (`which`), answers side by side (`compare`)."""

from __future__ import annotations

from fitcalc.selection.beside import compare
from fitcalc.selection.best import recommend
from fitcalc.selection.runnable import which

__all__ = ["compare", "recommend", "which"]
