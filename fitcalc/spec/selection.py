"""What `recommend`, `which` and `compare` return, schema_version 1: plans side by side, and what was left out."""

from __future__ import annotations

from typing import Any, Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.report import SCHEMA_VERSION, Contract, Estimate, QualityLevel, Verdict


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run the model as asked, with verdict fits. What it is good for is quality, speed and cost."""

    quant: str
    quant_name: str
    engine: str
    engine_name: str
    kv_dtype: str
    devices: tuple[dict[str, Any], ...]
    devices_name: str
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: bool
    nodes: int
    context_tokens: int
    concurrency: int
    verdict: Verdict
    total_bytes: int
    """On the device that is fullest."""
    headroom_bytes: int | None
    """Of the device that runs out first."""
    perplexity_rise: Estimate | None
    """Relative, against 16 bit; None where it was not measured."""
    quality: QualityLevel | None
    tokens_per_s: Estimate | None
    """Of one request while all that were asked for run."""
    time_to_first_token_s: Estimate | None
    total_tokens_per_s: Estimate | None
    usd: float | None
    """To buy the devices; the upper end of a range. Hosts are not counted."""
    usd_per_h: float | None
    """To rent them from the cheapest provider."""
    cost_usd_per_h: float | None
    """What plans are ranked by; see `inputs.cost_basis`."""
    price_note: str
    """Where the prices come from and when they were seen."""
    ask: str
    """The fitcalc command that gives the report of this very plan."""
    max_context_tokens: int | None = None
    """Of the plans in `choices`; None for the others."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Plans that were left out for one reason, with the one that came nearest."""

    reason: Literal["memory", "quality", "speed", "first_token", "price", "unsupported", "dominated"]
    term: str
    """The term of the ledger that is largest where memory is short; else empty."""
    plans: int
    example: str
    """The one that came nearest, in words."""


@dataclass(frozen=True, slots=True)
class RecommendReport(Contract):
    """What to run on what: the Pareto front over quality, speed and cost, and one plan of it recommended."""

    inputs: dict[str, Any]
    model: dict[str, Any]
    recommended: Plan | None
    """None: nothing fits within the limits."""
    command: str
    """Starts the recommended plan; empty where there is none."""
    reasons: tuple[str, ...]
    choices: tuple[Plan, ...]
    """The recommended plan first, then those of the front that stand for the rest, cheapest first."""
    front: tuple[Plan, ...]
    """All plans that no other beats in quality, speed and cost at once, cheapest first."""
    rejected: tuple[Rejection, ...]
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model with the quantization that is best for it on a machine."""

    model: str
    name: str
    family: str
    params_total: int
    params_active: int
    quant: str
    engine: str
    perplexity_rise: Estimate | None
    quality: QualityLevel | None
    total_bytes: int
    headroom_bytes: int | None
    max_context_tokens: int | None
    tokens_per_s: Estimate | None
    """Of one request alone."""
    runs_well: bool
    """At least medium quality, and as fast as the use asks for; where the speed is not known quality alone decides."""
    ask: str
    """The fitcalc command that gives the report of this plan."""


@dataclass(frozen=True, slots=True)
class WhichReport(Contract):
    """The models that run on a machine: those that run well first, of these the largest first."""

    inputs: dict[str, Any]
    models: tuple[Runnable, ...]
    looked_at: int
    """Models of that use in the catalogue."""
    too_large: int
    """Of these, models that do not fit in any quantization from 3 bits on."""
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Compared:
    """One of several answers to the same question."""

    name: str
    """As it was given."""
    model: str
    quant: str
    quant_name: str
    engine: str
    devices_name: str
    verdict: Verdict
    weights_bytes: int
    kv_cache_bytes: int
    total_bytes: int
    usable_bytes: int | None
    headroom_bytes: int | None
    max_context_tokens: int | None
    max_concurrency: int | None
    perplexity_rise: Estimate | None
    quality: QualityLevel | None
    tokens_per_s: Estimate | None
    """Of one request alone."""
    time_to_first_token_s: Estimate | None
    total_tokens_per_s: Estimate | None
    usd: float | None
    usd_per_h: float | None


@dataclass(frozen=True, slots=True)
class CompareReport(Contract):
    """Models, devices or quantizations side by side under one request."""

    inputs: dict[str, Any]
    kind: Literal["model", "device", "quantization"]
    """What differs."""
    columns: tuple[Compared, ...]
    """In the order given."""
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION
