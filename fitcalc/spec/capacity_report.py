"""What `capacity` returns, schema_version 1: the fleet that carries a load within limits, and what it costs."""

from __future__ import annotations

from typing import Any, Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.cost_report import RentOffer
from fitcalc.spec.report import SCHEMA_VERSION, Contract, Estimate


@dataclass(frozen=True, slots=True)
class CapacityLoad:
    """What arrives. Tokens are means over the requests."""

    requests_per_s: float | None
    """That the fleet is sized for; of users, what they send while they are served as the fleet does; None where there
    is no fleet."""
    users: int | None
    think_time_s: float | None
    prompt_tokens: float
    output_tokens: float
    longest_tokens: int
    """Prompt and answer of the longest request."""
    mean_requests_per_s: float | None = None
    """Of a trace, over all of it; its busiest minute is what is sized for."""
    trace_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """A time that requests see: its mean and its percentile, each with its range, in seconds."""

    mean: Estimate
    percentile: Estimate


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal replicas of one plan, and what requests see there."""

    quant: str
    engine: str
    devices_per_replica: int
    replicas: int
    replicas_low: int
    """At the fast end of the speed's range."""
    replicas_high: int
    """At its slow end."""
    devices: int
    concurrency: int
    """Requests that a replica runs at once at most; the others wait."""
    context_tokens: int
    saturation_per_s: float
    """Requests per second at which a replica's queue grows without end."""
    carried_per_s: float
    """Requests per second that a replica carries within the limits, nothing left free."""
    rate_per_s: float
    """Requests per second that reach each replica."""
    utilization: float
    """That rate as a share of saturation."""
    head_room: float
    """Share of the carried rate that is free."""
    in_flight: float
    """Mean requests in each replica, by Little's law."""
    ttft_s: Latency
    tpot_s: Latency
    request_s: float
    """Mean time from arrival to the last token."""
    usd_per_h: float | None
    usd_per_month: float | None
    command: str
    """Starts one replica."""


@dataclass(frozen=True, slots=True)
class FleetChoice:
    """Another number of devices per replica that was looked at."""

    devices_per_replica: int
    quant: str | None
    engine: str | None
    replicas: int | None
    devices: int | None
    usd_per_h: float | None
    reason: str = ""
    """Why it does not do."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A figure by the formulas beside that of the simulation."""

    name: str
    formula: float
    simulated: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """A run of one server of the fleet under its share of the load."""

    requests: int
    arrivals: Literal["random", "trace"]
    utilization: float
    """Share of time in which the engine made steps."""
    agreement: tuple[Agreement, ...]
    within_limits: bool


@dataclass(frozen=True, slots=True)
class CapacityReport(Contract):
    """The answer; `to_dict()` is the JSON contract."""

    inputs: dict[str, Any]
    verdict: Literal["fits", "does_not_fit"]
    """Does some number of replicas carry the load within the limits?"""
    load: CapacityLoad
    fleet: Fleet | None
    choices: tuple[FleetChoice, ...]
    """Numbers of devices per replica that were looked at, the chosen one among them."""
    offers: tuple[RentOffer, ...]
    """The cheapest of each provider for the whole fleet, cheapest first."""
    simulation: Simulation | None
    reason: str
    """Why there is no fleet."""
    notes: tuple[str, ...]
    fitcalc_version: str
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        """One line that tells reports apart; `to_json()` has the whole."""
        asked, fleet = self.inputs, self.fleet
        size = f"{fleet.replicas} replicas" if fleet else self.verdict
        return f"<CapacityReport {asked.get('model')}, {asked.get('devices_name')}: {size}>"
