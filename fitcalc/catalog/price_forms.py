"""The form of profiles/prices/*.toml, and from its content to a PriceBook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fitcalc.catalog.strict import STRICT
from fitcalc.errors import ProfileError
from fitcalc.spec.price import ApiPrice, Electricity, Offer, PriceBook, Purchase, Terms


@dataclass(eq=False, repr=False)
class PriceSourceForm:
    """[sources.<key>]: where prices were read, and when."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    date: str
    """As precise as it is known: 2026-09-06, 2026-09 or 2026."""
    text: str


@dataclass(eq=False, repr=False)
class OfferForm:
    """One machine to rent; at least one of the two prices."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    instance: str
    device: str
    """Id of its cards."""
    count: int | float
    """Cards of one instance; less than 1 for a slice of one."""
    source: str
    """Key of [sources]."""
    usd_per_h: int | float | None = None
    """Of the whole instance."""
    spot_usd_per_h: int | float | None = None
    region: str = ""
    terms: Terms = "on-demand"
    note: str = ""


@dataclass(eq=False, repr=False)
class ApiForm:
    """One model behind an API."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    provider: str
    name: str
    """The provider's name of the model."""
    models: tuple[str, ...]
    """Ids of the models that it is."""
    input_usd_per_million: int | float
    output_usd_per_million: int | float
    source: str
    note: str = ""
    doubt: str = ""
    """Why it is not to be compared with: retired, or a placeholder."""


@dataclass(eq=False, repr=False)
class PurchaseForm:
    """One card to buy."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    device: str
    usd: tuple[int | float, int | float]
    """From, to."""
    source: str
    condition: Literal["new", "used"] = "new"
    note: str = ""


@dataclass(eq=False, repr=False)
class ElectricityForm:
    """The price of electricity in one place."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    region: str
    usd_per_kwh: int | float
    source: str


@dataclass(eq=False, repr=False)
class PriceForm:
    """profiles/prices/<id>.toml: prices in USD, every one with the date and place it was read."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    name: str
    sources: dict[str, PriceSourceForm]
    provider: str = ""
    """Id of the provider of all offers."""
    offers: tuple[OfferForm, ...] = ()
    apis: tuple[ApiForm, ...] = ()
    purchases: tuple[PurchaseForm, ...] = ()
    electricity: tuple[ElectricityForm, ...] = ()
    notes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ambiguous: dict[str, str] = field(default_factory=dict)


def price_book_of(content: Mapping[str, Any], profile_id: str) -> PriceBook:
    """The PriceBook of a file; raises ProfileError for a source that is not listed, or a price that is none."""
    sources = content["sources"]

    def sourced(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["source"] not in sources:
            raise ProfileError(f"source {row['source']!r} is not listed", hint=f"add [sources.{row['source']}]")
        wrong = next((key for key, value in row.items() if "usd" in key and _is_no_price(value)), "")
        if wrong:
            raise ProfileError(
                f"{wrong}: {row[wrong]!r} is no price", hint="give USD above zero; leave out the unknown"
            )
        return {**row, "date": sources[row["source"]]["date"], "source": sources[row["source"]]["text"]}

    provider, name = content.get("provider", profile_id), content["name"]
    return PriceBook(
        id=profile_id,
        name=name,
        offers=tuple(_offer(sourced(row), provider, name) for row in content.get("offers", ())),
        apis=tuple(ApiPrice(**{**sourced(row), "models": tuple(row["models"])}) for row in content.get("apis", ())),
        purchases=tuple(_purchase(sourced(row)) for row in content.get("purchases", ())),
        electricity=tuple(Electricity(**sourced(row)) for row in content.get("electricity", ())),
        notes=tuple(content.get("notes", ())),
    )


def _is_no_price(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return not all(number > 0 for number in values) or list(values) != sorted(values)


def _offer(row: dict[str, Any], provider: str, name: str) -> Offer:
    if row["count"] <= 0 or ("usd_per_h" not in row and "spot_usd_per_h" not in row):
        hint = "give count, and usd_per_h or spot_usd_per_h"
        raise ProfileError(f"offer {row['instance']!r} has no cards or no price", hint=hint)
    blank = {"usd_per_h": None, "spot_usd_per_h": None, "region": "", "terms": "on-demand"}
    return Offer(**{**blank, **row, "provider": provider, "provider_name": name})


def _purchase(row: dict[str, Any]) -> Purchase:
    low, high = row.pop("usd")
    return Purchase(**{"condition": "new", **row, "low_usd": low, "high_usd": high})
