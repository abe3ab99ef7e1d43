"""profiles/detection.toml: what tells GPUs inside of CPUs, virtual displays, boards and bare numbers apart."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml

_MARKS = re.compile(r"\((?:R|TM|C)\)|[®™©]", re.IGNORECASE)
_BRACKETS = re.compile(r"\[(?!0x)([^\]]+)\]$")
_PCI_ID = re.compile(r"\[0x([0-9a-f]{4})\]", re.IGNORECASE)


@lru_cache(maxsize=1)
def facts() -> dict[str, Any]:
    """The content of the file."""
    return read_toml(os.path.join(packaged_folder(), "detection.toml"))


def plain_name(name: str, vendor_id: str = "") -> str:
    """'Radeon RX 7900 XT' from 'Navi 31 [Radeon RX 7900 XT]', 'Intel Arc A770' from 'Intel(R) Graphics [0x56a0]'."""
    text = " ".join(_MARKS.sub(" ", name).split())
    numbered = _PCI_ID.search(text)
    if numbered and (listed := facts()["pci"].get(f"{vendor_id}:{numbered[1].lower()}")):
        return str(listed)
    bracketed = _BRACKETS.search(text)
    return bracketed[1].strip() if bracketed else text


def without_trailing(name: str) -> str:
    """The name without what tools add behind it: 'Instinct MI300X' from 'Instinct MI300X OAM'."""
    words = name.split()
    while len(words) > 1 and words[-1].lower() in facts()["gpus"]["trailing"]:
        words = words[:-1]
    return " ".join(words)


def is_integrated(name: str) -> bool:
    """Is this the name of a GPU inside of a CPU?"""
    return _any(facts()["gpus"]["integrated"], name)


def is_display(name: str) -> bool:
    """Is this the name of a display adapter without memory to compute in?"""
    return _any(facts()["gpus"]["displays"], name)


def machine_profiles(description: str) -> tuple[str, ...]:
    """Ids of the profiles of a board or computer, by what firmware and CPU say; () for any other."""
    for entry in facts()["machine"]:
        if re.search(entry["match"], description, re.IGNORECASE):
            return tuple(entry["profiles"])
    return ()


def arm_name(implementer: str, part: str) -> str:
    """The name of an Arm core by its numbers; '' where it is not listed."""
    return str(facts()["arm"].get(f"{implementer.lower()}:{part.lower()}", ""))


def _any(patterns: Sequence[str], text: str) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)
