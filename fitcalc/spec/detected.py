"""What was found in a computer: its GPUs, its CPU, its memory and limits, and the machine to plan for."""

from __future__ import annotations

from typing import Literal

from fitcalc.frozen import dataclass
from fitcalc.spec.hardware import Device, Machine

Role = Literal["card", "integrated", "left_out"]
"""card: planned with; integrated: shares the host's memory; left_out: found but not planned with, as its note says."""


@dataclass(frozen=True, slots=True)
class FoundGpu:
    """A GPU as a driver or the system names it, and the device it was taken for."""

    name: str
    vendor: str
    source: str
    """The program or file that it was read from."""
    device: Device | None = None
    """None where no size of memory is known, and for GPUs inside of CPUs."""
    profiled: bool = False
    """Is the device one of the catalogue's?"""
    resized: bool = False
    """Has it another size of memory than its profile?"""
    role: Role = "card"
    used_bytes: int = 0
    """Held by others now."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class FoundCpu:
    """A CPU as the system names it."""

    name: str
    device: Device | None = None
    """The profile that it was taken for."""
    cores: int | None = None
    """Physical ones, over all sockets."""
    threads: int | None = None
    usable_threads: int | None = None
    """Those that this process may run on."""
    sockets: int = 1


@dataclass(frozen=True, slots=True)
class FoundRam:
    """Host memory; None where the system does not say."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    """What a process can get now, within the limit."""
    limit_bytes: int | None = None
    """The container's or job's, where it is below the total."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A timed rate: the median of its passes and their range."""

    what: str
    """What was timed, and how."""
    device: str
    """'cpu', or the GPU's name."""
    kind: Literal["read", "copy", "multiply"]
    per_s: float
    """Bytes read, bytes read and written, or floating point operations, per second."""
    low_per_s: float
    high_per_s: float
    passes: int
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Detection:
    """One look at a computer."""

    platform: str
    """linux, darwin, win32."""
    machine: Machine
    """What a plan without a named device is made for."""
    gpus: tuple[FoundGpu, ...]
    cpu: FoundCpu
    ram: FoundRam
    board: str = ""
    """Model of the board or computer, where it is one that is known by it."""
    surroundings: str = ""
    """'WSL', 'container' or ''."""
    notes: tuple[str, ...] = ()
