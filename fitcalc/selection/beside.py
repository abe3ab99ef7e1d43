"""fitcalc.compare: models, devices or quantizations side by side under one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fitcalc import __version__, arguments, catalog
from fitcalc import prices as money
from fitcalc.api import fit
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.machine import load_gpu, split_count
from fitcalc.sources import is_path, load_model
from fitcalc.spec.hardware import Node
from fitcalc.spec.report import FitReport
from fitcalc.spec.selection import Compared, CompareReport

MOST_COMPARED = 12
Kind = Literal["model", "device", "quantization"]


def compare(*names: str, model: str | None = None, **plan: Any) -> CompareReport:
    """Answers of `fit` side by side: all names are models, or devices ('a100-80:2'), or quantizations.

    model: which model, where devices or quantizations are compared. All other keyword arguments are those of `fit`;
    what is compared must not be among them.

    Raises RequestError where the names are not two to twelve of one kind or the rest of the question is missing, and
    what `fit` raises.
    """
    given = [arguments.text("names", name, "give ids as text").strip() for name in names]
    if not 2 <= len(given) <= MOST_COMPARED:
        hint = "fitcalc compare llama-3.1-8b qwen2.5-7b --gpu rtx-4090"
        raise RequestError(f"{len(given)} to compare: give 2 to {MOST_COMPARED}", hint=hint)
    kind = _common_kind(given)
    plan = {name: value for name, value in plan.items() if value is not None}
    _hold_together(kind, model, plan)
    reports = [_asked(kind, name, model, plan) for name in given]
    notes = dict.fromkeys(
        note for one in reports for note in one.notes if all(note in other.notes for other in reports)
    )
    return CompareReport(
        inputs={"names": given, "model": model, **{key: _shown(value) for key, value in plan.items()}},
        kind=kind,
        columns=tuple(_column(name, one) for name, one in zip(given, reports, strict=True)),
        notes=tuple(notes),
        fitcalc_version=__version__,
    )


def _common_kind(names: Sequence[str]) -> Kind:
    kinds = [_kind(name) for name in names]
    if len(set(kinds)) > 1:
        said = ", ".join(f"{name} is a {kind}" for name, kind in zip(names, kinds, strict=True))
        raise RequestError(f"only things of one kind can be compared: {said}", hint="compare models with models")
    return kinds[0]


def _kind(name: str) -> Kind:
    """What a name means: a model's file or name, a device with or without a count, a quantization."""
    if is_path(name) or name.partition(":")[0] in ("hf", "ollama", "lmstudio", "hf-cache"):
        return "model"
    tried: list[tuple[Kind, Any]] = [
        ("model", lambda: catalog.resolve("model", name)),
        ("quantization", lambda: catalog.load_scheme(name)),
        ("device", lambda: load_gpu(split_count(name)[0])),
    ]
    errors: list[UnknownNameError] = []
    for kind, look_up in tried:
        try:
            look_up()
        except UnknownNameError as error:
            errors.append(error)
        else:
            return kind
    close = tuple(dict.fromkeys(near for error in errors for near in error.suggestions))[:4]
    raise UnknownNameError("model, device or quantization", name, close, hint="'fitcalc models' lists the models")


def _hold_together(kind: Kind, model: str | None, plan: dict[str, Any]) -> None:
    if kind == "model" and model is not None:
        raise RequestError("models are compared: leave --model out")
    if kind != "model" and model is None:
        raise RequestError(f"{kind}s of which model are compared?", hint="add --model llama-3.1-8b")
    twice = {"device": ("gpu", "cpu"), "quantization": ("quant",), "model": ()}[kind]
    wrong = next((name for name in twice if plan.get(name)), "")
    if wrong:
        raise RequestError(f"{kind}s are compared: leave --{wrong} out")


def _asked(kind: Kind, name: str, model: str | None, plan: dict[str, Any]) -> FitReport:
    if kind == "model":
        return fit(load_model(name, online=bool(plan.get("online"))), **plan)
    assert model is not None
    if kind == "quantization":
        return fit(model, quant=name, **plan)
    base, count = split_count(name)
    found = load_gpu(base)[0]
    if not isinstance(found, Node) and found.kind == "cpu":
        if count > 1:
            raise RequestError(f"{name}: a CPU counts once")
        return fit(model, cpu=base, **plan)
    return fit(model, gpu=name, **plan)


def _shown(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | dict) or value is None else str(value)


def _column(name: str, report: FitReport) -> Compared:
    decisive = [one for one in report.devices if one.decisive] or list(report.devices)
    fullest = min(decisive, key=lambda one: one.headroom_bytes if one.headroom_bytes is not None else 0)
    asked, speed, quality = report.inputs, report.speed, report.quality
    return Compared(
        name=name,
        model=asked["model"],
        quant=asked["quant"],
        quant_name=asked["quant_name"],
        engine=asked["engine"],
        devices_name=asked["devices_name"],
        verdict=report.verdict,
        weights_bytes=report.weights_bytes,
        kv_cache_bytes=report.kv_cache.bytes,
        total_bytes=fullest.total_bytes,
        usable_bytes=fullest.usable_bytes,
        headroom_bytes=fullest.headroom_bytes,
        max_context_tokens=report.limits.max_context_tokens,
        max_concurrency=report.limits.max_concurrency,
        perplexity_rise=quality.perplexity_rise if quality else None,
        quality=quality.level if quality else None,
        tokens_per_s=speed.decode_tokens_per_s,
        time_to_first_token_s=speed.time_to_first_token_s,
        total_tokens_per_s=speed.total_tokens_per_s,
        usd=_purchase(asked["devices"]),
        usd_per_h=_rent(asked["devices"], asked["node"]),
    )


def _purchase(devices: list[dict[str, Any]]) -> float | None:
    """USD to buy all devices at the upper end; None where a price is not known."""
    found = [(entry["count"], _bought(entry["id"])) for entry in devices]
    return sum(count * usd for count, usd in found if usd is not None) if all(usd for _, usd in found) else None


def _bought(device: str) -> float | None:
    try:
        found = money.purchase_of(catalog.load_device(device))
    except UnknownNameError:
        return None
    return None if found is None else found.high_usd


def _rent(devices: list[dict[str, Any]], node: str | None) -> float | None:
    """USD per hour of the cheapest provider; None for mixed cards and where no price is known."""
    if len(devices) != 1:
        return None
    entry = devices[0]
    found = money.hourly_price(entry["id"], entry["count"], node=node or "")
    return None if found is None else found.usd_per_h
