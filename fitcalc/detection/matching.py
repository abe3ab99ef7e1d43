"""From a name and a size to a device of the catalogue; else a device with what is known, which says so."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fitcalc import catalog
from fitcalc.catalog.finding import variants
from fitcalc.detection.known import without_trailing
from fitcalc.errors import FitcalcError
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.detected import FoundGpu
from fitcalc.spec.hardware import Device
from fitcalc.units import MIB

_SAME_SIZE = 0.08
"""Totals of one card differ by less: inline ECC takes 1/16, old drivers left out their own share."""
_MIG = re.compile(r"^(?P<card>.+?) MIG (?:\d+c\.)?(?P<compute>\d)g\.(?P<size>\d+)gb", re.IGNORECASE)
_MIG_COMPUTE_SLICES = 7
_MIG_MEMORY_SLICES = 8
_RATES = (
    "fp32_flop_per_s", "fp16_flop_per_s", "fp16_fast_flop_per_s", "bf16_flop_per_s", "fp8_flop_per_s",
    "int8_op_per_s", "fp4_flop_per_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """A device, whether its profile was found, and what to tell of it."""

    device: Device
    profiled: bool
    note: str = ""
    resized: bool = False

    def found(self, name: str, source: str, *, used_bytes: int = 0) -> FoundGpu:
        """The card as it was found."""
        vendor = self.device.vendor
        return FoundGpu(
            name, vendor, source, self.device, self.profiled, self.resized, used_bytes=used_bytes, note=self.note
        )


def card(
    name: str, vendor: str, memory_bytes: int, *, reserved_bytes: int | None = None, compute_capability: str = ""
) -> Match:
    """The card of that name with the driver's total, less what no process gets (the driver's own figure if given)."""
    slice_of = _MIG.match(name)
    if slice_of:
        return _mig(slice_of, vendor, memory_bytes, compute_capability)
    found = nearest(_named("gpus", without_trailing(name)), memory_bytes)
    if found is None:
        return _unknown(name, vendor, memory_bytes, reserved_bytes, compute_capability)
    profile_bytes, kept_bytes = found.memory_bytes or memory_bytes, _kept_bytes(found)
    note, resized = "", abs(memory_bytes / profile_bytes - 1) > _SAME_SIZE
    if resized:
        size, usual = f"{memory_bytes // MIB:,} MiB", f"{profile_bytes // MIB:,}"
        note = f"{name} has {size}, its profile {usual}: memory is the driver's, rates are the profile's"
        kept_bytes = catalog.unusable_bytes(memory_bytes)
    kept_bytes = kept_bytes if reserved_bytes is None else reserved_bytes
    device = replace(found, memory_bytes=memory_bytes, usable_bytes=max(memory_bytes - kept_bytes, 0))
    return Match(device, profiled=True, note=note, resized=resized)


def named_card(name: str) -> Device | None:
    """The card that a name alone leads to."""
    return nearest(_named("gpus", without_trailing(name)), None)


def cpu(name: str, memory_bytes: int | None) -> Device | None:
    """The CPU's profile by its name, of several sizes the nearest."""
    return nearest(_named("cpus", plain_cpu_name(name)), memory_bytes) if name else None


def nearest(devices: Iterable[Device], memory_bytes: int | None) -> Device | None:
    """The device whose memory comes nearest; the first where sizes are not known."""
    found = list(devices)
    if not found or memory_bytes is None:
        return found[0] if found else None
    return min(found, key=lambda device: abs((device.memory_bytes or memory_bytes) - memory_bytes))


def devices_of(profiles: Iterable[str]) -> list[Device]:
    """The devices of these ids; one whose profile cannot be used is left out."""
    devices = []
    for profile in profiles:
        try:
            devices.append(catalog.load_device(profile))
        except FitcalcError:
            continue
    return devices


_CPU_WORDS = re.compile(
    r"\((?:R|TM)\)|\bCPU\b|\bProcessor\b|@.*$|\b\d+-Cores?\b|\b\d+th Gen\b|\b(with|w/) Radeon.*$", re.IGNORECASE
)


def plain_cpu_name(name: str) -> str:
    """'Intel Core i9-13900K' from '13th Gen Intel(R) Core(TM) i9-13900K', 'AMD EPYC 9654' from its full name."""
    return " ".join(_CPU_WORDS.sub(" ", name).split())


def _named(kind: str, name: str) -> list[Device]:
    return devices_of(variants(kind, name))


def _kept_bytes(device: Device) -> int:
    return (device.memory_bytes or 0) - (device.usable_bytes or device.memory_bytes or 0)


def _unknown(name: str, vendor: str, memory_bytes: int, reserved_bytes: int | None, compute_capability: str) -> Match:
    kept_bytes = catalog.unusable_bytes(memory_bytes) if reserved_bytes is None else reserved_bytes
    note = f"{name} has no profile: its memory is the driver's, bandwidth and compute are not known"
    sized = catalog.device_from_size(f"{memory_bytes // MIB}MiB")
    device = replace(
        sized, name=name, vendor=vendor, memory_bytes=memory_bytes, usable_bytes=max(memory_bytes - kept_bytes, 0),
        compute_capability=compute_capability, source="the driver", notes=(),
    )  # fmt: skip
    return Match(device, profiled=False, note=note)


def _mig(match: re.Match[str], vendor: str, memory_bytes: int, compute_capability: str) -> Match:
    """A MIG instance: compute in sevenths and memory in eighths of its card (NVIDIA's MIG user guide)."""
    slices = int(match["compute"])
    name = match[0]
    whole = nearest(_named("gpus", match["card"]), None)
    if whole is None or not whole.memory_bytes:
        return _unknown(name, vendor, memory_bytes, 0, compute_capability)
    eighths = max(min(round(memory_bytes / whole.memory_bytes * _MIG_MEMORY_SLICES), _MIG_MEMORY_SLICES), 1)
    share = slices / _MIG_COMPUTE_SLICES
    rates = {rate: value * share for rate in _RATES if (value := getattr(whole, rate)) is not None}
    bandwidth = whole.bandwidth_bytes_per_s
    note = f"rates of {name} are {slices}/7 of its card's compute and {eighths}/8 of its bandwidth"
    device = replace(
        whole, id=f"{whole.id}-mig-{slices}g-{memory_bytes // MIB}mib", name=f"{whole.name} MIG {slices}g",
        memory_bytes=memory_bytes, usable_bytes=memory_bytes, nvlink_bytes_per_s=None, node_cards=0,
        bandwidth_bytes_per_s=bandwidth * eighths / _MIG_MEMORY_SLICES if bandwidth else None, notes=(), **rates,
    )  # fmt: skip
    return Match(device, profiled=False, note=note)
