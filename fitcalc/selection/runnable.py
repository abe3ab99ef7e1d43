"""fitcalc.which: the models of the catalogue that run on a machine, with the best quantization of each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from fitcalc import __version__, arguments, catalog
from fitcalc.api import machine_asked
from fitcalc.catalog.generated import indexed
from fitcalc.choice import USEFUL_TOKENS_PER_S, Looked, device_list, look_at
from fitcalc.errors import FitcalcError, RequestError
from fitcalc.machine import device_counts, machine_label
from fitcalc.plan import LEAST_BITS, Request, candidates
from fitcalc.quality import keeps_level, quality_of
from fitcalc.selection.rules import rules
from fitcalc.spec.hardware import Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.report import Quality
from fitcalc.spec.selection import Runnable, WhichReport

_LEAST_BYTES_PER_PARAM = 0.4
"""No quantization of 3 bits and more is smaller."""
DEFAULT_USE = "chat"


def which(
    *,
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    ram: str | int | None = None,
    gpu_used: str | int | None = None,
    use: str | None = DEFAULT_USE,
    context: int | None = None,
    concurrency: int = 1,
    engine: str | None = None,
) -> WhichReport:
    """The models of the catalogue that fit on a machine; without a device on the one this runs on.

    use: 'chat', 'code', 'long-context' or 'edge' (what that means stands in profiles/selection.toml), or None for
    every text model. context: tokens per request; the default is that of the use. Of each model the best quality that
    fits and writes as fast as people read, else the fastest; from 3 bits on.

    Raises UnknownNameError and RequestError.
    """
    machine = machine_asked(gpu, cpu, ram, gpu_used)
    arguments.whole_number("context", context, arguments.MOST_TOKENS)
    arguments.whole_number("concurrency", concurrency, arguments.MOST_REQUESTS, required=True)
    engine = arguments.text_or_none("engine", engine)
    profile = catalog.load_engine(engine) if engine else None
    rule = _rule(use)
    asked = context or rule.get("context_tokens", 8192)
    least = rule.get("least_tokens_per_s", USEFUL_TOKENS_PER_S)
    models = list(_models(rule))
    found = []
    for model in models:
        tokens = asked if context else min(asked, model.max_context_tokens or asked)
        if _is_too_large(model, machine):
            continue
        best = _best(Request(model, machine, tokens, concurrency, engine=profile), least)
        if best is not None:
            found.append(_row(model, machine, tokens, concurrency, least, *best))
    found.sort(key=lambda row: (not row.runs_well, -row.params_total, row.model))
    return WhichReport(
        inputs={
            "use": use,
            "context_tokens": asked,
            "concurrency": concurrency,
            "least_tokens_per_s": least,
            "engine": profile.id if profile else None,
            "devices": list(device_list(machine)),
            "devices_name": machine_label(machine),
            "ram_bytes": machine.ram_bytes,
            "gpu_used_bytes": machine.gpu_used_bytes,
        },
        models=tuple(found),
        looked_at=len(models),
        too_large=len(models) - len(found),
        notes=tuple(machine.notes),
        fitcalc_version=__version__,
    )


def _rule(use: str | None) -> dict[str, Any]:
    uses: dict[str, dict[str, Any]] = rules()["uses"]
    if use is None:
        return {}
    if use not in uses:
        raise RequestError(f"use {use!r} is not known", hint=f"give {', '.join(uses)}")
    return uses[use]


def _models(rule: dict[str, Any]) -> Iterator[ModelSpec]:
    """Decoders whose bytes are known and that hold every line of the rule."""
    for name, (_, _, params) in indexed("sizes/models").items():
        named = rule.get("tuned_for")
        if (named and not any(word in name for word in named)) or any(word in name for word in rule.get("without", ())):
            continue
        if params and params > rule.get("most_params", params):
            continue
        try:
            model = catalog.load_model(name)
        except FitcalcError:
            continue
        limit = model.max_context_tokens
        is_long = limit is None or limit >= rule.get("least_context_tokens", 0)
        if model.kind == "decoder" and not model.unknowns and not model.makes_images and is_long:
            yield model


def _is_too_large(model: ModelSpec, machine: Machine) -> bool:
    devices = machine.gpus or ((machine.cpu,) if machine.cpu else ())
    room = sum(device.usable_bytes or 0 for device in devices)
    known = all(device.usable_bytes is not None for device in devices)
    room = (machine.ram_bytes or 0) if not machine.gpus else room
    return known and model.params_total * _LEAST_BYTES_PER_PARAM > room


def _best(request: Request, least_tokens_per_s: float) -> tuple[Looked, Quality] | None:
    """The best quality that fits and is fast enough, else the fastest of medium quality and better, else the fastest
    of all; where speeds are not known the best quality. None where nothing from 3 bits on fits."""
    rated: list[tuple[Looked, Quality]] = []
    for row in candidates(request):
        entry = look_at(request, row) if row.bits >= LEAST_BITS else None
        if entry is None or entry.verdict != "fits":
            continue
        quality = quality_of(request.model, entry.case.scheme, entry.case.workload.kv_dtype)
        if keeps_level(quality, "medium") and _rate(entry) >= least_tokens_per_s:
            return entry, quality
        rated.append((entry, quality))
    good = [pair for pair in rated if keeps_level(pair[1], "medium")] or rated
    fast = [pair for pair in good if _rate(pair[0]) >= least_tokens_per_s]
    return next(iter(fast), max(good, key=lambda pair: _rate(pair[0]), default=None))


def _rate(entry: Looked) -> float:
    return entry.row.decode_tokens_per_s.estimate if entry.row.decode_tokens_per_s else 0.0


def _row(
    model: ModelSpec, machine: Machine, tokens: int, concurrency: int, least: float, best: Looked, quality: Quality
) -> Runnable:
    rate = best.row.decode_tokens_per_s
    is_fast = rate is None or rate.estimate >= least
    return Runnable(
        model=model.id,
        name=model.name,
        family=model.family,
        params_total=model.params_total,
        params_active=model.params_active,
        quant=best.case.scheme.id,
        engine=best.case.profile.id,
        perplexity_rise=quality.perplexity_rise,
        quality=quality.level,
        total_bytes=best.row.total_bytes,
        headroom_bytes=best.row.headroom_bytes,
        max_context_tokens=best.row.max_context_tokens,
        tokens_per_s=rate,
        runs_well=is_fast and keeps_level(quality, "medium"),
        ask=_ask(model, machine, tokens, concurrency, best),
    )


def _ask(model: ModelSpec, machine: Machine, tokens: int, concurrency: int, best: Looked) -> str:
    words = ["fitcalc", model.id]
    if machine.node:
        count = len(machine.gpus) // machine.node.cards
        words += ["--gpu", f"{machine.node.id}:{count}" if count > 1 else machine.node.id]
    elif machine.gpus:
        for device, count in device_counts(machine):
            words += ["--gpu", f"{device.id}:{count}" if count > 1 else device.id]
    elif machine.cpu:
        words += ["--cpu", machine.cpu.id]
    words += ["--quant", best.case.scheme.id, "--engine", best.case.profile.id]
    words += ["--context", str(tokens), "--concurrency", str(concurrency)]
    return shlex.join(words)
