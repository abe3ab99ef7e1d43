"""The JSON contract, schema_version 1, as dataclasses: what `fit` returns and every view renders."""

from __future__ import annotations

import json
from typing import Any, Literal

from fitcalc.frozen import asdict, dataclass
from fitcalc.ledger import Term

SCHEMA_VERSION = 1
Verdict = Literal["fits", "tight", "does_not_fit", "unknown"]


class Contract:
    """What every report has: its JSON form, which is held to a published schema. Sizes are integers of bytes."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract as plain dicts, lists, ints, floats and strings."""
        plain: dict[str, Any] = json.loads(self.to_json(indent=None))
        return plain

    def to_json(self, *, indent: int | None = 2) -> str:
        """The JSON contract as text."""
        report: Any = self
        return json.dumps(asdict(report), indent=indent, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class LayerShare:
    """What of a model lies on one device where an engine places whole layers."""

    repeating: int
    """Repeating layers, with their cache."""
    experts: int | None
    """Layers whose routed experts are here; None for a model without experts."""
    output: bool
    """The output matrix is here."""


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The ledger of one device (host RAM is one too). Headroom = usable − total, the reserve among the terms."""

    id: str
    name: str
    rank: int
    capacity_bytes: int | None
    usable_bytes: int | None
    total_bytes: int
    low_bytes: int
    high_bytes: int
    headroom_bytes: int | None
    decisive: bool
    """False for host memory whose size was not given and that carries nothing but engine overhead."""
    terms: tuple[Term, ...]
    layers: LayerShare | None = None
    """The layers on this device; None where an engine divides every layer."""


@dataclass(frozen=True, slots=True)
class KvCache:
    """One logical copy of the cache, as the engine allocates it for the request."""

    bytes_per_token: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest values that still get verdict fits or tight; None where they cannot be told."""

    max_context_tokens: int | None
    max_concurrency: int | None
    kv_cache_tokens: int | None
    max_resolution_px: int | None = None
    """Side of the largest square picture, for image generators."""


@dataclass(frozen=True, slots=True)
class KvPool:
    """What a paged engine has for keys and values when all else is paid."""

    bytes_per_card: int
    """On the card that has least."""
    tokens: int
    """Over all data parallel ranks."""
    block_tokens: int
    tokens_per_gib: int
    """What one GiB more on every card would add."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SpeedPart:
    """What a part of a step's or of a prompt's time is spent on."""

    name: str
    """bandwidth, compute, cache, unpacking, launches, network or host."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates; None = not modelled or not known. Decode and prefill are of one request alone; the others are of the
    requests asked for, each with a prompt of `prompt_tokens` and an answer of `generated_tokens`."""

    decode_tokens_per_s: Estimate | None = None
    prefill_tokens_per_s: Estimate | None = None
    time_to_first_token_s: Estimate | None = None
    total_tokens_per_s: Estimate | None = None
    time_per_token_s: Estimate | None = None
    """Between the tokens of one request while all others run too."""
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    bound_by: str | None = None
    """The part that takes most of a decode step."""
    decode_parts: tuple[SpeedPart, ...] = ()
    prefill_parts: tuple[SpeedPart, ...] = ()
    note: str = ""
    """What a reader has to know of the estimate, or why there is none."""


QualityLevel = Literal["lossless", "high", "medium", "low"]


QualityBasis = Literal["exact", "derived", "converted", "unknown"]


@dataclass(frozen=True, slots=True)
class Quality:
    """What the quantization is expected to cost against the model in 16 bit."""

    perplexity_rise: Estimate | None
    """Relative: 0.03 is 3 % more; nine in ten are expected in the range. None: not known, `note` says why."""
    level: QualityLevel | None
    """By the expected rise: lossless up to 0.1 %, high 1 %, medium 6 %, low beyond."""
    basis: QualityBasis
    """exact: nothing is lost; derived: from measured perplexities; converted: from measured task accuracies."""
    bits_per_weight: float | None
    """Of the quantized matrices in the layers, scales included; None where none is below 16 bit."""
    generation: str = ""
    """The models whose measurements the estimate follows."""
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another plan that was looked at: what it is, whether it fits, and what changes against the request."""

    summary: str
    model: str
    quant: str
    engine: str
    devices: tuple[dict[str, Any], ...]
    tensor_parallel: int
    context_tokens: int
    concurrency: int
    kv_dtype: str
    verdict: Verdict
    changes: tuple[str, ...]
    data_parallel: int = 1
    expert_parallel: bool = False
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to run and how to start it."""

    summary: str
    quant: str
    engine: str
    devices: tuple[dict[str, Any], ...]
    tensor_parallel: int
    pipeline_parallel: int
    context_tokens: int
    concurrency: int
    kv_dtype: str
    verdict: Verdict
    command: str
    reasons: tuple[str, ...]
    alternatives: tuple[Alternative, ...]
    data_parallel: int = 1
    expert_parallel: bool = False
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class QuantChoice:
    """One row of the table of quantizations shown when none was asked for."""

    quant: str
    engine: str
    weights_bytes: int
    total_bytes: int
    headroom_bytes: int | None
    max_context_tokens: int | None
    verdict: Verdict
    decode_tokens_per_s: Estimate | None = None
    """Of one request alone; None where it does not fit or is not modelled."""


@dataclass(frozen=True, slots=True)
class FitReport(Contract):
    """The answer to one question; `to_dict()` is the JSON contract."""

    inputs: dict[str, Any]
    model: dict[str, Any]
    verdict: Verdict
    weights_bytes: int
    checkpoint_bytes: int
    kv_cache: KvCache
    devices: tuple[DeviceReport, ...]
    limits: Limits
    speed: Speed
    recommendation: Recommendation | None
    choices: tuple[QuantChoice, ...]
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION
    pool: KvPool | None = None
    """Of engines that fill the card with a pool; None for the others."""
    quality: Quality | None = None

    def __repr__(self) -> str:
        """One line that tells reports apart; `to_json()` has the whole."""
        asked = self.inputs
        plan = f"{asked.get('model')}, {asked.get('quant')}, {asked.get('engine')}, {asked.get('devices_name')}"
        return f"<FitReport {plan}: {self.verdict}>"
