"""This machine's devices: what nvidia-smi and the operating system report, matched to profiles where one exists."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

from fitcalc import catalog
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.spec.hardware import Device, Machine
from fitcalc.units import KIB, MIB, parse_size

_NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits")
_HINT = "name one: --gpu rtx-3060, --cpu raspberry-pi-5-8gb or --gpu 24GB"


def this_machine(*, ram: str | int | None = None, gpu_used: str | int | None = None) -> Machine:
    """GPUs by nvidia-smi, else this machine's CPU and RAM; RequestError when neither can be told."""
    found = nvidia_gpus(_run(_NVIDIA_QUERY))
    ram_bytes = parse_size(ram) if isinstance(ram, str) else ram or available_ram_bytes()
    if ram_bytes is not None and ram_bytes <= 0:
        raise RequestError(f"ram {ram!r} is not a size of memory", hint="give it as 32GB or 64GiB")
    if found:
        cards = tuple(device for device, _ in found)
        used = parse_size(gpu_used) if isinstance(gpu_used, str) else gpu_used
        held = max(size for _, size in found) if used is None else used
        return Machine(cards, None, ram_bytes, held, ("devices detected with nvidia-smi",))
    if ram_bytes is None:
        raise RequestError("no device given and none detected", hint=_HINT)
    host = Device(
        "this-machine", f"this machine's CPU, {os.cpu_count()} cores", "", "cpu", "detected", ram_bytes, ram_bytes,
        cores=os.cpu_count(), usable_basis="observed", source="/proc/meminfo MemAvailable",
    )  # fmt: skip
    return Machine((), host, ram_bytes, 0, ("no GPU detected: sized for this machine's CPU and free RAM",))


def nvidia_gpus(listing: str) -> list[tuple[Device, int]]:
    """(device, bytes in use) per line of nvidia-smi's name, memory.total, memory.used in MiB."""
    cards: list[tuple[Device, int]] = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 3 or not fields[1].isdigit():
            continue
        total_bytes = int(fields[1]) * MIB
        used_bytes = int(fields[2]) * MIB if fields[2].isdigit() else 0
        cards.append((_matched(fields[0], total_bytes), used_bytes))
    return cards


def _matched(name: str, total_bytes: int) -> Device:
    """The profile of that name, its memory as reported; else a card known by its size alone."""
    try:
        device = catalog.load_device(name)
    except UnknownNameError:
        sized = catalog.device_from_size(f"{total_bytes // MIB}MiB")
        return replace(sized, name=name, vendor="nvidia")
    kept = (device.memory_bytes or 0) - (device.usable_bytes or 0)
    return replace(device, memory_bytes=total_bytes, usable_bytes=total_bytes - kept)


def available_ram_bytes(meminfo: str = "/proc/meminfo") -> int | None:
    """MemAvailable, what a process can get now; None where the system does not say."""
    try:
        with open(meminfo, encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * KIB
    except (OSError, ValueError, IndexError):
        return None
    return None


def _run(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
