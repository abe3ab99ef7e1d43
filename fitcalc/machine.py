"""From the words of --gpu, --cpu, --ram and --gpu-used to a Machine: counts, bare sizes, ambiguous names, RAM."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fitcalc import catalog
from fitcalc.errors import RequestError
from fitcalc.spec.hardware import Device, Machine
from fitcalc.units import parse_size

_MOST_CARDS = 4096
_COUNT_BEHIND = re.compile(r"^(?P<name>.+):(?P<count>-?\w*)$")
_COUNT_BEFORE = re.compile(r"^(?P<count>\d+)\s*[x×*]\s*(?P<name>.+)$", re.IGNORECASE)
_BARE_SIZE = re.compile(r"^\d+(?:\.\d+)?\s*[kmgt]i?b$", re.IGNORECASE)


def split_count(text: str) -> tuple[str, int]:
    """('a100-80', 2) from 'a100-80:2' or '2xa100-80'; a name alone counts once."""
    stripped = text.strip()
    match = _COUNT_BEHIND.match(stripped) or _COUNT_BEFORE.match(stripped)
    if match is None:
        return stripped, 1
    name, count = match["name"].strip(), match["count"]
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= _MOST_CARDS:
        hint = f"write the number of cards as {name}:2 (1 to {_MOST_CARDS})"
        raise RequestError(f"--gpu {text!r}: {count!r} is not a number of cards", hint=hint)
    return name, int(count)


def load_gpu(name: str) -> tuple[Device, str]:
    """A card by id, alias or bare size ('24GB'), with the note its name needs ('' for none)."""
    if _BARE_SIZE.match(name):
        return catalog.device_from_size(name), ""
    found = catalog.resolve("device", name)
    return catalog.load_device(name), found.note


def _cards(gpu: str | Sequence[str] | None) -> tuple[list[Device], list[str]]:
    cards: list[Device] = []
    notes: list[str] = []
    for text in [gpu] if isinstance(gpu, str) else list(gpu or ()):
        name, count = split_count(text)
        device, note = load_gpu(name)
        if device.kind == "cpu":
            raise RequestError(f"{device.id} is a CPU, not a GPU", hint=f"use --cpu {device.id}")
        cards += [device] * count
        notes += [note] if note else []
    return cards, notes


def ram_size(text: str) -> int:
    """Bytes of memory as it is sold: '64GB' of RAM are 64 GiB."""
    return parse_size(re.sub(r"(?i)([kmgt])b$", r"\1iB", text.strip()))


def _host(cpu: str | None, ram: str | int | None) -> tuple[Device | None, int | None, list[str]]:
    ram_bytes = ram_size(ram) if isinstance(ram, str) else ram
    if ram_bytes is not None and ram_bytes <= 0:
        raise RequestError(f"--ram {ram!r} is not a size of memory", hint="give it as 32GB or 64GiB")
    if cpu is None:
        return None, ram_bytes, []
    device, found = catalog.load_device(cpu), catalog.resolve("device", cpu)
    if device.kind != "cpu":
        raise RequestError(f"{device.id} is not a CPU", hint=f"use --gpu {device.id}")
    notes = [found.note] if found.note else []
    if ram_bytes is None:
        return device, device.usable_bytes, notes
    # RAM given by hand is the machine's total: the system's share comes off as on the profiled sizes.
    kept = (device.memory_bytes or 0) - (device.usable_bytes or 0) if device.usable_bytes else 0
    usable = max(ram_bytes - kept, 0)
    return replace(device, memory_bytes=ram_bytes, usable_bytes=usable), usable, notes


def machine_of(
    gpu: str | Sequence[str] | None = None,
    cpu: str | None = None,
    ram: str | int | None = None,
    gpu_used: str | int | None = None,
) -> Machine:
    """The machine that the options describe; raises RequestError for a combination that names no device."""
    cards, notes = _cards(gpu)
    host, ram_bytes, host_notes = _host(cpu, ram)
    used = parse_size(gpu_used) if isinstance(gpu_used, str) else gpu_used or 0
    if used < 0:
        raise RequestError(f"--gpu-used {gpu_used!r} is negative", hint="give what others hold, such as 600MiB")
    if not cards and host is not None and ram_bytes is None:
        hint = f"say how much it has: --cpu {host.id} --ram 128GB"
        raise RequestError(f"{host.id} is sold with many sizes of RAM", hint=hint)
    if not cards and host is None:
        raise RequestError("no device given", hint="add --gpu rtx-3060, --cpu raspberry-pi-5-8gb or --gpu 24GB")
    return Machine(tuple(cards), host, ram_bytes, used, (*notes, *host_notes))


def device_counts(machine: Machine) -> tuple[tuple[Device, int], ...]:
    """Distinct devices with their counts, GPUs in order, else the CPU."""
    devices = machine.gpus or ((machine.cpu,) if machine.cpu else ())
    counts: dict[str, tuple[Device, int]] = {}
    for device in devices:
        _, count = counts.get(device.id, (device, 0))
        counts[device.id] = (device, count + 1)
    return tuple(counts.values())


def machine_label(machine: Machine) -> str:
    """'2 × A100 SXM4 80GB', 'RTX 3090 + RTX 3060 12GB', 'Raspberry Pi 5 8GB'."""
    pairs = device_counts(machine)
    if not machine.gpus:
        return pairs[0][0].name
    return " + ".join(f"{count} × {device.name}" for device, count in pairs)
