"""AMD's GPUs: sizes from the kernel's own files, names from libdrm's list or ROCm's tools; GPUs of APUs told apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fitcalc.detection import matching
from fitcalc.detection.known import facts, is_integrated, plain_name
from fitcalc.detection.probe import Probe, json_in, whole
from fitcalc.frozen import dataclass
from fitcalc.spec.detected import FoundGpu
from fitcalc.units import GIB, KIB, MIB, parse_size

_DRM = "/sys/class/drm"
_NAMES = "/usr/share/libdrm/amdgpu.ids"
_TOOLS = (
    ("amd-smi", "static", "--asic", "--bus", "--vram", "--json"),
    ("rocm-smi", "--showproductname", "--showbus", "--showmeminfo", "vram", "--json"),
)
_UNITS = {"B": 1, "KB": KIB, "MB": MIB, "GB": GIB}
"""Of amd-smi, which writes MB for what is MiB."""


@dataclass(frozen=True, slots=True)
class Row:
    """A GPU as the kernel or a tool reports it."""

    address: str
    """Of its PCI slot: '0000:03:00.0'."""
    name: str
    total_bytes: int | None
    used_bytes: int = 0
    shared_bytes: int = 0
    """Host memory that it may use (GTT)."""


def find(probe: Probe) -> tuple[list[FoundGpu], list[str], int]:
    """The GPUs, notes on what went wrong, and the most memory that one inside of a CPU may use."""
    rows, source = kernel_rows(probe), "/sys/class/drm"
    notes: list[str] = []
    if not rows or not all(row.name for row in rows):
        by_tool, tool, notes = _tool_rows(probe)
        rows, source = (_named(rows, by_tool), source) if rows else (by_tool, tool)
    found = [_gpu(row, source) for row in rows]
    shared = [
        max(row.total_bytes or 0, row.shared_bytes)
        for row, gpu in zip(rows, found, strict=True)
        if gpu.role == "integrated"
    ]
    return found, notes, max(shared, default=0)


def _gpu(row: Row, source: str) -> FoundGpu:
    name = row.name or "AMD GPU without a name"
    small = row.total_bytes is not None and row.total_bytes < parse_size(facts()["gpus"]["least_card"])
    if row.total_bytes is None or small or is_integrated(row.name):
        return FoundGpu(name, "amd", source, role="integrated", note="shares the host's memory: not counted as a card")
    match = matching.card(name, "amd", row.total_bytes)
    return match.found(name, source, used_bytes=row.used_bytes)


def kernel_rows(probe: Probe) -> list[Row]:
    """The GPUs of the amdgpu driver, in the order of their slots; a name that is not listed is ''."""
    rows: dict[str, Row] = {}
    names: dict[str, str] | None = None
    for entry in probe.entries(_DRM):
        place = f"{_DRM}/{entry}/device"
        if not re.fullmatch(r"card\d+", entry) or probe.read(f"{place}/vendor").strip() != "0x1002":
            continue
        names = _listed_names(probe) if names is None else names
        number, revision = (_hex(probe.read(f"{place}/{file}")) for file in ("device", "revision"))
        slot = re.search(r"PCI_SLOT_NAME=(\S+)", probe.read(f"{place}/uevent"))
        sizes = [whole(probe.read(f"{place}/mem_info_{file}")) for file in ("vram_total", "vram_used", "gtt_total")]
        name = probe.read(f"{place}/product_name").strip() or names.get(f"{number}:{revision}", "")
        address = slot[1].lower() if slot else entry
        rows[address] = Row(address, plain_name(name), sizes[0], sizes[1] or 0, sizes[2] or 0)
    return [rows[address] for address in sorted(rows)]


def _hex(text: str) -> str:
    return text.strip().lower().removeprefix("0x")


def _listed_names(probe: Probe) -> dict[str, str]:
    """'744c:c8' -> 'AMD Radeon RX 7900 XTX', from libdrm's list of products."""
    fields = (line.split(",", 2) for line in probe.read(_NAMES).splitlines() if not line.startswith("#"))
    return {
        f"{a.strip().lower()}:{b.strip().lower()}": name.strip() for a, b, name in (f for f in fields if len(f) == 3)
    }


def _named(rows: list[Row], by_tool: list[Row]) -> list[Row]:
    """The kernel's rows with the tool's names: by slot, else by place where both list as many."""
    by_address = {row.address: row.name for row in by_tool if row.address}
    if not by_address and len(by_tool) == len(rows):
        by_address = {row.address: tool.name for row, tool in zip(rows, by_tool, strict=True)}
    return [
        Row(row.address, row.name or by_address.get(row.address, ""), row.total_bytes, row.used_bytes, row.shared_bytes)
        for row in rows
    ]


def _tool_rows(probe: Probe) -> tuple[list[Row], str, list[str]]:
    notes: list[str] = []
    for command in _TOOLS:
        answer = probe.run(command)
        if answer.status == "hung":
            # The other tool asks the same driver.
            return [], "", [f"{command[0]} did not answer in time: AMD's GPUs are not counted"]
        rows = tool_rows(answer.text)
        if rows:
            return rows, command[0], []
    return [], "", notes


def tool_rows(text: str) -> list[Row]:
    """The GPUs of amd-smi's or rocm-smi's JSON, in the form of any of their versions; [] for anything else."""
    content = json_in(text)
    if isinstance(content, dict) and isinstance(content.get("gpu_data"), list):
        content = content["gpu_data"]
    if isinstance(content, list):
        return [_amd_smi_row(entry) for entry in content if isinstance(entry, dict) and "gpu" in entry]
    if isinstance(content, dict):
        cards = {key: value for key, value in content.items() if re.fullmatch(r"card\d+", key)}
        return [_rocm_smi_row(value) for value in cards.values() if isinstance(value, dict)]
    return []


def _amd_smi_row(entry: Mapping[str, Any]) -> Row:
    asic, bus, vram = (_table(entry.get(key)) for key in ("asic", "bus", "vram"))
    size = vram.get("size")
    total = None
    if isinstance(size, dict) and isinstance(size.get("value"), int):
        total = size["value"] * _UNITS.get(str(size.get("unit")), MIB)
    elif isinstance(size, str) and (match := re.fullmatch(r"(\d+) (\w+)", size)):
        total = int(match[1]) * _UNITS.get(match[2], MIB)
    name = str(asic.get("market_name", ""))
    return Row(str(bus.get("bdf", "")).lower(), plain_name(name) if name != "N/A" else "", total)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _rocm_smi_row(entry: Mapping[str, Any]) -> Row:
    fields = {str(key).lower(): str(value) for key, value in entry.items()}
    total, used = whole(fields.get("vram total memory (b)", "")), whole(fields.get("vram total used memory (b)", ""))
    name = fields.get("card series", "") or fields.get("device name", "")
    return Row(fields.get("pci bus", "").lower(), plain_name(name) if name != "N/A" else "", total, used or 0)
