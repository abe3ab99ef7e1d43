"""Prices as they were seen: offers of cloud machines, cards to buy, electricity, APIs. Each has its date and source."""

from __future__ import annotations

from typing import Literal

from fitcalc.frozen import dataclass

Terms = Literal["on-demand", "marketplace", "reserved", "part"]
"""on-demand: a listed price; marketplace: one host's asking price; reserved: days ahead, for a fixed time;
part: the cards without the machine around them."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine to rent: one instance with its cards, by the hour [USD]."""

    provider: str
    """Id, such as aws."""
    provider_name: str
    instance: str
    device: str
    """Id of its cards, or of its CPU."""
    count: float
    """Cards of one instance; less than 1 for a slice of one."""
    usd_per_h: float | None
    spot_usd_per_h: float | None
    region: str
    terms: Terms
    date: str
    """As precise as it is known: 2026-09-06, 2026-09, 2026."""
    source: str
    note: str = ""
    node: str = ""
    """Id of the node that the instance is, where the catalogue has it."""


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """What an API asks for a model, by the million tokens [USD]."""

    provider: str
    name: str
    """The provider's name of the model."""
    models: tuple[str, ...]
    """Ids of the models that it is."""
    input_usd_per_million: float
    output_usd_per_million: float
    date: str
    source: str
    note: str = ""
    doubt: str = ""
    """Why it is not compared with: retired, or a placeholder."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """What one card costs to buy [USD]."""

    device: str
    low_usd: float
    high_usd: float
    condition: str
    """new, used, or launch price."""
    date: str
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Electricity:
    """What electricity costs [USD per kWh]."""

    region: str
    usd_per_kwh: float
    date: str
    source: str


@dataclass(frozen=True, slots=True)
class PriceBook:
    """One file of prices."""

    id: str
    name: str
    offers: tuple[Offer, ...] = ()
    apis: tuple[ApiPrice, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    electricity: tuple[Electricity, ...] = ()
    notes: tuple[str, ...] = ()
