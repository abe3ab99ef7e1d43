"""What `cost` returns, schema_version 1: renting, buying and APIs side by side for one plan and load, in USD."""

from __future__ import annotations

from typing import Any

from fitcalc.frozen import dataclass
from fitcalc.spec.report import SCHEMA_VERSION, Contract, Estimate, Verdict


@dataclass(frozen=True, slots=True)
class CostLoad:
    """The work that is paid for. Tokens are those of prompts and answers together unless said otherwise."""

    prompt_tokens: int
    output_tokens: int
    """Of each request."""
    utilization: float
    """Share of the day that the machines are busy."""
    tokens_per_day: float | None
    """Over all replicas."""
    replicas: int
    tokens_per_s: Estimate | None
    """Of one replica that is always busy; None where the speed is not known."""


@dataclass(frozen=True, slots=True)
class RentOffer:
    """Machines to rent for all replicas."""

    provider: str
    provider_name: str
    instance: str
    instances: int
    cards: int
    region: str
    terms: str
    """on-demand, spot, marketplace or reserved."""
    usd_per_h: float
    date: str
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rent:
    """What the cheapest offer costs over all replicas."""

    offer: RentOffer
    usd_per_h: float
    usd_per_month: float
    usd_per_million: Estimate | None
    """Of prompt and answer tokens together, at the load's utilization."""
    usd_per_million_output: Estimate | None
    """The same money over the answers' tokens alone."""


@dataclass(frozen=True, slots=True)
class Own:
    """What buying the cards and their electricity costs over all replicas; hosts, cooling and people not counted."""

    cards: int
    usd_per_card: Estimate
    condition: str
    """new, used or launch price."""
    date: str
    source: str
    years: float
    purchase_usd_per_month: Estimate
    watt: float | None
    """Rated power of all cards; None where it is not known."""
    usd_per_kwh: float | None
    electricity_region: str
    """Empty where the price was given."""
    electricity_date: str
    electricity_source: str
    electricity_usd_per_month: float | None
    """While busy; an idle card is counted as off."""
    usd_per_month: Estimate | None
    usd_per_million: Estimate | None
    usd_per_million_output: Estimate | None


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The load from which one replica, at its share of what is rented or bought, is cheaper than an API."""

    tokens_per_day: float
    utilization: float | None
    """That load as a share of what one replica can do; above 1 it never pays. None where the speed is not known."""
    pays: bool | None
    """Can the replica carry that load?"""


@dataclass(frozen=True, slots=True)
class ApiCost:
    """An API that serves the model, at the load's mix of prompt and answer."""

    provider: str
    name: str
    input_usd_per_million: float
    output_usd_per_million: float
    usd_per_million: float
    """Of prompt and answer tokens together."""
    usd_per_month: float | None
    """At the load's tokens a day."""
    date: str
    source: str
    rent_from: BreakEven | None
    """None where no rent is known, or the plan does not fit."""
    own_from: BreakEven | None
    """None where no purchase price is known, or electricity alone costs more than the API."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class CostReport(Contract):
    """The answer; `to_dict()` is the JSON contract."""

    inputs: dict[str, Any]
    verdict: Verdict
    load: CostLoad
    offers: tuple[RentOffer, ...]
    """The cheapest of each provider, cheapest first."""
    rent: Rent | None
    own: Own | None
    apis: tuple[ApiCost, ...]
    """Cheapest first."""
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        """One line that tells reports apart; `to_json()` has the whole."""
        asked = self.inputs
        return f"<CostReport {asked.get('model')}, {asked.get('quant')}, {asked.get('devices_name')}: {self.verdict}>"
