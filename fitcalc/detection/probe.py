"""The ways in which a computer is asked: run a program, read a file, list a folder. Tests answer from recordings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Literal

from fitcalc.frozen import dataclass

_MOST_BYTES = 8_000_000
"""Of a program's output or a file: what is longer is not what was asked for."""
USUAL_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program printed, and how it ended."""

    text: str
    status: Literal["ok", "missing", "failed", "hung"]


@dataclass(frozen=True, slots=True)
class Probe:
    """How to ask one computer, and the little that Python itself knows of it."""

    run: Callable[[tuple[str, ...]], Answer]
    read: Callable[[str], str]
    """The text of a file; '' where there is none or it cannot be read."""
    entries: Callable[[str], tuple[str, ...]]
    """Names in a folder, sorted; () where there is none."""
    platform: str
    environ: Mapping[str, str]
    threads: int | None
    """All of the computer."""
    usable_threads: int | None
    """Those that this process may run on."""
    nvml: bool = False
    """Whether NVIDIA's library may be asked (extra: detect)."""


def this_computer() -> Probe:
    """The probe of the computer this runs on."""
    threads = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
    return Probe(run_program, read_text, list_folder, sys.platform, os.environ, threads, usable, nvml=True)


def run_program(command: tuple[str, ...], limit_s: float = USUAL_LIMIT_S) -> Answer:
    """Run a program with a limit on time and output; one that does not end, even when killed, is left behind."""
    import shutil
    import subprocess
    import threading

    path = shutil.which(command[0]) or next(
        (place for place in _ELSEWHERE.get(command[0], ()) if os.path.exists(place)), ""
    )
    if not path:
        return Answer("", "missing")
    try:
        process = subprocess.Popen(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return Answer("", "failed")
    stream = process.stdout
    assert stream is not None
    read: list[bytes] = []

    def collect() -> None:
        with stream:
            read.append(stream.read(_MOST_BYTES + 1))

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    reader.join(limit_s)
    answered = bool(read)
    ended = answered and len(read[0]) <= _MOST_BYTES
    try:
        if not ended:
            process.kill()
        code = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.kill()
        return Answer("", "hung")
    if not answered:
        return Answer("", "hung")
    text = read[0][:_MOST_BYTES].decode("utf-8", "replace")
    return Answer(text, "ok" if ended and code == 0 else "failed")


_ELSEWHERE = {
    "nvidia-smi": (
        "/usr/lib/wsl/lib/nvidia-smi",
        "/usr/local/nvidia/bin/nvidia-smi",
        "C:\\Windows\\System32\\nvidia-smi.exe",
    ),
    "rocm-smi": ("/opt/rocm/bin/rocm-smi",),
    "amd-smi": ("/opt/rocm/bin/amd-smi",),
    "system_profiler": ("/usr/sbin/system_profiler",),
    "sysctl": ("/usr/sbin/sysctl",),
    "lspci": ("/usr/sbin/lspci", "/sbin/lspci"),
}
"""Places outside of the usual search path."""


def read_text(path: str) -> str:
    """The text of a small file, without the zero byte that device trees end with."""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").rstrip("\0")
    except (OSError, ValueError):
        return ""


def list_folder(path: str) -> tuple[str, ...]:
    """Names in a folder."""
    try:
        return tuple(sorted(os.listdir(path)))
    except OSError:
        return ()


def whole(text: str) -> int | None:
    """A whole number from a file or field that may hold something else."""
    stripped = text.strip()
    return int(stripped) if stripped.isascii() and stripped.isdigit() and len(stripped) < 20 else None


def json_in(text: str) -> object:
    """The JSON object or list that a program printed, behind warnings; None where there is none."""
    import json

    for start, mark in enumerate(text):
        if mark in "{[":
            try:
                value: object = json.JSONDecoder().raw_decode(text, start)[0]
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict | list) and value:
                return value
    return None


def first_line(text: str, most: int = 90) -> str:
    """The first line that says something, shortened, for a note."""
    printable = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    line = next((line.strip() for line in printable.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 1] + "…"
