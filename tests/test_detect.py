"""Detection held against recordings of real tools, against tools that fail, and on the computer that runs the tests.

Each file in tests/golden/detect names its source; what a source does not show is filled in by the tool's form.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc.detection import host, known, look, measure, nvidia, saving, this_machine
from fitcalc.detection.probe import Answer, Probe, first_line, json_in, run_program, whole
from fitcalc.errors import ProfileError, RequestError
from fitcalc.render.detected import detected_json, detected_text, options_of
from fitcalc.render.style import Style
from fitcalc.spec.detected import Detection, Measured
from fitcalc.units import GIB, KIB, MIB

GOLDEN = Path(__file__).parent / "golden" / "detect"
RECORDINGS = sorted(path.stem for path in GOLDEN.glob("*.toml"))
Status = Literal["ok", "missing", "failed", "hung"]


def probe_of(content: dict[str, Any], **environ: str) -> Probe:
    """A probe that answers from a recording; a command is recorded by how it begins."""
    files, commands = content.get("files", {}), content.get("commands", {})

    def run(command: tuple[str, ...]) -> Answer:
        line = " ".join(command)
        for start, said in commands.items():
            if line.startswith(start):
                status: Status = "ok" if isinstance(said, str) else said[0]
                return Answer(said if isinstance(said, str) else said[1], status)
        return Answer("", "missing")

    def entries(folder: str) -> tuple[str, ...]:
        prefix = folder.rstrip("/") + "/"
        return tuple(sorted({path[len(prefix) :].split("/")[0] for path in files if path.startswith(prefix)}))

    def read(path: str) -> str:
        return str(files.get(path, "")).rstrip("\0")

    return Probe(run, read, entries, content.get("platform", "linux"), environ, 4, None)


def recorded(name: str, **environ: str) -> Detection:
    return look(probe_of(tomllib.loads((GOLDEN / f"{name}.toml").read_text(encoding="utf-8")), **environ))


# name: (cards to plan with, usable MiB of the first, MiB that others hold): by the totals and reserves of the sources.
CARDS: dict[str, tuple[list[str], int, int]] = {
    "two_rtx_3090": (["rtx-3090", "rtx-3090"], 24576 - 453, 430),
    "rtx_3060_8gb": (["rtx-3060-8gb"], 8192 - 350, 0),
    "modded_4090": (["rtx-4090"], 49140 - 500, 0),
    "display_and_a100": (["a100-80-pcie"], 81920 - 883, 4),
    "dgx_spark": (["dgx-spark"], 127600748 // KIB - 1, 0),
    "rx_7900_xt": (["rx-7900-xt"], 21458059264 // MIB, 26),
    "rx_6800_and_raphael": (["rx-6800-xt"], 17163091968 // MIB, 660),
    "mi300x_amd_smi": (["mi300x"] * 8, 196044, 0),
    "strix_halo": (["ryzen-ai-max-395-128"], 98304, 0),
    "arc_b60_xpu_smi": (["arc-pro-b60"], 25669140480 // MIB, 211),
    "arc_a770_clinfo": (["arc-a770-16gb"], 17079205888 // MIB, 0),
    "arc_without_tools": (["arc-a770-16gb"], 16288, 0),
    "m3_max_64": (["apple-m3-max-40-64gb"], 48 * 1024, 0),
    "m1_max_wired": (["apple-m1-max-32gb"], 26000, 0),
    "windows_7900_xtx": (["rx-7900-xtx"], 0x5FF000000 // MIB, 0),
    "wsl_4090": (["rtx-4090"], 24564 - 354, 1481),
    "orin_nano": (["jetson-orin-nano-8"], 7802880 // KIB - 1067, 0),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards_of_recorded_machines(name: str) -> None:
    ids, usable_mib, used_mib = CARDS[name]
    machine = recorded(name).machine
    assert [card.id for card in machine.gpus] == ids
    assert machine.gpus[0].usable_bytes is not None
    assert machine.gpus[0].usable_bytes / MIB == pytest.approx(usable_mib, abs=1.5 if "dgx" not in name else 70)
    if machine.gpus[0].kind == "gpu":
        assert machine.gpu_used_bytes // MIB == used_mib


# name: (profile of the CPU or None, cores, GiB that a process gets).
HOSTS: dict[str, tuple[str | None, int, float]] = {
    "raspberry_pi_5": ("raspberry-pi-5-8gb", 4, 7600000 / 2**20),
    "raspberry_pi_4": ("raspberry-pi-4-4gb", 4, 3400000 / 2**20),
    "two_rtx_3090": ("core-i9-13900k", 24, 58000000 / 2**20),
    "container_v2": ("xeon-8480-spr", 112, 16 - (3 - 2)),
    "container_v1": ("epyc-9654", 96, 8 - (1 - 0.5)),
    "slurm_v1": ("epyc-7763", 64, 64 - 1),
    "graviton4": ("graviton4-192gb", 16, 31000000 / 2**20),
    "virtual_display": (None, 2, 7000000 / 2**20),
    "windows_7900_xtx": ("ryzen-7-3700x", 8, 20000000 / 2**20),
}


@pytest.mark.parametrize("name", HOSTS)
def test_cpu_and_memory_of_recorded_machines(name: str) -> None:
    profile, cores, usable_gib = HOSTS[name]
    found = recorded(name)
    assert (found.cpu.device.id if found.cpu.device else None) == profile
    assert found.cpu.cores == cores
    assert found.ram.available_bytes is not None
    assert found.ram.available_bytes / GIB == pytest.approx(usable_gib)
    assert found.machine.ram_bytes == found.ram.available_bytes


# name: what a note has to say.
NOTED = {
    "modded_4090": ["49,140 MiB", "24,564"],
    "unknown_card": ["RTX 9999 Ultra has no profile"],
    "display_and_a100": ["T400", "left out", "small beside"],
    "a100_mig": ["one MIG instance: the others", "2/7", "2/8"],
    "m1_max_wired": ["26,000 MiB", "iogpu.wired_limit_mb"],
    "intel_mac": ["Radeon Pro 5500M has no profile"],
    "arc_without_tools": ["taken from its profile"],
    "container_v2": ["limited to 16.00 GiB", "4 of 224 threads", "2 sockets"],
    "container_v1": ["limited to 8.00 GiB", "2 of 192 threads"],
    "wsl_4090": ["WSL has 31.28 GiB", ".wslconfig"],
    "driver_without_device": ["nvidia-smi: No devices were found"],
    "driver_not_running": ["nvidia-smi: NVIDIA-SMI has failed"],
    "no_driver": ["10de:1c03", "driver"],
    "hanging_tools": ["nvidia-smi did not answer", "amd-smi did not answer"],
    "nonsense": ["nvidia-smi: <html>"],
}


@pytest.mark.parametrize("name", NOTED)
def test_what_has_to_be_said_is_said(name: str) -> None:
    notes = recorded(name).notes
    for words in NOTED[name]:
        assert any(words in note for note in notes), notes
    assert all("\n" not in note and "\x1b" not in note for note in notes)


@pytest.mark.parametrize(
    "name", ["ryzen_apu", "apu_with_large_carve_out", "virtual_display", "nonsense", "hanging_tools"]
)
def test_no_card_where_there_is_none(name: str) -> None:
    found = recorded(name)
    assert found.machine.gpus == ()
    assert all(gpu.role == "integrated" for gpu in found.gpus)


@pytest.mark.parametrize("name", ["arc_b60_xpu_smi", "arc_a770_clinfo", "rx_6800_and_raphael", "intel_mac"])
def test_the_gpu_inside_the_cpu_is_not_a_second_card(name: str) -> None:
    found = recorded(name)
    assert sorted(gpu.role for gpu in found.gpus) == ["card", "integrated"]


def test_an_unknown_card_has_what_the_driver_says_and_no_more() -> None:
    card = recorded("unknown_card").machine.gpus[0]
    assert (card.name, card.compute_capability) == ("NVIDIA GeForce RTX 9999 Ultra", "15.0")
    assert (card.memory_bytes, card.usable_bytes) == (65536 * MIB, (65536 - 700) * MIB)
    assert card.bandwidth_bytes_per_s is None
    assert card.fp16_flop_per_s is None


def test_a_mig_instance_has_its_share_of_the_card() -> None:
    found = recorded("a100_mig")
    whole_card = fitcalc.load_device("a100-80-sxm")
    (instance,) = found.machine.gpus
    assert instance.memory_bytes == instance.usable_bytes == 19968 * MIB
    assert found.machine.gpu_used_bytes == 13 * MIB  # the freest of the three
    assert whole_card.bandwidth_bytes_per_s
    assert whole_card.bf16_flop_per_s
    assert instance.bandwidth_bytes_per_s == pytest.approx(whole_card.bandwidth_bytes_per_s * 2 / 8)
    assert instance.bf16_flop_per_s == pytest.approx(whole_card.bf16_flop_per_s * 2 / 7)
    assert [gpu.role for gpu in found.gpus] == ["left_out", "left_out", "card"]


def test_a_driver_that_knows_fewer_fields_is_asked_for_fewer() -> None:
    (card,) = recorded("old_driver").machine.gpus
    assert card.id == "rtx-2080"
    assert card.memory_bytes == 7979 * MIB


@pytest.mark.parametrize(
    ("chosen", "count"), [("0", 1), ("1,0", 2), ("GPU-2222", 1), ("", 0), ("-1", 0), ("7", 0), ("0,9,1", 1)]
)
def test_cards_hidden_from_cuda_are_not_planned_with(chosen: str, count: int) -> None:
    found = recorded("two_rtx_3090", CUDA_VISIBLE_DEVICES=chosen)
    assert len(found.machine.gpus) == count
    assert any("CUDA_VISIBLE_DEVICES" in note for note in found.notes) == (count < 2)


def test_a_part_of_a_socket_has_a_part_of_its_compute() -> None:
    whole_cpu, part = fitcalc.load_device("graviton4-192gb"), recorded("graviton4").cpu.device
    assert part is not None
    assert whole_cpu.fp32_flop_per_s
    assert whole_cpu.cores == 96
    assert part.cores == 16
    assert part.fp32_flop_per_s == pytest.approx(whole_cpu.fp32_flop_per_s / 6)


def test_cards_of_two_makers_are_not_mixed() -> None:
    content = tomllib.loads((GOLDEN / "rx_7900_xt.toml").read_text(encoding="utf-8"))
    content["commands"] = {"nvidia-smi": "0, GPU-1, NVIDIA GeForce RTX 3060, 12288, 0, 350, 8.6, [N/A]\n"}
    found = look(probe_of(content))
    assert [card.vendor for card in found.machine.gpus] == ["amd"]
    assert any("RTX 3060 is left out" in note for note in found.notes)


@pytest.mark.parametrize("name", RECORDINGS)
def test_text_keeps_its_width_and_json_its_form(name: str) -> None:
    found = recorded(name)
    for width in (40, 80):
        lines = detected_text(found, (), Style(width)).splitlines()
        assert all(len(line) <= width or " " not in line.strip() for line in lines), lines
    told = json.loads(detected_json(found, (), "0"))
    assert told["schema_version"] == 1
    assert set(told) == {
        "schema_version", "fitcalc_version", "system", "gpus", "cpu", "ram", "machine", "measured", "notes",
    }  # fmt: skip
    assert [gpu["profile"] for gpu in told["gpus"] if gpu["role"] == "card" and gpu["profile"]] == [
        card.id for card in found.machine.gpus if not card.id.startswith("custom-") and "-mig-" not in card.id
    ]


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_options_shown_describe_the_same_machine(name: str) -> None:
    from fitcalc.machine import machine_of

    machine = recorded(name).machine
    words = options_of(recorded(name)).split()
    if not words or "-mig-" in str(machine.gpus):
        return
    pairs = list(zip(words[::2], words[1::2], strict=True))
    given = {option: [value for key, value in pairs if key == option] for option, _ in pairs}
    ram, used = given.get("--ram", [None])[0], given.get("--gpu-used", [None])[0]
    other = machine_of(given.get("--gpu"), given.get("--cpu", [None])[0], ram, used)
    assert len(other.gpus) == len(machine.gpus)
    for mine, theirs in zip(machine.gpus, other.gpus, strict=True):
        assert mine.id == theirs.id or theirs.id.startswith("custom-")


@pytest.mark.parametrize(
    "name", ["two_rtx_3090", "raspberry_pi_5", "m3_max_64", "unknown_card", "strix_halo", "a100_mig"]
)
def test_a_detected_machine_is_planned_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recorded(name)
    monkeypatch.setattr("fitcalc.detection.look", lambda: found)
    report = fitcalc.fit("llama-3.2-1b", quant="q4_k_m", context=2048)
    assert report.verdict in ("fits", "tight")
    assert any("detected" in note for note in report.notes)


def test_what_is_given_wins_over_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitcalc.detection.look", lambda: recorded("two_rtx_3090"))
    machine = this_machine(ram="16GB", gpu_used="1GiB")
    assert (machine.ram_bytes, machine.gpu_used_bytes) == (16 * GIB, GIB)
    monkeypatch.setattr("fitcalc.detection.look", lambda: recorded("nonsense"))
    with pytest.raises(RequestError, match="none detected"):
        this_machine()
    assert this_machine(ram=8 * GIB).ram_bytes == 8 * GIB


# --- programs


def _script(folder: Path, text: str) -> tuple[str]:
    path = folder / "tool"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return (str(path),)


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
@pytest.mark.parametrize(
    ("text", "status"),
    [("echo yes", "ok"), ("echo no; exit 9", "failed"), ("exec sleep 30", "hung"), ("exec yes", "failed")],
)
def test_programs_are_bounded(text: str, status: str, tmp_path: Path) -> None:
    before = time.perf_counter()
    answer = run_program(_script(tmp_path, text), limit_s=1.5)
    assert answer.status == status
    assert len(answer.text) <= 8_000_000
    assert time.perf_counter() - before < 8


def test_a_program_that_is_not_there_is_missing() -> None:
    assert run_program(("no-such-tool-of-any-maker",)).status == "missing"


@given(st.text(max_size=300))
@settings(deadline=None, max_examples=60)
def test_no_text_of_a_tool_breaks_detection(text: str) -> None:
    tools = ("nvidia-smi", "amd-smi", "rocm-smi", "xpu-smi", "clinfo", "sysctl", "system_profiler", "vm_stat", "reg")
    files = {
        "/proc/meminfo": text, "/proc/cpuinfo": text, "/proc/self/cgroup": text, "/proc/version": text,
        "/sys/class/drm/card0/device/vendor": "0x1002", "/sys/class/drm/card0/device/uevent": text,
        "/sys/class/drm/card0/device/mem_info_vram_total": text, "/usr/share/libdrm/amdgpu.ids": text,
    }  # fmt: skip
    for platform in ("linux", "darwin", "win32"):
        content = {"platform": platform, "files": files, "commands": dict.fromkeys((*tools, "powershell"), text)}
        found = look(probe_of(content))
        assert json.loads(detected_json(found, (), "0"))["schema_version"] == 1


def test_small_readers() -> None:
    assert json_in('WARNING: [x] {y}\n{"a": [1]} tail') == {"a": [1]}
    assert json_in("{" * 50_000) is None
    assert whole(" 12\n") == 12
    assert whole("-1") is whole("1.5") is whole("٣") is whole("9" * 30) is None
    assert first_line("\n \x1b[31mred\n") == "[31mred"


# --- NVIDIA's library


class _LibraryError(Exception):
    """The library's own."""


def _refuse() -> None:
    raise _LibraryError("Not Supported")


def _library() -> SimpleNamespace:
    """As much of pynvml as is asked: an A100 in MIG mode, an RTX 3090, and a GB10 without memory of its own."""
    cards = ("a100", "3090", "gb10")
    names = {
        "a100": "NVIDIA A100-SXM4-40GB", "3090": "NVIDIA GeForce RTX 3090", "gb10": "NVIDIA GB10",
        "instance": "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
    }  # fmt: skip
    sizes = {"instance": (19968, 0), "3090": (24576, 453)}

    def memory(handle: str, _version: int = 1) -> SimpleNamespace | None:
        total, reserved = sizes.get(handle, (0, 0))
        return SimpleNamespace(total=total * MIB, used=100 * MIB, reserved=reserved * MIB) if total else _refuse()

    functions = {
        "Init": lambda: None,
        "Shutdown": lambda: None,
        "DeviceGetCount": lambda: len(cards),
        "DeviceGetHandleByIndex": lambda index: cards[index],
        "DeviceGetName": lambda handle: names[handle],
        "DeviceGetUUID": lambda handle: f"GPU-{handle}".encode(),
        "DeviceGetCudaComputeCapability": lambda _handle: (8, 6),
        "DeviceGetMigMode": lambda handle: (1, 1) if handle == "a100" else _refuse(),
        "DeviceGetMaxMigDeviceCount": lambda _handle: 7,
        "DeviceGetMigDeviceHandleByIndex": lambda _handle, number: _refuse() if number else "instance",
        "DeviceGetMemoryInfo": memory,
    }
    return SimpleNamespace(
        NVMLError=_LibraryError, nvmlMemory_v2=2, **{f"nvml{name}": function for name, function in functions.items()}
    )


def test_nvidia_library_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _library())
    content: dict[str, Any] = {"files": {}}
    probe = probe_of(content)
    probe = Probe(probe.run, probe.read, probe.entries, "linux", {}, 4, 4, nvml=True)
    found, notes = nvidia.find(probe)
    assert notes == []
    assert [(gpu.role, gpu.source) for gpu in found] == [
        ("left_out", "NVML"), ("card", "NVML"), ("integrated", "NVML"),
    ]  # fmt: skip
    card = found[1].device
    assert card is not None
    assert card.usable_bytes == (24576 - 453) * MIB


# --- measuring and keeping


def test_reading_is_timed_within_its_bounds() -> None:
    passes = measure.timed_reads(2, 4 * MIB, 0.05)
    assert passes is not None
    one = passes.measured("reading", "cpu", "read", 2)
    assert 1e8 < one.low_per_s <= one.per_s <= one.high_per_s < 1e13
    assert one.passes >= 3


@pytest.mark.parametrize(("free_gib", "cache_mib"), [(64, 32), (1, 64), (0.1, 260), (512, 1024)])
def test_no_more_than_a_part_of_free_memory_is_taken(free_gib: float, cache_mib: int) -> None:
    size, note = measure.read_bytes(int(free_gib * GIB), cache_mib * MIB)
    assert size <= free_gib * GIB / 4 or size == MIB
    assert size <= 4 * GIB
    assert bool(note) == (size < 2 * cache_mib * MIB)


def test_caches_are_counted_once_each(tmp_path: Path) -> None:
    for cpu, shared in (("cpu0", "0-1"), ("cpu1", "0-1"), ("cpu2", "2-3")):
        place = tmp_path / cpu / "cache" / "index3"
        place.mkdir(parents=True)
        for name, text in (("size", "32768K"), ("level", "3"), ("shared_cpu_list", shared)):
            (place / name).write_text(f"{text}\n", encoding="utf-8")
    assert measure.cache_bytes(str(tmp_path)) == 2 * 32 * MIB
    assert measure.cache_bytes(str(tmp_path / "none")) == 64 * MIB


def test_a_gpu_copy_counts_what_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []

    def ones(size: int, **_place: str) -> SimpleNamespace:
        return SimpleNamespace(size=size, copy_=lambda source: (copied.append(source.size), time.sleep(0.01)))

    backend = SimpleNamespace(is_available=lambda: True, synchronize=lambda: None)
    torch = SimpleNamespace(
        cuda=backend, backends=SimpleNamespace(), uint8="uint8", ones=ones, empty_like=lambda array: array
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(measure, "_COPY_S", 0.05)
    (one,), note = measure.gpu_copies(recorded("two_rtx_3090"))
    assert note == ""
    assert set(copied) == {GIB}
    assert one.per_s <= 2 * GIB / 0.01
    assert one.per_s == pytest.approx(2 * GIB / 0.01, rel=0.5)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "torch or cupy" in measure.gpu_copies(recorded("two_rtx_3090"))[1]


def _timed(device: str, per_s: float, kind: Literal["read", "copy"] = "read") -> Measured:
    return Measured("reading 1 GiB", device, kind, per_s, per_s * 0.98, per_s * 1.01, 9, 4)


@pytest.mark.parametrize(
    ("name", "read_gb_per_s", "peak_gb_per_s"),
    [
        ("two_rtx_3090", 82.0, 102.4),  # 0.8 of the data sheet's peak: confirmed
        ("two_rtx_3090", 40.0, 50.0),  # one memory module in place of two
        ("raspberry_pi_5", 9.1, 17.1),  # the board's own measured share of its peak
        ("raspberry_pi_5", 4.55, 8.55),
    ],
)
def test_a_measurement_is_kept_and_used(
    name: str, read_gb_per_s: float, peak_gb_per_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = recorded(name)
    for _ in range(2):  # a second time it is written anew
        (note,) = saving.save_all(found, [_timed("cpu", read_gb_per_s * 1e9)])
        assert str(tmp_path) in note
    device = recorded(name).cpu.device
    assert device is not None
    assert device.read_bandwidth_bytes_per_s == pytest.approx(read_gb_per_s * 1e9)
    assert device.bandwidth_bytes_per_s == pytest.approx(peak_gb_per_s * 1e9, rel=2e-3)
    assert any("Measured on" in note for note in device.notes)


def test_a_cpu_without_a_profile_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = recorded("virtual_display")
    products = Measured("multiplying", "cpu", "multiply", 1e11, 9e10, 1.1e11, 5, 2)
    saving.save_all(found, [_timed("cpu", 2e10), products])
    again = recorded("virtual_display").machine.cpu
    assert again is not None
    assert (again.id, again.cores) == ("intel-xeon", 2)
    assert (again.bandwidth_bytes_per_s, again.fp32_flop_per_s) == (2.5e10, 1e11)
    assert fitcalc.fit("qwen2.5-0.5b", cpu="intel-xeon", ram="8GB").speed.decode_tokens_per_s is not None


def test_a_profile_of_ones_own_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    place = tmp_path / "fitcalc" / "profiles" / "cpus" / "raspberry-pi-5-8gb.toml"
    place.parent.mkdir(parents=True)
    place.write_text('name = "Mine"\nvendor = ""\nkind = "cpu"\n', encoding="utf-8")
    with pytest.raises(ProfileError, match="your own") as error:
        saving.save_all(recorded("raspberry_pi_5"), [_timed("cpu", 9e9)])
    assert "read_bandwidth" in error.value.hint
    assert place.read_text(encoding="utf-8").startswith('name = "Mine"')


def test_a_gpu_keeps_its_data_sheet_where_the_copy_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    saving.save_all(recorded("two_rtx_3090"), [_timed("NVIDIA GeForce RTX 3090", 840e9, "copy")])
    device = fitcalc.load_device("rtx-3090")
    assert (device.read_bandwidth_bytes_per_s, device.bandwidth_bytes_per_s) == (840e9, 936e9)
    assert device.fp16_flop_per_s


@given(st.text(max_size=40), st.text(max_size=40))
def test_profiles_are_written_as_they_are_read(name: str, note: str) -> None:
    content = {"name": name, "cores": 4, "tdp_watt": 1.5, "notes": [note], "ambiguous": {"a b": name}}
    assume_text = name + note
    if any("\ud800" <= char <= "\udfff" for char in assume_text):
        return
    assert tomllib.loads(saving.toml_text(content)) == content


# --- data


def test_every_listed_board_has_its_profiles() -> None:
    for entry in known.facts()["machine"]:
        for profile in entry["profiles"]:
            assert fitcalc.load_device(profile).id == profile


@pytest.mark.parametrize(
    ("model", "profiles"),
    [
        ("Raspberry Pi Compute Module 5 Rev 1.0", "raspberry-pi-5"),
        ("Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberry-pi-3b-plus"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2w"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "jetson-orin-nano"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "jetson-t5000"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("Radxa ROCK 5B", "orange-pi-5"),
        ("Xunlong Orange Pi 5 Plus", "orange-pi-5"),
        ("Dell Inc. PowerEdge R760", ""),
        ("Raspberry Pi 3 Model B Rev 1.2", ""),
    ],
)
def test_boards_by_the_model_that_firmware_reports(model: str, profiles: str) -> None:
    found = known.machine_profiles(model)
    assert bool(found) == bool(profiles)
    assert all(profile.startswith(profiles) for profile in found)


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("AMD Radeon Graphics", True),
        ("AMD Radeon 780M", True),
        ("Radeon 8060S Graphics", True),
        ("AMD Radeon Vega 8 Graphics", True),
        ("AMD Radeon(TM) Graphics", True),
        ("Raphael", True),
        ("Intel(R) UHD Graphics 770", True),
        ("Intel(R) Iris(R) Xe Graphics", True),
        ("Intel(R) Arc(TM) Graphics", True),
        ("Intel(R) Arc(TM) 140V GPU (16GB)", True),
        ("Intel(R) HD Graphics 4600", True),
        ("Intel(R) Arc(TM) A770 Graphics", False),
        ("Intel(R) Arc(TM) Pro B60 Graphics", False),
        ("AMD Radeon RX 7900 XTX", False),
        ("AMD Radeon RX 6700M", False),
        ("AMD Radeon Pro W7900", False),
        ("Radeon RX Vega 64", False),
        ("Radeon VII", False),
        ("AMD Instinct MI300X", False),
        ("AMD Radeon AI PRO R9700", False),
    ],
)
def test_gpus_inside_of_cpus_by_their_names(name: str, inside: bool) -> None:
    assert known.is_integrated(known.plain_name(name)) == inside


def test_limits_without_any_group_are_none() -> None:
    cpu, ram = host.linux(probe_of({"files": {"/proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 900 kB\n"}}))
    assert (ram.total_bytes, ram.available_bytes, ram.limit_bytes) == (1000 * KIB, 900 * KIB, None)
    assert cpu.usable_threads == 4


# --- this computer


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment}
    command = [sys.executable, "-m", "fitcalc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_this_computer_is_looked_at() -> None:
    done = _run("detect")
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in (done.stdout + done.stderr).splitlines())
    told = json.loads(_run("detect", "--json").stdout)
    assert told["cpu"]["name"]
    assert "Traceback" not in done.stderr
    assert isinstance(fitcalc.detect(), fitcalc.Machine)


def test_keeping_without_measuring_is_refused() -> None:
    done = _run("detect", "--save")
    assert done.returncode == 2
    assert "--measure" in done.stderr
