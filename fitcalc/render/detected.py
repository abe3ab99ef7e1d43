"""What was found in this computer: as text for people, and as JSON of a stable form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fitcalc.render.style import Style, plain
from fitcalc.render.wrapping import wrap
from fitcalc.spec.detected import Detection, FoundGpu, FoundRam, Measured
from fitcalc.spec.hardware import Device
from fitcalc.units import GIB, MIB, format_gib

SCHEMA_VERSION = 1
_SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
_UNITS = {"read": "GB/s", "copy": "GB/s", "multiply": "GFLOP/s"}
_LABEL_COLUMNS = 11


def detected_text(found: Detection, measured: Sequence[Measured], style: Style) -> str:
    """The computer, its devices, what was measured, and the options that describe it elsewhere."""
    system = _SYSTEMS.get(found.platform, found.platform)
    place = f"{system}{f' in {found.surroundings}' if found.surroundings == 'WSL' else ''}"
    place += " in a container" if found.surroundings == "container" else ""
    rows = [(label, words) for label, words in _gpu_rows(found.gpus)]
    rows += [("CPU", _cpu_words(found)), ("RAM", _ram_words(found.ram))]
    rows += [("measured" if index == 0 else "", measured_words(one)) for index, one in enumerate(measured)]
    options = options_of(found)
    rows += [("", ""), ("as options", options)] if options else []
    title = wrap(f"{found.board or 'This machine'}: {place}", style.width)
    lines = [style.paint(line, "bold") for line in title]
    lines += ["", *(line for label, words in rows for line in _row(label, words, style))]
    text = "\n".join(line.rstrip() for line in lines)
    return text if style.blocks else plain(text)


def detected_json(found: Detection, measured: Sequence[Measured], version: str) -> str:
    """schema_version 1: fields are only added; sizes are bytes, rates per second, null what is not known."""
    machine = found.machine
    content = {
        "schema_version": SCHEMA_VERSION,
        "fitcalc_version": version,
        "system": {"platform": found.platform, "board": found.board or None, "inside": found.surroundings or None},
        "gpus": [_gpu_json(gpu) for gpu in found.gpus],
        "cpu": {
            "name": found.cpu.name,
            "profile": found.cpu.device.id if found.cpu.device else None,
            "cores": found.cpu.cores,
            "threads": found.cpu.threads,
            "usable_threads": found.cpu.usable_threads,
            "sockets": found.cpu.sockets,
        },
        "ram": {
            "total_bytes": found.ram.total_bytes,
            "available_bytes": found.ram.available_bytes,
            "limit_bytes": found.ram.limit_bytes,
        },
        "machine": {
            "gpus": [card.id for card in machine.gpus],
            "cpu": machine.cpu.id if machine.cpu else None,
            "ram_bytes": machine.ram_bytes,
            "gpu_used_bytes": machine.gpu_used_bytes,
            "options": options_of(found) or None,
        },
        "measured": [_measured_json(one) for one in measured],
        "notes": list(found.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _gpu_json(gpu: FoundGpu) -> dict[str, Any]:
    device = gpu.device
    return {
        "name": gpu.name,
        "vendor": gpu.vendor,
        "role": gpu.role,
        "profile": device.id if device and gpu.profiled else None,
        "kind": device.kind if device else None,
        "memory_bytes": device.memory_bytes if device else None,
        "usable_bytes": device.usable_bytes if device else None,
        "used_bytes": gpu.used_bytes,
        "compute_capability": (device.compute_capability or None) if device else None,
        "bandwidth_bytes_per_s": device.bandwidth_bytes_per_s if device else None,
        "source": gpu.source,
        "note": gpu.note or None,
    }


def _measured_json(one: Measured) -> dict[str, Any]:
    return {
        "device": one.device,
        "kind": one.kind,
        "per_s": one.per_s,
        "low_per_s": one.low_per_s,
        "high_per_s": one.high_per_s,
        "passes": one.passes,
        "threads": one.threads,
        "what": one.what,
    }


def options_of(found: Detection) -> str:
    """'--gpu rtx-3090:2 --gpu-used 430MiB --ram 61GiB': the machine in words for others; '' where there are none."""
    machine = found.machine
    if not machine.gpus:
        profile = found.cpu.device
        if profile is None:
            return ""
        # On profiles that come with a size, --ram is the total, of which the system's own share is taken.
        total = found.ram.total_bytes if found.ram.limit_bytes is None else found.ram.limit_bytes
        return " ".join([f"--cpu {profile.id}", *_ram_option(total if profile.memory_bytes else machine.ram_bytes)])
    counts: dict[str, int] = {}
    for card in machine.gpus:
        counts[_option(card, found)] = counts.get(_option(card, found), 0) + 1
    words = [f"--gpu {name}{f':{count}' if count > 1 else ''}" for name, count in counts.items()]
    words += [f"--gpu-used {machine.gpu_used_bytes // MIB}MiB"] if machine.gpu_used_bytes >= MIB else []
    return " ".join([*words, *_ram_option(machine.ram_bytes)])


def _ram_option(size_bytes: int | None) -> list[str]:
    """'--ram 61GiB', rounded down; to tenths where little is there."""
    if not size_bytes or size_bytes < GIB // 10:
        return []
    return [f"--ram {size_bytes // GIB}GiB" if size_bytes >= 16 * GIB else f"--ram {size_bytes * 10 // GIB / 10}GiB"]


def _option(card: Device, found: Detection) -> str:
    """The id where a profile of that size is behind it, else the size."""
    gpu = next(gpu for gpu in found.gpus if gpu.device == card)
    return card.id if gpu.profiled and not gpu.resized else f"{(card.memory_bytes or 0) // MIB}MiB"


def _gpu_rows(gpus: Sequence[FoundGpu]) -> list[tuple[str, str]]:
    """Equal cards in one row; what is not planned with says so."""
    rows: list[tuple[str, str, int]] = []
    for gpu in gpus:
        name, words = gpu.name, _gpu_words(gpu)
        if rows and rows[-1][:2] == (name, words):
            rows[-1] = (name, words, rows[-1][2] + 1)
        else:
            rows.append((name, words, 1))
    if not rows:
        return [("GPU", "none found")]
    return [("GPU", f"{f'{count} × ' if count > 1 else ''}{name}: {words}") for name, words, count in rows]


def _gpu_words(gpu: FoundGpu) -> str:
    device = gpu.device
    if device is None:
        return "integrated, shares the RAM: not counted" if gpu.role == "integrated" else "left out"
    parts = ["no profile" if device.segment == "custom" and not gpu.profiled else device.id]
    if device.memory_bytes:
        usable = (device.usable_bytes or device.memory_bytes) / GIB
        parts.append(f"{usable:,.2f} of {device.memory_bytes / GIB:,.2f} GiB usable")
    parts += [f"{format_gib(gpu.used_bytes)} in use by others"] if gpu.used_bytes >= MIB else []
    return ", ".join([*parts, *(["left out"] if gpu.role == "left_out" else [])])


def _cpu_words(found: Detection) -> str:
    cpu = found.cpu
    counts = [f"{cpu.cores} cores"] if cpu.cores else []
    counts += [f"{cpu.threads} threads"] if cpu.threads and cpu.threads != cpu.cores else []
    counts += [f"{cpu.sockets} sockets"] if cpu.sockets > 1 else []
    shared = bool(found.machine.gpus) and found.machine.gpus[0].kind == "unified"
    profile = cpu.device.id if cpu.device else "" if shared else "no profile"
    return f"{cpu.name}: {', '.join(word for word in (profile, *counts) if word)}"


def _ram_words(ram: FoundRam) -> str:
    if ram.total_bytes is None:
        return "not known"
    free = "" if ram.available_bytes is None else f"{ram.available_bytes / GIB:,.2f} GiB free of "
    limit = "" if ram.limit_bytes is None else f", limited to {ram.limit_bytes / GIB:,.2f}"
    return f"{free}{ram.total_bytes / GIB:,.2f} GiB{limit}"


def measured_words(one: Measured) -> str:
    """'18.2 GB/s (17.9–18.4) reading memory with 2 threads'."""
    digits = 0 if one.per_s >= 1e11 else 1
    low, middle, high = (f"{rate / 1e9:,.{digits}f}" for rate in (one.low_per_s, one.per_s, one.high_per_s))
    return f"{middle} {_UNITS[one.kind]} ({low}–{high} in {one.passes} passes) {one.what}"


def _row(label: str, words: str, style: Style) -> list[str]:
    """A label and its words, folded into lines below each other."""
    room = max(style.width - _LABEL_COLUMNS - 2, 20)
    lines = wrap(words, room) or [""]
    first = f"  {style.paint(label.ljust(_LABEL_COLUMNS), 'dim')}{lines[0]}"
    return [first, *(" " * (_LABEL_COLUMNS + 2) + line for line in lines[1:])]
