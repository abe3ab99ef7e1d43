"""fitcalc: does this model fit on that hardware, how, and how fast. Public names load on first use."""

from __future__ import annotations

__version__ = "0.1.0"
