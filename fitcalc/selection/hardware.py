"""The machines a recommendation may choose from, each with what it costs: named ones, a user's list, the catalogue."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from fitcalc import catalog, prices
from fitcalc.catalog.files import read_toml
from fitcalc.errors import FitcalcError, ProfileError, RequestError
from fitcalc.frozen import dataclass, replace
from fitcalc.machine import cards_per_node, load_gpu, machine_label, machine_of, split_count
from fitcalc.selection.rules import rules
from fitcalc.spec.hardware import Device, Machine

_HOURS_PER_YEAR = 24 * 365
CostBasis = Literal["cheaper", "purchase", "rent"]
"""cheaper: the lower of renting and a purchase spread over years; purchase and rent: that alone."""
_LIST_KEYS = {"id", "count", "usd", "usd_per_h"}


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine with its prices [USD]; None where none is known."""

    machine: Machine
    words: tuple[str, ...]
    """The options of fitcalc that name it: ('--gpu', 'h100-sxm:8')."""
    usd: float | None
    usd_per_h: float | None
    price_note: str

    @property
    def label(self) -> str:
        """'2 × RTX 3090'."""
        return machine_label(self.machine)

    def cost_usd_per_h(self, basis: CostBasis) -> float | None:
        """What plans are ranked by; None where it is not known."""
        owned = None if self.usd is None else self.usd / (rules()["years"] * _HOURS_PER_YEAR)
        ways = {"cheaper": (self.usd_per_h, owned), "purchase": (owned,), "rent": (self.usd_per_h,)}[basis]
        return min((way for way in ways if way is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Own:
    """Prices of a user's own list, which win over those of the catalogue; per card."""

    usd: float | None = None
    usd_per_h: float | None = None


def named_hardware(
    gpus: Sequence[str], cpus: Sequence[str], ram: str | int | None, gpu_used: str | int | None
) -> list[Hardware]:
    """Each named GPU ('h100-sxm:8' means up to eight of them) and CPU as machines of their own."""
    found = [one for text in gpus for one in _up_to(*split_count(text), gpu_used, _Own())]
    for cpu in cpus:
        machine = machine_of(None, cpu, ram)
        device = machine.cpu
        assert device is not None
        size = () if ram is None else ("--ram", ram if isinstance(ram, str) else f"{ram}B")
        found.append(_priced(machine, device, 1, ("--cpu", device.id, *size), _Own()))
    return _distinct(found)


def listed_hardware(path: str | os.PathLike[str], gpu_used: str | int | None) -> list[Hardware]:
    """The machines of a TOML file: [[devices]] with id, and if given count (up to), usd and usd_per_h of one card.

    Raises ProfileError for a file that has another form, and what `load_gpu` raises.
    """
    place = os.fspath(path)
    entries = read_toml(place).get("devices")
    hint = 'write [[devices]] with id = "rtx-3090" and, if you like, count, usd and usd_per_h'
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ProfileError(f"{place}: no list of devices", hint=hint)
    found: list[Hardware] = []
    for number, entry in enumerate(entries, 1):
        name, count = entry.get("id"), entry.get("count", 1)
        said = f"{place}: device {number}"
        if set(entry) - _LIST_KEYS:
            raise ProfileError(f"{said} has {', '.join(sorted(set(entry) - _LIST_KEYS))}", hint=hint)
        if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ProfileError(f"{said} needs an id as text and a count as a whole number", hint=hint)
        own = _Own(*(_price(entry.get(key), f"{said}: {key}", hint) for key in ("usd", "usd_per_h")))
        try:
            found += _listed(name, count, gpu_used, own)
        except FitcalcError as error:
            raise ProfileError(f"{said}: {error}", hint=error.hint) from error
    return _distinct(found)


def _listed(name: str, count: int, gpu_used: str | int | None, own: _Own) -> Iterable[Hardware]:
    if catalog.resolve("machine", name).kind == "cpus":
        machine = machine_of(None, name)
        assert machine.cpu is not None
        return [_priced(machine, machine.cpu, 1, ("--cpu", machine.cpu.id), own)]
    return _up_to(name, count, gpu_used, own)


def _price(value: Any, said: str, hint: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ProfileError(f"{said} is not a price in USD", hint=hint)
    return float(value)


def _up_to(name: str, most: int, gpu_used: str | int | None, own: _Own) -> Iterator[Hardware]:
    """1, 2, 4 … cards up to the number given, and that number itself."""
    doubled = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    device = load_gpu(name)[0]
    for count in (*doubled, most):
        if count < most and not _can_be_built(device, count):
            continue
        machine = machine_of([f"{name}:{count}"], gpu_used=gpu_used)
        used = ("--gpu-used", str(gpu_used)) if isinstance(gpu_used, str) else ()
        used = ("--gpu-used", f"{gpu_used}B") if isinstance(gpu_used, int) and gpu_used else used
        # A bare size stays as it was written; everything else goes by its id.
        written = name if device.id.startswith("custom-") else device.id
        words = ("--gpu", f"{written}:{count}" if count > 1 else written, *used)
        yield _priced(machine, machine.gpus[0], len(machine.gpus), words, own)


def _can_be_built(device: Any, count: int) -> bool:
    if not isinstance(device, Device):
        return True
    try:
        cards_per_node(device, count)
    except RequestError:
        return False
    return True


def catalogue_hardware() -> list[Hardware]:
    """Every GPU of the catalogue in one to eight cards, every CPU and board, where an engine and sizes are known."""
    found: list[Hardware] = []
    for name in catalog.ids("gpus"):
        device = catalog.load_device(name)
        if device.kind == "accelerator" or not device.usable_bytes:
            continue
        for count in rules()["counts"] if device.kind == "gpu" and device.segment != "laptop" else (1,):
            machine = Machine((device,) * count, node_cards=_node_cards(device, count))
            words = ("--gpu", f"{name}:{count}" if count > 1 else name)
            found.append(_priced(machine, device, count, words, _Own()))
    for name in catalog.ids("cpus"):
        device = catalog.load_device(name)
        if device.usable_bytes:
            machine = Machine((), device, device.usable_bytes)
            found.append(_priced(machine, device, 1, ("--cpu", name), _Own()))
    return found


def _node_cards(device: Device, count: int) -> int:
    return cards_per_node(device, count) if device.node_cards else 0


def _priced(machine: Machine, device: Device, count: int, words: tuple[str, ...], own: _Own) -> Hardware:
    """The machine with the user's own prices, else those of the catalogue."""
    if own.usd is not None or own.usd_per_h is not None:
        each = [None if one is None else one * count for one in (own.usd, own.usd_per_h)]
        return Hardware(machine, words, each[0], each[1], "own prices")
    node = machine.node.id if machine.node else ""
    rent = prices.hourly_price(device.id, count, node=node) or (prices.hourly_price(device.id, count) if node else None)
    bought = prices.purchase_of(device)
    notes = [f"rent: {rent.label}"] if rent else []
    if bought:
        notes.append(f"purchase: {bought.condition}" + ("" if bought.date == "at launch" else f", {bought.date}"))
    return Hardware(
        machine,
        words,
        None if bought is None else count * bought.high_usd,
        None if rent is None else rent.usd_per_h,
        "; ".join(notes),
    )


def _distinct(found: list[Hardware]) -> list[Hardware]:
    """Each machine once: the first of those that are named alike."""
    seen: dict[tuple[str, ...], Hardware] = {}
    for one in found:
        seen.setdefault(one.words, replace(one))
    return list(seen.values())
