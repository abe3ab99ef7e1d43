"""What hardware costs: the cheapest machines to rent for a card and a count, what a card costs to buy, electricity.

Prices are those of profiles/prices, each with its date and place; nothing is looked up in the network. A price that
nobody recorded is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fitcalc.catalog.names import canonical
from fitcalc.catalog.prices import Prices, load_prices
from fitcalc.errors import UnknownNameError
from fitcalc.frozen import dataclass
from fitcalc.spec.hardware import Device
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.price import ApiPrice, Electricity, Offer, Purchase

LAUNCH = "launch price"
CARDS_OF_A_HOST = 8
"""More than these are several instances, each with as many at least."""
_BOUND = ("reserved",)
"""Terms that are taken only where nothing else is offered."""
_INCOMPLETE = ("part",)
_NAMED_SO = ("instruct", "it", "chat", "base", "hf")
"""What the name of a tuned model adds to that of its shapes."""


@dataclass(frozen=True, slots=True)
class HourlyPrice:
    """What cards cost by the hour: so many instances of one offer."""

    offer: Offer
    instances: int
    """For one replica more than one only of those with eight cards and more."""
    cards: int
    """That are paid for; more than asked where no instance has just as many."""
    usd_per_h: float
    """Of all instances."""
    is_spot: bool

    @property
    def label(self) -> str:
        """'Nebius gpu-h100-sxm_8gpu-128vcpu-1600gb, eu-north1, on demand (2025-2026)'."""
        offer = self.offer
        times = f"{self.instances} × " if self.instances > 1 else ""
        terms = "spot" if self.is_spot else {"on-demand": "on demand"}.get(offer.terms, offer.terms)
        place = f", {offer.region}" if offer.region and offer.region not in ("all", offer.terms) else ""
        return f"{offer.provider_name} {times}{offer.instance}{place}, {terms} ({offer.date})"


def hourly_price(
    device: str,
    count: int = 1,
    *,
    provider: str = "",
    spot: bool = False,
    node: str = "",
    replicas: int = 1,
    prices: Prices | None = None,
) -> HourlyPrice | None:
    """The cheapest way to rent `count` cards of a device id together [USD per hour]; None where no price is known.

    provider: id or name, one of `providers`. spot: prices that can be interrupted. node: only instances that are this
    node of the catalogue. replicas: so many times `count` cards; one instance may hold several. prices: those in force
    when not given. One look-up in a table: cheap enough for searches.
    """
    ways = hourly_prices(device, count, provider=provider, spot=spot, node=node, replicas=replicas, prices=prices)
    return next(iter(ways), None)


def hourly_prices(
    device: str,
    count: int = 1,
    *,
    provider: str = "",
    spot: bool = False,
    node: str = "",
    replicas: int = 1,
    prices: Prices | None = None,
) -> tuple[HourlyPrice, ...]:
    """The cheapest way of each provider to rent `count` cards together, cheapest first; see `hourly_price`.

    Slices of a card and cards without a machine around them are left out; what is reserved days ahead is taken only
    where no provider has anything else. Of equal prices the later one comes first.
    """
    book = prices or load_prices()
    wanted = provider_id(provider, book) if provider else ""
    offers = [
        offer
        for offer in book.offers.get(device, ())
        if _price_of(offer, spot=spot) is not None
        and offer.terms not in _INCOMPLETE
        and offer.count >= 1
        and (not wanted or offer.provider == wanted)
        and (not node or offer.node == node)
    ]
    usual = [offer for offer in offers if offer.terms not in _BOUND]
    found: dict[str, HourlyPrice] = {}
    for price in sorted(_ways(usual or offers, count, replicas, spot=spot), key=_order):
        found.setdefault(price.offer.provider, price)
    return tuple(found.values())


def _order(price: HourlyPrice) -> tuple[float, int, list[int], str, str]:
    """Cheapest first, then fewest instances, the latest date, and the name."""
    latest_first = [-ord(letter) for letter in price.offer.date]
    return price.usd_per_h, price.instances, latest_first, price.offer.provider, price.offer.instance


def _ways(offers: list[Offer], count: int, replicas: int, *, spot: bool) -> Iterable[HourlyPrice]:
    """Each offer in as many instances as hold the cards; several only as nodes, not as single cards somewhere."""
    for offer in offers:
        price = _price_of(offer, spot=spot)
        if price is not None and offer.count >= min(count, CARDS_OF_A_HOST):
            shared = max(int(offer.count // count), 1)
            instances = math.ceil(replicas / shared) * math.ceil(count / offer.count)
            yield HourlyPrice(offer, instances, int(instances * offer.count), instances * price, spot)


def _price_of(offer: Offer, *, spot: bool) -> float | None:
    return offer.spot_usd_per_h if spot else offer.usd_per_h


def providers(prices: Prices | None = None) -> dict[str, str]:
    """Ids of all who rent machines -> their names."""
    book = prices or load_prices()
    return {offer.provider: offer.provider_name for offers in book.offers.values() for offer in offers}


def provider_id(name: str, prices: Prices | None = None) -> str:
    """The id of a provider by id or name; raises UnknownNameError with all there are."""
    known = providers(prices)
    key = canonical(name)
    found = next((entry for entry, said in known.items() if key in (canonical(entry), canonical(said))), None)
    if found is None:
        raise UnknownNameError("provider", name, hint=f"prices are known of {', '.join(sorted(known))}")
    return found


def purchase_of(device: Device, prices: Prices | None = None) -> Purchase | None:
    """What one card costs to buy: new, else used, else its launch price; None where none is known."""
    listed = (prices or load_prices()).purchases.get(device.id, ())
    found = min(listed, key=lambda entry: (entry.condition != "new", entry.high_usd), default=None)
    if found is not None or device.list_price_usd is None:
        return found
    usd = float(device.list_price_usd)
    return Purchase(device.id, usd, usd, LAUNCH, "at launch", f"profiles of {device.id}")


def electricity_of(prices: Prices | None = None) -> Electricity | None:
    """The price of electricity that is taken where none is given."""
    return next(iter((prices or load_prices()).electricity), None)


def apis_of(model: ModelSpec, prices: Prices | None = None) -> tuple[ApiPrice, ...]:
    """The APIs that serve a model, by its id or by the one of its shapes; without those in doubt."""
    book = prices or load_prices()
    base = model.id
    while base not in book.apis and base.rpartition("-")[2] in _NAMED_SO:
        base = base.rpartition("-")[0]
    return tuple(api for api in book.apis.get(base, ()) if not api.doubt)
