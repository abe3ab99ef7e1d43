"""Holding a user's profile file to its form with pydantic, and the JSON Schemas of the forms. Never on a plain run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from fitcalc.catalog.files import read_toml, require_folder, stems
from fitcalc.catalog.forms import FORMS
from fitcalc.errors import FitcalcError, ProfileError

SCHEMA_NAMES = {
    "models": "model",
    "pipelines": "pipeline",
    "gpus": "gpu",
    "cpus": "cpu",
    "nodes": "node",
    "quants": "quant",
    "engines": "engine",
    "prices": "price",
}
"""Kind of profile -> name of its JSON Schema in profiles/schema/."""


@cache
def _adapter(kind: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(FORMS[kind])


def hold_to_form(kind: str, content: dict[str, Any], path: str) -> None:
    """Raise a ProfileError of one line (file, field, reason) when `content` does not have the form of its kind."""
    from pydantic import ValidationError
    from pydantic_core import to_json

    try:
        _adapter(kind).validate_json(to_json(content))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        message, hint = _told(kind, problems[0])
        raise ProfileError(f"{path}: {message}{more}", hint=hint) from error


def problems_in(folders: Sequence[str], load: Mapping[str, Callable[[str], object]]) -> tuple[int, tuple[str, ...]]:
    """Profiles in `folders`, and one line for each that has not its form or cannot be loaded; `load` by kind."""
    checked = 0
    problems: list[str] = []
    for folder in folders:
        require_folder(folder, "profiles check")
        for kind, loader in load.items():
            place = os.path.join(folder, kind)
            for path in (os.path.join(place, f"{stem}.toml") for stem in sorted(stems(place))):
                checked += 1
                try:
                    hold_to_form(kind, read_toml(path), path)
                    loader(path)
                except FitcalcError as error:
                    told = str(error) if path in str(error) else f"{path}: {error}"
                    problems.append(f"{told} ({error.hint})" if error.hint else told)
    return checked, tuple(problems)


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind's file form."""
    described: dict[str, Any] = _adapter(kind).json_schema()
    name = SCHEMA_NAMES[kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": f"fitcalc {name} profile",
        # Editors that complete TOML put the schema's own name into the file.
        "properties": {**described["properties"], "$schema": {"type": "string"}},
    }


def report_schema() -> dict[str, Any]:
    """The JSON Schema of what `--json` prints; unknown fields are allowed, because later versions may add some."""
    from fitcalc.spec.report import FitReport

    return _answer_schema(FitReport, "report")


def cost_schema() -> dict[str, Any]:
    """The JSON Schema of what `cost --json` prints."""
    from fitcalc.spec.cost_report import CostReport

    return _answer_schema(CostReport, "cost report")


def finetune_schema() -> dict[str, Any]:
    """The JSON Schema of what `finetune --json` prints."""
    from fitcalc.spec.training import FinetuneReport

    return _answer_schema(FinetuneReport, "fine-tuning report")


def capacity_schema() -> dict[str, Any]:
    """The JSON Schema of what `capacity --json` prints."""
    from fitcalc.spec.capacity_report import CapacityReport

    return _answer_schema(CapacityReport, "capacity report")


def curve_schema() -> dict[str, Any]:
    """The JSON Schema of what `--curve --json` prints."""
    from fitcalc.spec.curve import Curve

    return _answer_schema(Curve, "curve")


def selection_schemas() -> dict[str, dict[str, Any]]:
    """Command -> the JSON Schema of what it prints with `--json`: recommend, which, compare."""
    from fitcalc.spec.selection import CompareReport, RecommendReport, WhichReport

    answers = {"recommend": RecommendReport, "which": WhichReport, "compare": CompareReport}
    return {name: _answer_schema(answer, f"{name} report") for name, answer in answers.items()}


def _answer_schema(answer: type[Any], name: str) -> dict[str, Any]:
    from pydantic import TypeAdapter

    from fitcalc.spec.report import SCHEMA_VERSION

    described: dict[str, Any] = TypeAdapter(answer).json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": f"fitcalc {name}, schema_version {SCHEMA_VERSION}",
    }


def _told(kind: str, problem: Any) -> tuple[str, str]:
    """What is wrong and what to try, from one of pydantic's errors."""
    place = ".".join(str(part) for part in problem["loc"])
    found = problem.get("input")
    match problem["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"unknown key {place!r}", _nearest(kind, str(problem["loc"][-1]))
        case "missing" | "missing_argument":
            return f"{place} is missing", f"every profile in {kind}/ needs it"
        case "string_type" if isinstance(found, int | float) and not isinstance(found, bool):
            return f"{place} is the bare number {found}", f'write it as a string with its unit, such as "{found} GiB"'
        case _:
            shown = repr(found)
            return f"{place}: {problem['msg']}, not {shown if len(shown) <= 40 else shown[:37] + '...'}", (
                "the forms are described in profiles/schema/"
            )


def _nearest(kind: str, key: str) -> str:
    from difflib import get_close_matches

    known = [field.name for field in fields(FORMS[kind])] if is_dataclass(FORMS[kind]) else []
    near = get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
