"""A vLLM plan but for context and concurrency: its pipeline stages, its cards, and how it is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fitcalc.engines.paged import Layout
from fitcalc.engines.shards import Rank, RankWeights
from fitcalc.frozen import dataclass
from fitcalc.ledger import Term
from fitcalc.spec.engine import EngineProfile
from fitcalc.spec.hardware import Device, Machine
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import Scheme
from fitcalc.spec.workload import Workload


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage: what each of its ranks holds."""

    rank: Rank
    weights: RankWeights
    layout: Layout | None


@dataclass(frozen=True, slots=True)
class Card:
    """One rank's card: its stage, its budget, and the terms that depend on neither context nor concurrency."""

    device: Device
    stage: int
    requested_bytes: int
    outside_bytes: int
    reserve: Term
    terms: tuple[Term, ...]
    starts: bool
    """The card's free memory covers what vLLM claims at start."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan that is settled but for context and concurrency."""

    model: ModelSpec
    scheme: Scheme
    machine: Machine
    workload: Workload
    profile: EngineProfile
    options: Mapping[str, Any]
    stages: tuple[Stage, ...]
    cards: tuple[Card, ...]
    whole: Layout | None
    """The cache of the whole model on one rank: the logical copy."""
    requests: int
    """max_num_seqs, at least; more where the concurrency asked for is higher and the option is not given."""
    batch_tokens: int
    utilization_e4: int
    elem_bytes: int
    active_ranks: int
