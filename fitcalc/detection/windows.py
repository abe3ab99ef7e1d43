"""Cards of other makers than NVIDIA under Windows, by the registry, which holds the full size of memory."""

from __future__ import annotations

import re

from fitcalc.detection import matching
from fitcalc.detection.known import is_display, is_integrated, plain_name
from fitcalc.detection.probe import Probe
from fitcalc.spec.detected import FoundGpu

_CLASS = r"HKLM\SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_MAKERS = {"radeon": "amd", "instinct": "amd", "firepro": "amd", "amd": "amd", "arc": "intel", "intel": "intel"}


def find(probe: Probe) -> list[FoundGpu]:
    """AMD's and Intel's GPUs; NVIDIA's own tool knows more of its cards."""
    names = registry_values(probe.run(("reg", "query", _CLASS, "/s", "/v", "DriverDesc")).text)
    sizes = registry_values(probe.run(("reg", "query", _CLASS, "/s", "/v", "HardwareInformation.qwMemorySize")).text)
    found = []
    for key, told in names.items():
        name = plain_name(told)
        vendor = next((maker for word, maker in _MAKERS.items() if word in name.lower()), "")
        if not vendor or is_display(name):
            continue
        size = sizes.get(key, "")
        if is_integrated(name) or not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", size):
            note = "shares the host's memory: not counted as a card"
            found.append(FoundGpu(name, vendor, "registry", role="integrated", note=note))
            continue
        found.append(matching.card(name, vendor, int(size, 16)).found(name, "registry"))
    return found


def registry_values(text: str) -> dict[str, str]:
    """Key -> value, of a `reg query` for one name."""
    values: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if line.startswith("HKEY_"):
            key = line.strip()
        elif match := re.match(r"\s+\S+\s+REG_\w+\s+(.*\S)", line):
            values.setdefault(key, match[1])
    return values
