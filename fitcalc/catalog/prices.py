"""Price files read together: packaged ones from one generated file (profiles/prices.json), users' own as they are.

Later folders win by id, as for every kind. A file that is named beside them (`--prices FILE`) wins for every card,
model and purchase that it has a price for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml, stems, user_folders
from fitcalc.catalog.finding import key_of
from fitcalc.catalog.generated import indexed
from fitcalc.errors import ProfileError
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.price import ApiPrice, Electricity, Offer, PriceBook, Purchase

PACKED = "prices.json"
_PARTS: dict[str, type[Any]] = {
    "offers": Offer,
    "apis": ApiPrice,
    "purchases": Purchase,
    "electricity": Electricity,
}


@dataclass(frozen=True, slots=True)
class Prices:
    """All prices in force, by what they are looked up by."""

    offers: Mapping[str, tuple[Offer, ...]]
    """Device id -> machines with it."""
    apis: Mapping[str, tuple[ApiPrice, ...]]
    """Model id -> APIs that serve it."""
    purchases: Mapping[str, tuple[Purchase, ...]]
    """Device id -> what one costs."""
    electricity: tuple[Electricity, ...]
    """The first is the default."""
    notes: tuple[str, ...] = ()


def load_prices(files: Sequence[str] = ()) -> Prices:
    """The prices in force: packaged, those of the user's folders, and of `files`, which win over both.

    Raises ProfileError for a file that has not the form of profiles/schema/price.json.
    """
    return _loaded(tuple(files), user_folders())


@lru_cache(maxsize=8)
def _loaded(files: tuple[str, ...], folders: tuple[str, ...]) -> Prices:
    books = dict(_packaged())
    for folder in folders:
        place = os.path.join(folder, "prices")
        books |= {stem: book_from_file(os.path.join(place, f"{stem}.toml")) for stem in sorted(stems(place))}
    prices = _joined(books.values())
    for path in files:
        prices = _over(_joined([book_from_file(path)]), prices)
    return prices


def book_from_file(path: str) -> PriceBook:
    """The prices of one file, held to their form."""
    from fitcalc.catalog.price_forms import price_book_of
    from fitcalc.catalog.validation import hold_to_form

    content = read_toml(path)
    if os.path.dirname(os.path.dirname(path)) != packaged_folder():
        hold_to_form("prices", content, path)
    try:
        book = price_book_of(content, os.path.basename(path).removesuffix(".toml"))
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}", hint=error.hint) from error
    return replace(book, offers=tuple(replace(offer, node=_node_of(offer)) for offer in book.offers))


def _node_of(offer: Offer) -> str:
    """The node of the catalogue that an instance is, if any."""
    found: str = indexed("nodes").get(key_of("nodes", offer.instance), "")
    return found


def _joined(books: Iterable[PriceBook]) -> Prices:
    offers: dict[str, list[Offer]] = {}
    apis: dict[str, list[ApiPrice]] = {}
    purchases: dict[str, list[Purchase]] = {}
    electricity: list[Electricity] = []
    notes: list[str] = []
    for book in books:
        for offer in book.offers:
            offers.setdefault(offer.device, []).append(offer)
        for api in book.apis:
            for name in api.models:
                apis.setdefault(name, []).append(api)
        for purchase in book.purchases:
            purchases.setdefault(purchase.device, []).append(purchase)
        electricity += book.electricity
        notes += book.notes
    return Prices(_frozen(offers), _frozen(apis), _frozen(purchases), tuple(electricity), tuple(notes))


def _frozen(lists: Mapping[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(values) for key, values in lists.items()}


def _over(own: Prices, others: Prices) -> Prices:
    """Own prices in place of others' for the same card or model."""
    return Prices(
        {**others.offers, **own.offers},
        {**others.apis, **own.apis},
        {**others.purchases, **own.purchases},
        own.electricity or others.electricity,
        (*others.notes, *own.notes),
    )


@lru_cache(maxsize=1)
def _packaged() -> dict[str, PriceBook]:
    """The packaged books by id, from the generated file."""
    path = os.path.join(packaged_folder(), PACKED)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: {error}", hint="the installation is incomplete; install fitcalc again") from error
    return {name: _unpacked(name, book, content["texts"]) for name, book in content["books"].items()}


def _unpacked(name: str, book: Mapping[str, Any], texts: Sequence[str]) -> PriceBook:
    parts = {part: tuple(_row(kind, row, texts) for row in book.get(part, ())) for part, kind in _PARTS.items()}
    return PriceBook(name, book["name"], **parts, notes=tuple(book.get("notes", ())))


def _row(kind: type[Any], row: Sequence[Any], texts: Sequence[str]) -> Any:
    names = _names(kind)
    values = [texts[value] if name in _SHARED else value for name, value in zip(names, row, strict=True)]
    return kind(*(tuple(value) if isinstance(value, list) else value for value in values))


_SHARED = ("source", "note", "provider_name", "region")
"""Texts that rows have in common: written once."""


def _names(kind: type[Any]) -> list[str]:
    return [entry.name for entry in fields(kind)]


def packed(books: Iterable[PriceBook]) -> str:
    """The text of profiles/prices.json."""
    texts: dict[str, int] = {}

    def row(entry: Any) -> list[Any]:
        return [
            texts.setdefault(getattr(entry, name), len(texts)) if name in _SHARED else getattr(entry, name)
            for name in _names(type(entry))
        ]

    content = {
        book.id: {"name": book.name, "notes": book.notes}
        | {part: [row(entry) for entry in getattr(book, part)] for part in _PARTS}
        for book in books
    }
    slim = {name: {key: value for key, value in book.items() if value} for name, book in content.items()}
    return json.dumps({"books": slim, "texts": list(texts)}, ensure_ascii=False, separators=(",", ":"), indent=0) + "\n"
