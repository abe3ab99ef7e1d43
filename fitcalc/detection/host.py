"""The computer around the GPUs: CPU, memory, board, and the limits of containers and WSL."""

from __future__ import annotations

import re

from fitcalc.detection import matching
from fitcalc.detection.known import arm_name
from fitcalc.detection.probe import Probe, json_in, whole
from fitcalc.frozen import replace
from fitcalc.spec.detected import FoundCpu, FoundRam
from fitcalc.spec.hardware import Device
from fitcalc.units import KIB

_NO_LIMIT_BYTES = 2**60
"""Version 1 of control groups writes "no limit" as a number near 2^63."""
_FIRMWARE = "/sys/class/dmi/id"
_UNFILLED = ("", "to be filled by o.e.m.", "default string", "system manufacturer", "system product name")
_WINDOWS_QUERY = (
    "powershell", "-NoProfile", "-Command",
    "$o=Get-CimInstance Win32_OperatingSystem;$c=@(Get-CimInstance Win32_Processor);"
    "@{total=$o.TotalVisibleMemorySize;free=$o.FreePhysicalMemory;name=$c[0].Name;sockets=$c.Count;"
    "cores=($c|Measure-Object NumberOfCores -Sum).Sum}|ConvertTo-Json -Compress",
)  # fmt: skip


def board(probe: Probe) -> str:
    """The model that firmware reports: 'Raspberry Pi 5 Model B Rev 1.0', 'NVIDIA DGX Spark'; '' for none."""
    model = probe.read("/proc/device-tree/model") or probe.read("/sys/firmware/devicetree/base/model")
    if not model.strip():
        told = [probe.read(f"{_FIRMWARE}/{file}").strip() for file in ("sys_vendor", "product_name")]
        model = " ".join(text for text in told if text.lower() not in _UNFILLED)
    words = model.replace("_", " ").split()
    return " ".join(word for place, word in enumerate(words) if place == 0 or word != words[place - 1])


def surroundings(probe: Probe) -> str:
    """'WSL', 'container' or ''."""
    if "microsoft" in probe.read("/proc/version").lower():
        return "WSL"
    marks = "/docker", "/kubepods", "/lxc", "/containerd", "/libpod", "/podman"
    in_group = any(mark in probe.read("/proc/1/cgroup") for mark in marks)
    told = probe.environ.get("container") or probe.environ.get("KUBERNETES_SERVICE_HOST")
    return "container" if in_group or told or ".dockerenv" in probe.entries("/") else ""


def linux(probe: Probe) -> tuple[FoundCpu, FoundRam]:
    """CPU and memory by /proc and the control groups."""
    return _linux_cpu(probe), _linux_ram(probe)


def windows(probe: Probe) -> tuple[FoundCpu, FoundRam]:
    """CPU and memory by what PowerShell tells."""
    content = json_in(probe.run(_WINDOWS_QUERY).text)
    values = {key: str(value) for key, value in content.items()} if isinstance(content, dict) else {}
    total, free = whole(values.get("total", "")), whole(values.get("free", ""))
    ram = FoundRam(total * KIB if total else None, free * KIB if free else None)
    cores, sockets = whole(values.get("cores", "")), whole(values.get("sockets", "")) or 1
    name = values.get("name", "").strip() or "CPU without a name"
    return FoundCpu(name, None, cores, probe.threads, probe.usable_threads, sockets), ram


def profiled(cpu: FoundCpu, ram: FoundRam, chosen: Device | None = None) -> FoundCpu:
    """The CPU with its profile, cut to the cores that are here: a part of a socket has a part of its compute."""
    found = chosen or matching.cpu(cpu.name, ram.total_bytes)
    if found is None:
        return cpu
    cores = _usable_cores(cpu)
    fp32 = found.fp32_flop_per_s
    if cores and found.cores and cores < found.cores and fp32:
        found = replace(found, cores=cores, fp32_flop_per_s=fp32 * cores / found.cores)
    return replace(cpu, device=found)


def _usable_cores(cpu: FoundCpu) -> int | None:
    """Physical cores that this process gets: no more than the threads it may run on."""
    known = [count for count in (cpu.cores, cpu.usable_threads) if count]
    return min(known) if known else None


def cpu_device(cpu: FoundCpu, ram: FoundRam) -> Device:
    """The CPU as a device to plan for, with the memory that is here."""
    total = ram.total_bytes if ram.limit_bytes is None else ram.limit_bytes
    usable = ram.available_bytes if ram.available_bytes is not None else total
    cores = _usable_cores(cpu)
    if cpu.device is not None:
        return replace(cpu.device, memory_bytes=total, usable_bytes=usable, usable_basis="observed")
    return Device(
        "this-machine", matching.plain_cpu_name(cpu.name), "", "cpu", "detected", total, usable, cores=cores,
        usable_basis="observed", source="the operating system",
    )  # fmt: skip


def _linux_cpu(probe: Probe) -> FoundCpu:
    text = probe.read("/proc/cpuinfo")
    entries = [dict(_pairs(part)) for part in re.split(r"\n\s*\n", text) if part.strip()]
    entries = [entry for entry in entries if "processor" in entry]
    names = {entry.get("model name", "") for entry in entries} - {""}
    pairs = [(entry.get("CPU implementer", ""), entry.get("CPU part", "")) for entry in entries]
    cores = {arm_name(*pair): pairs.count(pair) for pair in pairs if arm_name(*pair)}
    # Of cores of several kinds the kernel lists the fastest last.
    name = max(names, key=len) if names else " + ".join(reversed(cores))
    places = {(entry.get("physical id", "0"), entry["core id"]) for entry in entries if "core id" in entry}
    sockets = {entry["physical id"] for entry in entries if "physical id" in entry}
    threads = len(entries) or probe.threads
    limits = [probe.usable_threads, threads, _thread_limit(probe)]
    usable = min((count for count in limits if count), default=None)
    return FoundCpu(name or "CPU without a name", None, len(places) or threads, threads, usable, len(sockets) or 1)


def _pairs(text: str) -> list[tuple[str, str]]:
    fields = (line.partition(":") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, colon, value in fields if colon]


def _linux_ram(probe: Probe) -> FoundRam:
    kib = {key: whole(value.removesuffix("kB").strip()) for key, value in _pairs(probe.read("/proc/meminfo"))}
    total, free = (kib.get(key) for key in ("MemTotal", "MemAvailable"))
    total_bytes, available = total * KIB if total else None, free * KIB if free is not None else None
    bounds = [bound for bound in _memory_bounds(probe) if total_bytes is None or bound[0] < total_bytes]
    if not bounds:
        return FoundRam(total_bytes, available)
    left = min(max(limit - used, 0) for limit, used in bounds)
    available = left if available is None else min(available, left)
    return FoundRam(total_bytes, available, min(limit for limit, _ in bounds))


def _groups(probe: Probe, controller: str) -> list[str]:
    """Folders of this process' control groups that may hold limits: its own and those above it, both versions."""
    folders: list[str] = []
    for line in probe.read("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        root = "/sys/fs/cgroup" if number == "0" else f"/sys/fs/cgroup/{controllers}"
        root = root if number == "0" or probe.entries(root) else f"/sys/fs/cgroup/{controller}"
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return folders


def _memory_bounds(probe: Probe) -> list[tuple[int, int]]:
    """(limit, what is used of it and cannot be given back) of every control group that has one."""
    bounds = []
    for folder in _groups(probe, "memory"):
        for limit_file, used_file, cache_key in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = whole(probe.read(f"{folder}/{limit_file}"))
            if limit is None or limit >= _NO_LIMIT_BYTES:
                continue
            cache = re.search(rf"(?m)^{cache_key} (\d+)", probe.read(f"{folder}/memory.stat"))
            used = (whole(probe.read(f"{folder}/{used_file}")) or 0) - (int(cache[1]) if cache else 0)
            bounds.append((limit, max(used, 0)))
    return bounds


def _thread_limit(probe: Probe) -> int | None:
    """Threads that a container's share of time amounts to, rounded up; None without one."""
    shares = []
    for folder in _groups(probe, "cpu"):
        words = probe.read(f"{folder}/cpu.max").split()
        words = words or [probe.read(f"{folder}/cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        quota, period = (whole(word) for word in [*words, "", ""][:2])
        if quota and period:
            shares.append(-(-quota // period))
    return min(shares, default=None)
