"""Sizes, rates and counts: parsing, formatting, and the integer helpers the formulas use.

Bytes are Python ints. GiB appear only in formatted text, always with the i.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fitcalc.errors import UnitError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_RATE_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_NUMBER = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]*)\s*$")


def ceil_div(numerator: Any, denominator: Any) -> Any:
    """Quotient rounded up; ints and integer arrays alike."""
    return -(-numerator // denominator)


def least(a: Any, b: Any) -> Any:
    """Smaller of two; arrays, which know how to clip, broadcast."""
    if hasattr(a, "clip"):
        return a.clip(max=b)
    return b.clip(max=a) if hasattr(b, "clip") else b if a > b else a


def most(a: Any, b: Any) -> Any:
    """Larger of two; arrays, which know how to clip, broadcast."""
    if hasattr(a, "clip"):
        return a.clip(min=b)
    return b.clip(min=a) if hasattr(b, "clip") else b if b > a else a


def round_up(value: Any, step: Any) -> Any:
    """Smallest multiple of `step` that is not below `value`."""
    return ceil_div(value, step) * step


def _split(text: str, what: str) -> tuple[int | float, str]:
    match = _NUMBER.match(text)
    if match is None:
        raise UnitError(f"{text!r} is not {what}", hint=f"write {what} as a number and a unit")
    digits, unit = match.groups()
    return (float(digits) if "." in digits else int(digits)), unit.lower()


def parse_size(text: str) -> int:
    """Bytes of a size with a unit: '81920 MiB', '24GB', '1.5 GiB'. A bare number is an error."""
    number, unit = _split(text, "a size such as '24 GiB'")
    if unit not in _SIZE_UNITS:
        hint = "give a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"
        raise UnitError(f"{text!r} has no known unit of size", hint=hint)
    return round(number * _SIZE_UNITS[unit])


def parse_rate(text: str, kind: str) -> float:
    """Units per second of a rate: parse_rate('2039 GB/s', 'B'), parse_rate('312 TFLOP/s', 'FLOP')."""
    number, unit = _split(text, f"a rate such as '1 G{kind}/s'")
    suffix = f"{kind}/s".lower()
    prefix = unit.removesuffix(suffix)
    if not unit.endswith(suffix) or prefix not in _RATE_PREFIXES:
        raise UnitError(f"{text!r} is not a rate in {kind}/s", hint=f"write it like '1 G{kind}/s'")
    return float(number) * _RATE_PREFIXES[prefix]


def parse_tokens(text: str) -> int:
    """Tokens: '8192', '128k' (k = 1024), '1M' (1024 squared), '131,072'."""
    cleaned = text.strip().lower().replace(",", "").replace("_", "")
    factor = 1
    if cleaned.endswith(("k", "m")):
        factor = KIB if cleaned.endswith("k") else MIB
        cleaned = cleaned[:-1]
    if not cleaned.isascii() or not cleaned.isdigit():
        hint = "give a whole number of tokens, such as 8192 or 128k"
        raise UnitError(f"{text!r} is not a number of tokens", hint=hint)
    return int(cleaned) * factor


def format_gib(size_bytes: int, digits: int = 2) -> str:
    """'37.04 GiB'; below 0.1 GiB in MiB, so that small terms do not read as zero."""
    if size_bytes and abs(size_bytes) < GIB // 10:
        return f"{size_bytes / MIB:,.1f} MiB"
    return f"{size_bytes / GIB:,.{digits}f} GiB"


def format_asked(tokens: int, requests: int, picture_px: Sequence[int] | None = None) -> str:
    """What is run at once: '8,192 tokens × 4 requests', or of pictures '1,024 × 768 px × 2 pictures'."""
    several = "" if requests == 1 else "s"
    if picture_px:
        return f"{picture_px[0]:,} × {picture_px[1]:,} px × {requests:,} picture{several}"
    return f"{tokens:,} token{'' if tokens == 1 else 's'} × {requests:,} request{several}"


def format_params(count: int) -> str:
    """'70.55 B', '124.4 M'."""
    if count >= 10**9:
        return f"{count / 10**9:,.2f} B"
    return f"{count / 10**6:,.1f} M"
