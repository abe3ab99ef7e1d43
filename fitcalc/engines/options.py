"""Engine options: names checked, texts parsed by the type of their default, the request's own fields kept in step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.frozen import replace
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.workload import Workload
from fitcalc.units import parse_size

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


def _bad(name: str, value: Any, what: str) -> RequestError:
    return RequestError(f"option {name}: {value!r} is not {what}", hint=f"give {name} as {what}")


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise _bad(name, value, "true or false")


def _integer(name: str, value: Any) -> int:
    if isinstance(value, str):
        text = value.strip().replace("_", "").replace(",", "")
        if name.endswith("_bytes") and not text.isdigit():
            return parse_size(value)
        if not text.removeprefix("-").isdigit() or not text.isascii():
            raise _bad(name, value, "a whole number")
        return int(text)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(name, value, "a whole number")
    return value


def _number(name: str, value: Any) -> float:
    try:
        parsed = float(value)
    except (TypeError, ValueError):
        raise _bad(name, value, "a number") from None
    if isinstance(value, bool) or not abs(parsed) < float("inf"):
        raise _bad(name, value, "a number")
    return parsed


def parsed(name: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`; texts from the command line and typed values alike. Raises RequestError."""
    if isinstance(default, bool):
        return _boolean(name, value)
    if isinstance(default, int):
        return _integer(name, value)
    if isinstance(default, float):
        return _number(name, value)
    if isinstance(default, list | tuple):
        items = value.split(",") if isinstance(value, str) else list(value)
        pattern = default[0] if default else 0.0
        return tuple(parsed(name, item, pattern) for item in items)
    if isinstance(value, Mapping):
        import json

        return json.dumps(value)
    return str(value)


def _known(name: str, profile: EngineProfile) -> str:
    """The option as the profile spells it: '--max-num-seqs' and 'max-num-seqs' mean max_num_seqs."""
    plain = name.strip().lstrip("-").replace("-", "_")
    plain = profile.constants.get("option_names", {}).get(plain, plain)
    names = (*profile.options, *profile.request_options)
    for known in names:
        if known.replace("-", "_") == plain:
            return known
    from difflib import get_close_matches

    close = tuple(get_close_matches(plain, names, 3, 0.5))
    raise UnknownNameError(f"option of {profile.name}", name, close, hint=f"it has {', '.join(names)}")


def has_options(profile: EngineProfile, kv_dtype: str, options: Mapping[str, Any]) -> bool:
    """Does the engine know this KV type and every option by name?"""
    try:
        for name in options:
            _known(name, profile)
    except UnknownNameError:
        return False
    return not kv_dtype or kv_dtype in profile.kv_types


def contradiction(workload: Workload, profile: EngineProfile) -> str | None:
    """An option that contradicts the request's own field, in words (neither may silently win); None when none does."""
    for given, value in workload.options.items():
        field = profile.request_options.get(_known(given, profile))
        if field is None:
            continue
        stated = getattr(workload, field)
        same = str(value) in (stated, "auto") if isinstance(stated, str) else _integer(given, value) == stated
        if not same:
            word = field.replace("_tokens", "").replace("_", " ")
            return f"option {given} = {value}, but the request's {word} is {stated or 'the default'}"
    return None


def settled(workload: Workload, profile: EngineProfile) -> Workload:
    """The workload with every option of the engine present and of the right type. Settling twice changes nothing.

    Raises UnknownNameError for an option the engine does not have, RequestError for a value that cannot be read or
    that contradicts the request.
    """
    against = contradiction(workload, profile)
    if against:
        raise RequestError(against, hint="say it once, with the request's own option")
    chosen = dict(profile.options)
    for given, value in workload.options.items():
        name = _known(given, profile)
        if name not in profile.request_options:
            chosen[name] = parsed(name, value, profile.options[name])
    return replace(workload, options=chosen)
