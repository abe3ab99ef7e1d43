"""Macs: the chip with its GPU cores, and how much of the memory macOS lets the GPU have."""

from __future__ import annotations

import re

from fitcalc.catalog.finding import variants
from fitcalc.detection import matching
from fitcalc.detection.known import facts
from fitcalc.detection.probe import Probe, json_in, whole
from fitcalc.frozen import replace
from fitcalc.spec.detected import FoundCpu, FoundGpu, FoundRam
from fitcalc.spec.hardware import Device
from fitcalc.units import GIB, MIB, parse_size

_KEYS = ("machdep.cpu.brand_string", "hw.memsize", "hw.physicalcpu", "hw.logicalcpu", "iogpu.wired_limit_mb")
_FREE_PAGES = ("free", "inactive", "speculative", "purgeable")


def find(probe: Probe) -> tuple[FoundCpu, FoundRam, list[FoundGpu], list[str]]:
    """CPU, memory, GPUs and notes on what went wrong."""
    values = system_values(probe.run(("sysctl", *_KEYS)).text)
    chip, total = values.get("machdep.cpu.brand_string", ""), whole(values.get("hw.memsize", ""))
    ram = FoundRam(total, _available(probe, total))
    cores, threads = whole(values.get("hw.physicalcpu", "")), whole(values.get("hw.logicalcpu", ""))
    cpu = FoundCpu(chip or "CPU without a name", None, cores, threads, threads)
    answer = probe.run(("system_profiler", "SPDisplaysDataType", "-json"))
    displays = _displays(answer.text)
    if chip.startswith("Apple") and total:
        gpu_cores = next((count for name, count, _ in displays if name == chip), None)
        notes = [] if gpu_cores else ["system_profiler did not tell the GPU's cores: the chip's smaller GPU is assumed"]
        wired_mib = whole(values.get("iogpu.wired_limit_mb", "")) or 0
        return cpu, ram, [_chip(chip, gpu_cores, total, wired_mib, ram)], notes
    return cpu, ram, [_card(name, size) for name, _, size in displays], []


def system_values(text: str) -> dict[str, str]:
    """{'hw.memsize': '17179869184'} from sysctl's lines."""
    pairs = (line.partition(": ") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _displays(text: str) -> list[tuple[str, int | None, int | None]]:
    """(name, GPU cores, own memory) of system_profiler's JSON."""
    content = json_in(text)
    entries = content.get("SPDisplaysDataType", []) if isinstance(content, dict) else []
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            own = re.fullmatch(r"(\d+) (MB|GB)", str(entry.get("spdisplays_vram", "")))
            size = int(own[1]) * (GIB if own[2] == "GB" else MIB) if own else None
            name = str(entry.get("sppci_model") or entry.get("_name") or "GPU without a name")
            found.append((name, whole(str(entry.get("sppci_cores", ""))), size))
    return found


def _chip(name: str, gpu_cores: int | None, total_bytes: int, wired_mib: int, ram: FoundRam) -> FoundGpu:
    """The GPU of a chip of Apple's; what the system has lent to others is what is missing of its limit."""
    found = _profile(name, gpu_cores, total_bytes)
    sized = found is not None and found.memory_bytes == total_bytes
    limit = found.usable_bytes if found is not None and sized and found.usable_bytes else _default_limit(total_bytes)
    note = ""
    if wired_mib:
        limit = min(wired_mib * MIB, total_bytes)
        note = f"macOS is set to give the GPU at most {wired_mib:,} MiB (iogpu.wired_limit_mb)"
    elif found is None:
        note = f"{name} has no profile: bandwidth and compute are not known"
    elif not sized:
        note = f"{name} with {total_bytes // GIB} GiB has no profile: rates are those of {found.id}"
    base = found or Device("apple-gpu", name, "apple", "unified", "unified", None, None, arch="Apple GPU")
    device = replace(base, memory_bytes=total_bytes, usable_bytes=limit)
    used = 0 if ram.available_bytes is None else max(limit - ram.available_bytes, 0)
    profiled = found is not None
    return FoundGpu(name, "apple", "system_profiler", device, profiled, used_bytes=used, note=note)


def _profile(name: str, gpu_cores: int | None, total_bytes: int) -> Device | None:
    """The chip's profile with these GPU cores, of several the one with the nearest memory."""
    named = matching.devices_of(variants("gpus", name))
    told = [device for device in named if re.search(r"-\d+-\d+gb$", device.id)]
    with_cores = [device for device in told if f"-{gpu_cores}-" in device.id]
    return matching.nearest(with_cores or [device for device in named if device not in told] or named, total_bytes)


def _default_limit(total_bytes: int) -> int:
    rule = facts()["apple"]
    share = rule["small_share"] if total_bytes <= parse_size(rule["small_up_to"]) else rule["large_share"]
    return int(total_bytes * share[0] // share[1])


def _card(name: str, size_bytes: int | None) -> FoundGpu:
    """A GPU of an Intel Mac."""
    if size_bytes is None:
        note = "shares the host's memory: not counted as a card"
        return FoundGpu(name, "", "system_profiler", role="integrated", note=note)
    return matching.card(name, "amd" if "radeon" in name.lower() else "", size_bytes).found(name, "system_profiler")


def _available(probe: Probe, total_bytes: int | None) -> int | None:
    """Pages that can be taken without swapping (vm_stat)."""
    text = probe.run(("vm_stat",)).text
    page = re.search(r"page size of (\d+) bytes", text)
    counts = [re.search(rf"(?m)^Pages {kind}:\s+(\d+)", text) for kind in _FREE_PAGES]
    if page is None or counts[0] is None:
        return None
    free = sum(int(count[1]) for count in counts if count) * int(page[1])
    return free if total_bytes is None else min(free, total_bytes)
