"""Intel's GPUs: cards by xpu-smi, else by clinfo; those inside of CPUs by their place on the bus."""

from __future__ import annotations

import re

from fitcalc.detection import matching
from fitcalc.detection.known import facts, is_integrated, plain_name
from fitcalc.detection.probe import Probe, json_in, whole
from fitcalc.spec.detected import FoundGpu

_DRM = "/sys/class/drm"
_VENDOR = "8086"
_SHARES = "shares the host's memory: not counted as a card"


def find(probe: Probe) -> tuple[list[FoundGpu], list[str]]:
    """The GPUs, and notes on what went wrong. No tool is run where the system shows no card of Intel's."""
    places = _slots(probe)
    if not places:
        return [], []
    inside = [
        FoundGpu(name or "Intel integrated graphics", "intel", _DRM, role="integrated", note=_SHARES)
        for slot, name in places
        if slot.split(":")[1] == "00"
    ]
    cards = [name for slot, name in places if slot.split(":")[1] != "00"]
    if not cards:
        return inside, []
    for command, rows_of in ((("xpu-smi", "discovery", "-j"), xpu_rows), (("clinfo",), opencl_rows)):
        rows = [row for row in rows_of(probe.run(command).text) if not is_integrated(row[0])]
        if rows:
            found = [_card(name, total, free, command[0]) for name, total, free in rows[: len(cards)]]
            return [*inside, *found], []
    return [*inside, *(_sized_by_name(name) for name in cards)], []


def _card(name: str, total_bytes: int, free_bytes: int | None, source: str) -> FoundGpu:
    match = matching.card(name, "intel", total_bytes)
    used = 0 if free_bytes is None else max(total_bytes - free_bytes, 0)
    return match.found(name, source, used_bytes=used)


def _sized_by_name(name: str) -> FoundGpu:
    """A card whose size no tool tells: the profile's, where its name leads to one."""
    shown = name or "Intel GPU without a name"
    device = matching.named_card(name) if name else None
    if device is None:
        hint = "its memory is not known without xpu-smi or clinfo: give it as --gpu 16GB"
        return FoundGpu(shown, "intel", _DRM, role="left_out", note=f"{shown}: {hint}")
    note = f"{shown}: neither xpu-smi nor clinfo tells its memory; taken from its profile"
    return FoundGpu(shown, "intel", _DRM, device, profiled=True, note=note)


def _slots(probe: Probe) -> list[tuple[str, str]]:
    """(PCI slot, name or '') of Intel's GPUs; the one inside of a CPU is on bus 0."""
    found = {}
    for entry in probe.entries(_DRM):
        place = f"{_DRM}/{entry}/device"
        if not re.fullmatch(r"card\d+", entry) or probe.read(f"{place}/vendor").strip() != f"0x{_VENDOR}":
            continue
        slot = re.search(r"PCI_SLOT_NAME=(\S+)", probe.read(f"{place}/uevent"))
        number = probe.read(f"{place}/device").strip().removeprefix("0x").lower()
        if slot and slot[1].count(":") == 2:
            found[slot[1]] = str(facts()["pci"].get(f"{_VENDOR}:{number}", ""))
    return sorted(found.items())


def xpu_rows(text: str) -> list[tuple[str, int, int | None]]:
    """(name, bytes, free bytes) of `xpu-smi discovery -j`; entries without a size are left out."""
    content = json_in(text)
    entries = content.get("device_list", [content]) if isinstance(content, dict) else []
    rows = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        total = whole(str(entry.get("memory_physical_size_byte", "")))
        if total:
            free = whole(str(entry.get("memory_free_size_byte", "")))
            rows.append((plain_name(str(entry.get("device_name", "Intel GPU")), _VENDOR), total, free))
    return rows


def opencl_rows(text: str) -> list[tuple[str, int, int | None]]:
    """(name, bytes, None) of Intel's GPUs in clinfo's listing; each once, although several platforms may show it."""
    rows: dict[str, tuple[str, int, int | None]] = {}
    for part in re.split(r"(?m)^\s*Device Name\s+", text)[1:]:
        name = plain_name(part.splitlines()[0], _VENDOR)
        size = re.search(r"(?m)^\s*Global memory size\s+(\d+)", part)
        maker = re.search(r"(?m)^\s*Device Vendor\s+(.*)$", part)
        kind = re.search(r"(?m)^\s*Device Type\s+(.*)$", part)
        if size and maker and "intel" in maker[1].lower() and (kind is None or "gpu" in kind[1].lower()):
            address = re.search(r"(?m)^\s*Device (?:UUID|PCI bus info \(KHR\))\s+(\S+)", part)
            rows.setdefault(f"{name} {address[1] if address else ''}", (name, int(size[1]), None))
    return list(rows.values())
