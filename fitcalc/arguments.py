"""What the arguments of the Python API may be: anything else is a RequestError of one line, before work begins."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fitcalc import catalog
from fitcalc.errors import RequestError, UnknownNameError

MOST_TOKENS = 2**31
MOST_REQUESTS = 2**20
MOST_PARTS = 4096
AUTO = "auto"
"""In place of a number: the largest that fits."""
_NAME_A_DEVICE = "add --gpu rtx-3060, --cpu raspberry-pi-5-8gb or --gpu 24GB"
_TIME = r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(s|ms)\s*"
_SECONDS = {"s": 1.0, "ms": 1e-3}
_UNITLESS = r"\s*\d+(\.\d+)?\s*(:\d+\s*)?"


def text(name: str, value: Any, hint: str) -> str:
    """A name as text."""
    if not isinstance(value, str):
        raise _wrong_type(name, value, "text", hint)
    return value


def text_or_none(name: str, value: Any, hint: str = "give an id as text, or leave it out") -> str | None:
    """A name as text, or None."""
    if value is not None and not isinstance(value, str):
        raise _wrong_type(name, value, "text", hint)
    return value


def gpu_names(gpu: Any, cpu: str | None) -> list[str] | None:
    """The cards as a list of names; None where none was named. An empty name or list, with no CPU, names no device."""
    names = [gpu] if isinstance(gpu, str) else gpu
    hint = "give ids as text: gpu='a100-80:2', or a list of them"
    if names is not None and (not isinstance(names, Sequence) or isinstance(names, bytes)):
        raise _wrong_type("gpu", gpu, "text or a list of it", _id_of(gpu) or hint)
    wrong = next((name for name in names or () if not isinstance(name, str)), "")
    if wrong != "":
        raise _wrong_type("gpu", wrong, "text", _id_of(wrong) or hint)
    named = [name for name in names or () if name.strip()]
    if (names is not None and not named and not cpu) or (cpu is not None and not cpu.strip()):
        raise RequestError("no device given", hint=_NAME_A_DEVICE)
    for name in named:
        _with_unit(name)
    return named or None


def _with_unit(name: str) -> None:
    """A bare number is a size that lacks its unit, unless a card is known by that number."""
    if not (name.lstrip()[:1].isdecimal() and re.fullmatch(_UNITLESS, name)):
        return
    number = name.partition(":")[0].strip()
    try:
        catalog.resolve("device", number)
    except UnknownNameError as error:
        raise RequestError(f"gpu {name!r} is a number without a unit", hint=f"give a unit: {number}GB") from error


def size_or_none(name: str, value: Any, *, least: int) -> str | int | None:
    """A size as text with a unit, or whole bytes from `least` on, or None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(name, value, "a size", "give bytes as a whole number, or text such as '32GB'")
    if value < least:
        raise RequestError(f"{name} {value!r} is not a size of memory", hint="give bytes, or text such as '32GB'")
    return value


def whole_number(name: str, value: Any, largest: int, *, required: bool = False) -> None:
    """Refuse what is not a whole number from 1 to `largest`; None passes where it means "chosen"."""
    if value is None and not required:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise RequestError(f"{name} {value!r} is out of range", hint=f"give a whole number from 1 to {largest:,}")


def whole_or_auto(name: str, value: Any, largest: int, *, required: bool = False) -> int | None:
    """A whole number, or None where the largest that fits is asked for ('auto') or nothing was said."""
    if is_auto(value):
        return None
    if isinstance(value, str):
        raise RequestError(f"{name} {value!r} is neither a number nor 'auto'", hint=f"give a whole number, or '{AUTO}'")
    whole_number(name, value, largest, required=required)
    found: int | None = value
    return found


def is_auto(value: Any) -> bool:
    """'auto', in any case."""
    return isinstance(value, str) and value.strip().lower() == AUTO


def seconds_or_none(name: str, value: Any) -> float | None:
    """A time above zero in seconds, from a number of seconds or text with a unit ('2s', '50ms'), or None."""
    if value is None:
        return None
    if isinstance(value, str):
        match = re.fullmatch(_TIME, value, re.IGNORECASE)
        if match is None:
            raise RequestError(f"{name} {value!r} is not a time", hint="give a number and a unit, such as 2s or 50ms")
        value = float(match[1]) * _SECONDS[match[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, value, "a time", "give seconds as a number, or text such as '50ms'")
    if not 0 < value < math.inf:
        raise RequestError(f"{name} {value!r} is not a time above zero", hint="give seconds, or text such as '50ms'")
    return float(value)


def flag_or_none(name: str, value: Any) -> bool | None:
    """True, False, or None where it was left to choose."""
    if value is None or isinstance(value, bool):
        return value
    raise _wrong_type(name, value, "true or false", "give True or False, or leave it out")


def options_of(value: Any) -> dict[str, Any]:
    """Engine options as a dict; None is none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        hint = "give a mapping, such as {'max_num_seqs': 64}"
        raise _wrong_type("engine_options", value, "a mapping of names to values", hint)
    return dict(value)


def _id_of(value: Any) -> str:
    own = getattr(value, "id", None)
    return f"give its id: {own!r}" if isinstance(own, str) else ""


def _wrong_type(name: str, value: Any, wanted: str, hint: str) -> RequestError:
    return RequestError(f"{name} is {type(value).__name__}, not {wanted}", hint=_id_of(value) or hint)
