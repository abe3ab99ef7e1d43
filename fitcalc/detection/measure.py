"""Timing this computer: reads of its memory, one multiplication, and copies on a GPU. Bounded in time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from fitcalc.detection.probe import list_folder, read_text
from fitcalc.frozen import dataclass
from fitcalc.spec.detected import Detection, Measured
from fitcalc.units import GIB, KIB, MIB

_READ_S, _MULTIPLY_S, _COPY_S = 2.0, 1.0, 1.5
"""Time given to each measurement, allocation not counted."""
_LEAST_PASSES, _MOST_PASSES = 3, 60
_CACHES = 4
"""Arrays are as many times larger than all caches together, so that few reads are answered by these."""
_LEAST_BYTES, _MOST_BYTES = 512 * MIB, 4 * GIB
_SHARE_OF_FREE = 4
"""At most the fourth part of what is free is taken."""
_MATRIX = 2048
_STEADY = 0.25
"""Passes that differ by more were disturbed."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Seconds of each pass over so many bytes, operations or both."""

    work: float
    seconds: tuple[float, ...]

    def measured(self, what: str, device: str, kind: Any, threads: int = 1) -> Measured:
        """The median rate and its range."""
        rates = sorted(self.work / taken for taken in self.seconds)
        middle = rates[len(rates) // 2]
        return Measured(what, device, kind, middle, rates[0], rates[-1], len(rates), threads)


def measure_all(found: Detection) -> tuple[tuple[Measured, ...], tuple[str, ...]]:
    """What can be timed here within ten seconds, and notes on what could not or was disturbed."""
    measured: list[Measured] = []
    notes: list[str] = []
    threads = _threads(found)
    size, note = read_bytes(found.ram.available_bytes, cache_bytes())
    notes += [note] if note else []
    passes = timed_reads(threads, size // threads, _READ_S)
    if passes is None:
        notes.append("memory was not timed: there is too little of it")
    else:
        what = f"reading {size / GIB:.2g} GiB of RAM with {threads} thread{'s' if threads > 1 else ''}"
        measured.append(passes.measured(what, "cpu", "read", threads))
    measured.append(timed_products(_MULTIPLY_S).measured("multiplying matrices in fp32", "cpu", "multiply", threads))
    if any(gpu.role == "card" for gpu in found.gpus):
        copied, note = gpu_copies(found)
        measured += copied
        notes += [note] if note else []
    for one in measured:
        if one.high_per_s - one.low_per_s > _STEADY * one.per_s:
            notes.append(
                f"{one.what}: the passes differ much, something else is at work; time it again when it is quiet"
            )
    return tuple(measured), tuple(notes)


def _threads(found: Detection) -> int:
    counts = [count for count in (found.cpu.cores, found.cpu.usable_threads) if count]
    return min(min(counts, default=1), 128)


def cache_bytes(root: str = "/sys/devices/system/cpu") -> int:
    """The last-level caches of all cores together; 64 MiB where the system does not say."""
    largest: dict[str, int] = {}
    for cpu in list_folder(root):
        if not re.fullmatch(r"cpu\d+", cpu):
            continue
        for index in list_folder(f"{root}/{cpu}/cache"):
            place = f"{root}/{cpu}/cache/{index}"
            size = re.fullmatch(r"(\d+)K", read_text(f"{place}/size").strip())
            if size and read_text(f"{place}/level").strip() in ("3", "4"):
                largest[read_text(f"{place}/shared_cpu_list").strip() or cpu] = int(size[1]) * KIB
    return sum(largest.values()) or 64 * MIB


def read_bytes(free_bytes: int | None, caches_bytes: int) -> tuple[int, str]:
    """How much to read: several times the caches, within a part of what is free; a note where that is too little."""
    wanted = min(max(_CACHES * caches_bytes, _LEAST_BYTES), _MOST_BYTES)
    allowed = (GIB if free_bytes is None else free_bytes) // _SHARE_OF_FREE
    size = max(min(wanted, allowed), MIB)
    note = "so little memory is free that caches answered part of the reads" if size < 2 * caches_bytes else ""
    return size, note


def timed_reads(threads: int, chunk_bytes: int, limit_s: float) -> Passes | None:
    """Passes in which every thread reads its own array once, all at the same time; None where memory is too short."""
    import threading

    import numpy

    gate = threading.Barrier(threads + 1)
    stopping = threading.Event()

    def read() -> None:
        try:
            # Each thread touches its own pages first, so that they lie in the memory beside its socket.
            array = numpy.ones(chunk_bytes, dtype=numpy.int8)
            gate.wait()
            while True:
                gate.wait()
                if stopping.is_set():
                    return
                array.max()
                gate.wait()
        except (MemoryError, threading.BrokenBarrierError):
            gate.abort()

    readers = [threading.Thread(target=read, daemon=True) for _ in range(threads)]
    for reader in readers:
        reader.start()

    def one_pass() -> None:
        gate.wait()
        gate.wait()

    try:
        gate.wait()
        seconds = _repeated(one_pass, limit_s)
        stopping.set()
        gate.wait()
    except threading.BrokenBarrierError:
        return None
    finally:
        for reader in readers:
            reader.join(1)
    return Passes(threads * chunk_bytes, seconds)


def timed_products(limit_s: float) -> Passes:
    """Passes of one product of square matrices in fp32, with as many threads as numpy's library takes."""
    import numpy

    matrix = numpy.ones((_MATRIX, _MATRIX), dtype=numpy.float32)
    return Passes(2.0 * _MATRIX**3, _repeated(lambda: matrix @ matrix, limit_s))


def gpu_copies(found: Detection) -> tuple[list[Measured], str]:
    """Copies within the memory of the first GPU, by torch or cupy; a note where neither is there."""
    card = next(gpu for gpu in found.gpus if gpu.role == "card")
    free = ((card.device.usable_bytes or 0) if card.device else 0) - card.used_bytes
    size = min(GIB, max(free, 0) // _SHARE_OF_FREE)
    for prepared in (_torch_copy, _cupy_copy):
        try:
            copy = prepared(size)
            if copy is not None:
                passes = Passes(2.0 * size, _repeated(copy, _COPY_S))
                return [passes.measured(f"copying {size / GIB:.2g} GiB on the GPU", card.name, "copy")], ""
        except (RuntimeError, MemoryError) as error:
            return (
                [],
                f"the GPU was not timed: {str(error).splitlines()[0][:80] if str(error) else type(error).__name__}",
            )
    return [], "the GPU was not timed: that takes torch or cupy with its driver"


def _torch_copy(size_bytes: int) -> Callable[[], object] | None:
    """One copy that has ended, by torch; None where torch or its GPU is missing."""
    torch = _module("torch")
    if torch is None:
        return None
    for name in ("cuda", "xpu", "mps"):
        backend = getattr(torch, name, None)
        available = getattr(getattr(torch.backends, "mps", None) if name == "mps" else backend, "is_available", None)
        if backend is None or available is None or not available():
            continue
        source = torch.ones(size_bytes, dtype=torch.uint8, device=name)
        target = torch.empty_like(source)
        return lambda: (target.copy_(source), backend.synchronize())
    return None


def _cupy_copy(size_bytes: int) -> Callable[[], object] | None:
    cupy = _module("cupy")
    if cupy is None:
        return None
    source = cupy.ones(size_bytes, dtype=cupy.uint8)
    target = cupy.empty_like(source)
    return lambda: (cupy.copyto(target, source), cupy.cuda.Device().synchronize())


def _module(name: str) -> Any:
    """A package that may not be there, or may not load."""
    from importlib import import_module

    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError):
        return None


def _repeated(once: Callable[[], object], limit_s: float) -> tuple[float, ...]:
    """Seconds of each run after a first one that is not counted, until time is up; at least three."""
    once()
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < _MOST_PASSES and (len(seconds) < _LEAST_PASSES or time.perf_counter() - started < limit_s):
        before = time.perf_counter()
        once()
        seconds.append(max(time.perf_counter() - before, 1e-9))
    return tuple(seconds)
