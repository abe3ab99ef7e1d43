"""NVIDIA's GPUs: by its management library where that is installed (extra: detect), else by nvidia-smi."""

from __future__ import annotations

import re
from typing import Any

from fitcalc.detection import matching
from fitcalc.detection.probe import Probe, first_line
from fitcalc.frozen import dataclass, replace
from fitcalc.spec.detected import FoundGpu
from fitcalc.units import MIB

_FIELDS = "index,uuid,name,memory.total,memory.used,memory.reserved,compute_cap,mig.mode.current"
_OLD_FIELDS = "index,uuid,name,memory.total,memory.used"
_MIB = re.compile(r"(\d+)(?: MiB)?")


@dataclass(frozen=True, slots=True)
class Row:
    """A GPU, or an instance of one, as the driver reports it; None where it reports nothing."""

    index: int
    uuid: str
    name: str
    total_bytes: int | None
    used_bytes: int = 0
    reserved_bytes: int | None = None
    compute_capability: str = ""
    mig: bool = False


def find(probe: Probe) -> tuple[list[FoundGpu], list[str]]:
    """The GPUs that CUDA would see, and notes on what went wrong. A GPU without memory of its own has no device."""
    rows, source, notes = _rows(probe)
    rows, hidden = _visible(rows, probe.environ.get("CUDA_VISIBLE_DEVICES"))
    notes += [hidden] if hidden else []
    whole_cards = any(not row.mig for row in rows)
    best = max((row.total_bytes or 0) - row.used_bytes for row in rows) if rows else 0
    found: list[FoundGpu] = []
    seen_best = False
    for row in rows:
        chosen = not row.mig or (not whole_cards and not seen_best and (row.total_bytes or 0) - row.used_bytes == best)
        seen_best = seen_best or (row.mig and chosen)
        found.append(_gpu(row, source, chosen=chosen))
    return found, notes


def _gpu(row: Row, source: str, *, chosen: bool) -> FoundGpu:
    if row.total_bytes is None:
        note = "the driver reports no memory of its own"
        return FoundGpu(row.name, "nvidia", source, role="integrated", note=note)
    match = matching.card(
        row.name, "nvidia", row.total_bytes, reserved_bytes=row.reserved_bytes,
        compute_capability=row.compute_capability,
    )  # fmt: skip
    found = match.found(row.name, source, used_bytes=row.used_bytes)
    if chosen:
        return found
    return replace(found, role="left_out", note="a process sees one MIG instance: the others are left out")


def _rows(probe: Probe) -> tuple[list[Row], str, list[str]]:
    if probe.nvml:
        rows = _from_library()
        if rows:
            return rows, "NVML", []
    return _from_smi(probe)


def _from_smi(probe: Probe) -> tuple[list[Row], str, list[str]]:
    answer = probe.run(("nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"))
    if answer.status == "failed":
        older = probe.run(("nvidia-smi", f"--query-gpu={_OLD_FIELDS}", "--format=csv,noheader,nounits"))
        answer = older if older.status == "ok" or not answer.text.strip() else answer
    if answer.status == "missing":
        return [], "", _without_driver(probe)
    if answer.status == "hung":
        return [], "", ["nvidia-smi did not answer in time: its GPUs are not counted"]
    rows = smi_rows(answer.text) if answer.status == "ok" else []
    if not rows:
        said = first_line(answer.text)
        return [], "", [f"nvidia-smi: {said}" if said else "nvidia-smi failed and said nothing"]
    if any(row.mig for row in rows):
        document, names = probe.run(("nvidia-smi", "-q", "-x")), probe.run(("nvidia-smi", "-L"))
        return mig_rows(rows, document.text, names.text), "nvidia-smi", []
    return rows, "nvidia-smi", []


def smi_rows(listing: str) -> list[Row]:
    """The rows of nvidia-smi's CSV; lines of another form are passed over. A card in MIG mode is marked so."""
    rows: list[Row] = []
    for line in listing.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) not in (5, 8) or not fields[0].isdigit() or not fields[2]:
            continue
        total, used = _mib(fields[3]), _mib(fields[4])
        more = fields[5:] if len(fields) == 8 else ["", "", ""]
        capability = more[1] if re.fullmatch(r"\d+\.\d", more[1]) else ""
        is_mig = more[2] == "Enabled"
        rows.append(Row(int(fields[0]), fields[1], fields[2], total, used or 0, _mib(more[0]), capability, is_mig))
    return rows


def mig_rows(rows: list[Row], document: str, listing: str) -> list[Row]:
    """The instances in place of the cards that are divided, from `nvidia-smi -q -x` (sizes) and `-L` (profiles)."""
    from xml.etree import ElementTree

    try:
        gpus = ElementTree.fromstring(document).findall("gpu")
    except ElementTree.ParseError:
        gpus = []
    profiles = _mig_profiles(listing)
    divided: list[Row] = []
    for place, row in enumerate(rows):
        if not row.mig:
            divided.append(row)
            continue
        instances = gpus[place].findall("mig_devices/mig_device") if place < len(gpus) else []
        for number, instance in enumerate(instances):
            total, used = (_mib(instance.findtext(f"fb_memory_usage/{key}") or "") for key in ("total", "used"))
            profile = profiles.get((row.index, number), "")
            name = f"{row.name} MIG {profile}".strip() if profile else f"{row.name} MIG"
            divided.append(Row(row.index, "", name, total, used or 0, 0, row.compute_capability, mig=True))
    return divided


def _mig_profiles(listing: str) -> dict[tuple[int, int], str]:
    """(GPU, instance) -> '3g.20gb' from `nvidia-smi -L`."""
    profiles: dict[tuple[int, int], str] = {}
    gpu = -1
    for line in listing.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            gpu = int(match[1])
        elif match := re.match(r"\s+MIG (\S+)\s+Device\s+(\d+):", line):
            profiles[gpu, int(match[2])] = match[1]
    return profiles


def _mib(text: str) -> int | None:
    match = _MIB.fullmatch(text.strip())
    return int(match[1]) * MIB if match else None


def _visible(rows: list[Row], chosen: str | None) -> tuple[list[Row], str]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order, and a note if it leaves any out; MIG names pass all."""
    if chosen is None or not rows or "MIG-" in chosen:
        return rows, ""
    kept: list[Row] = []
    for word in (word.strip() for word in chosen.split(",")):
        match = [
            row for row in rows if word == str(row.index) or (word.startswith("GPU-") and row.uuid.startswith(word))
        ]
        if not match:  # CUDA stops at the first name that means nothing
            break
        kept += match
    left_out = len(rows) - len(kept)
    return kept, f"CUDA_VISIBLE_DEVICES={chosen} leaves {left_out} of {len(rows)} GPUs out" if left_out else ""


def _without_driver(probe: Probe) -> list[str]:
    """A note where a card is in the computer but its tool is not."""
    root = "/sys/bus/pci/devices"
    for address in probe.entries(root):
        place = f"{root}/{address}"
        if probe.read(f"{place}/vendor").strip() == "0x10de" and probe.read(f"{place}/class").startswith("0x03"):
            number = probe.read(f"{place}/device").strip().removeprefix("0x")
            return [f"an NVIDIA GPU is here (PCI 10de:{number}) but nvidia-smi is not: is its driver installed?"]
    return []


def _from_library() -> list[Row]:
    """All GPUs by NVML; [] where the library or a driver is missing."""
    from importlib import import_module

    try:
        pynvml: Any = import_module("pynvml")
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [row for index, handle in enumerate(handles) for row in _library_rows(pynvml, index, handle)]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _library_rows(pynvml: Any, index: int, handle: Any) -> list[Row]:
    """A card, or the instances that it is divided into."""
    name = _text(pynvml.nvmlDeviceGetName(handle))
    uuid = _text(_asked(pynvml, pynvml.nvmlDeviceGetUUID, handle) or "")
    capability = _asked(pynvml, pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    version = "{}.{}".format(*capability) if capability else ""
    mode = _asked(pynvml, pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != 1:
        total, used, reserved = _memory(pynvml, handle)
        return [Row(index, uuid, name, total, used, reserved, version)]
    rows = []
    for number in range(_asked(pynvml, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _asked(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if instance is not None:
            total, used, _ = _memory(pynvml, instance)
            rows.append(Row(index, "", _text(pynvml.nvmlDeviceGetName(instance)), total, used, 0, version, mig=True))
    return rows


def _memory(pynvml: Any, handle: Any) -> tuple[int | None, int, int | None]:
    """(total, used, reserved); the first form of the question counts what is reserved as used."""
    second = getattr(pynvml, "nvmlMemory_v2", None)
    memory = _asked(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle, second) if second else None
    if memory is not None:
        return int(memory.total), int(memory.used), int(memory.reserved)
    memory = _asked(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return (None, 0, None) if memory is None else (int(memory.total), int(memory.used), None)


def _asked(pynvml: Any, question: Any, *arguments: Any) -> Any:
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
