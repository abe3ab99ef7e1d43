"""This computer's devices: what drivers and the system report, matched to profiles, and the machine to plan for."""

from __future__ import annotations

from fitcalc.detection import amd, apple, host, intel, matching, nvidia, windows
from fitcalc.detection.known import facts, is_display, machine_profiles
from fitcalc.detection.probe import Probe, this_computer
from fitcalc.errors import RequestError
from fitcalc.frozen import replace
from fitcalc.machine import ram_size
from fitcalc.spec.detected import Detection, FoundCpu, FoundGpu, FoundRam
from fitcalc.spec.hardware import Device, Machine
from fitcalc.units import MIB, format_gib, parse_size

_UNTIMED = "how fast this CPU is, is not known: fitcalc detect --measure --save times it for later estimates"
_HINT = "name one: --gpu rtx-3060, --cpu raspberry-pi-5-8gb or --gpu 24GB"


def this_machine(*, ram: str | int | None = None, gpu_used: str | int | None = None) -> Machine:
    """The machine that fitcalc runs on; `ram` and `gpu_used` (bytes or text) replace what was found.

    Raises RequestError where neither a GPU nor the size of the RAM can be told.
    """
    machine = look().machine
    ram_bytes = ram_size(ram) if isinstance(ram, str) else ram
    used = parse_size(gpu_used) if isinstance(gpu_used, str) else gpu_used
    if ram_bytes is not None and ram_bytes <= 0:
        raise RequestError(f"ram {ram!r} is not a size of memory", hint="give it as 32GB or 64GiB")
    if used is not None and used < 0:
        raise RequestError(f"--gpu-used {gpu_used!r} is negative", hint="give what others hold, such as 600MiB")
    machine = machine if used is None else replace(machine, gpu_used_bytes=used)
    if ram_bytes is not None:
        cpu = machine.cpu and replace(machine.cpu, memory_bytes=ram_bytes, usable_bytes=ram_bytes)
        machine = replace(machine, ram_bytes=ram_bytes, cpu=cpu)
    if not machine.gpus and machine.ram_bytes is None:
        raise RequestError("no device given and none detected", hint=_HINT)
    return machine


def look(probe: Probe | None = None) -> Detection:
    """All that a computer tells in a few seconds; nothing that is missing, hangs or talks nonsense stops it."""
    probe = probe or this_computer()
    model = host.board(probe)
    around = host.surroundings(probe)
    if probe.platform == "darwin":
        cpu, ram, gpus, notes = apple.find(probe)
        return _detection(probe, cpu, ram, gpus, notes, model, around)
    is_windows = probe.platform == "win32"
    cpu, ram = host.windows(probe) if is_windows else host.linux(probe)
    gpus, notes = nvidia.find(probe)
    shared_bytes = 0
    if is_windows:
        gpus += windows.find(probe)
    else:
        found, more, shared_bytes = amd.find(probe)
        gpus, notes = gpus + found, notes + more
        found, more = intel.find(probe)
        gpus, notes = gpus + found, notes + more
    named = _named_machine(f"{model} {cpu.name} {' '.join(gpu.name for gpu in gpus)}", ram)
    if named is None or named.kind == "cpu":
        return _detection(probe, host.profiled(cpu, ram, named), ram, gpus, notes, model, around)
    gpus = _with_unified(gpus, named, ram, shared_bytes)
    return _detection(probe, cpu, ram, gpus, notes, model or named.name, around)


def _named_machine(description: str, ram: FoundRam) -> Device | None:
    """The profile of a board or computer that is known by its model."""
    return matching.nearest(matching.devices_of(machine_profiles(description)), ram.total_bytes)


def _with_unified(gpus: list[FoundGpu], named: Device, ram: FoundRam, shared_bytes: int) -> list[FoundGpu]:
    """The GPU of a computer whose memory is shared, sized by what is here, in place of what its driver tells."""
    total = ram.total_bytes if ram.limit_bytes is None else ram.limit_bytes
    if total is None:
        total = named.memory_bytes or 0
    kept = (named.memory_bytes or 0) - (named.usable_bytes or 0)
    usable = shared_bytes or max(total - kept, total // 2)
    used = 0 if ram.available_bytes is None else max(min(usable, total) - ram.available_bytes, 0)
    device = replace(named, memory_bytes=max(total, usable), usable_bytes=usable)
    own = next((gpu for gpu in gpus if gpu.vendor == named.vendor and gpu.role == "integrated"), None)
    name, source = (own.name, own.source) if own else (named.name, "the board's model")
    others = [gpu for gpu in gpus if gpu is not own]
    return [FoundGpu(name, named.vendor, source, device, profiled=True, used_bytes=used), *others]


def _detection(
    probe: Probe, cpu: FoundCpu, ram: FoundRam, gpus: list[FoundGpu], notes: list[str], model: str, around: str
) -> Detection:
    gpus = _chosen([gpu for gpu in gpus if not is_display(gpu.name)])
    notes = [*notes, *dict.fromkeys(gpu.note for gpu in gpus if gpu.note and gpu.role != "integrated")]
    notes += _limit_notes(cpu, ram, around)
    planned = [gpu for gpu in gpus if gpu.role == "card" and gpu.device]
    notes += _used_notes(planned)
    integrated = any(gpu.role == "integrated" for gpu in gpus)
    machine = _machine(planned, integrated, cpu, ram, notes)
    return Detection(probe.platform, machine, tuple(gpus), cpu, ram, model, around, tuple(notes))


def _chosen(gpus: list[FoundGpu]) -> list[FoundGpu]:
    """Cards of one maker, those with the most memory together; small ones beside large ones are for displays."""
    cards = [gpu for gpu in gpus if gpu.role == "card" and gpu.device]
    if not cards:
        return gpus
    sums: dict[str, int] = {}
    for gpu in cards:
        sums[gpu.vendor] = sums.get(gpu.vendor, 0) + _usable(gpu)
    vendor = max(sums, key=lambda name: sums[name])
    least = max(_usable(gpu) for gpu in cards if gpu.vendor == vendor) * facts()["gpus"]["least_share"]
    chosen = []
    for gpu in gpus:
        if gpu.role == "card" and gpu.vendor != vendor:
            note = f"{gpu.name} is left out: one engine does not run it together with the other maker's cards"
            gpu = replace(gpu, role="left_out", note=note)
        elif gpu.role == "card" and _usable(gpu) < least:
            note = f"{gpu.name} is left out: it is small beside the others; name all cards with --gpu to count it"
            gpu = replace(gpu, role="left_out", note=note)
        chosen.append(gpu)
    return chosen


def _usable(gpu: FoundGpu) -> int:
    return (gpu.device.usable_bytes or 0) if gpu.device else 0


def _machine(planned: list[FoundGpu], integrated: bool, cpu: FoundCpu, ram: FoundRam, notes: list[str]) -> Machine:
    device = host.cpu_device(cpu, ram)
    if not planned:
        told = [] if device.usable_bytes is None else [_cpu_words(device, integrated=integrated)]
        told += [] if device.bandwidth_bytes_per_s else [_UNTIMED]
        return Machine((), device, device.usable_bytes, 0, (*told, *notes))
    cards = tuple(gpu.device for gpu in planned if gpu.device)
    used = max(gpu.used_bytes for gpu in planned)
    unified = cards[0].kind == "unified"
    # A CPU without known rates would hide the speed of layers that are kept on the host.
    host_cpu = device if device.bandwidth_bytes_per_s and not unified else None
    told = [f"detected {_cards_words(planned)}{f', {format_gib(used)} of it in use by others' if used else ''}"]
    return Machine(cards, host_cpu, None if unified else device.usable_bytes, used, (*told, *notes))


def _cards_words(planned: list[FoundGpu]) -> str:
    """'2 × GeForce RTX 3090 (nvidia-smi)'."""
    counts: dict[str, int] = {}
    for gpu in planned:
        name = gpu.device.name if gpu.device else gpu.name
        counts[name] = counts.get(name, 0) + 1
    words = " + ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
    return f"{words} ({planned[0].source})"


def _cpu_words(device: Device, *, integrated: bool) -> str:
    total, usable = device.memory_bytes or 0, device.usable_bytes or 0
    cores = f", {device.cores} cores" if device.cores else ""
    free = f"the {format_gib(usable)} of {format_gib(total)} RAM that are free"
    seen = "only an integrated GPU" if integrated else "no GPU"
    return f"{seen} detected: sized for this CPU ({device.name}{cores}) and {free}"


def _used_notes(planned: list[FoundGpu]) -> list[str]:
    """A word where cards are in use to different degrees, because a plan takes the fullest for all."""
    used = [gpu.used_bytes for gpu in planned]
    if len(used) < 2 or max(used) - min(used) < 1024 * MIB:
        return []
    low, high = format_gib(min(used)), format_gib(max(used))
    return [
        f"others hold {low} to {high} of the cards: the most is counted on each; CUDA_VISIBLE_DEVICES leaves cards out"
    ]


def _limit_notes(cpu: FoundCpu, ram: FoundRam, around: str) -> list[str]:
    notes = []
    if ram.limit_bytes is not None and ram.total_bytes:
        notes.append(
            f"memory is limited to {format_gib(ram.limit_bytes)} of {format_gib(ram.total_bytes)} (control group)"
        )
    if cpu.usable_threads and cpu.threads and cpu.usable_threads < cpu.threads:
        notes.append(f"{cpu.usable_threads} of {cpu.threads} threads may be used")
    if around == "WSL" and ram.total_bytes:
        notes.append(f"WSL has {format_gib(ram.total_bytes)} of the RAM; memory= in .wslconfig gives it more")
    if cpu.sockets > 1 and cpu.device is not None:
        notes.append(f"{cpu.sockets} sockets are here; bandwidth and compute of one are counted")
    return notes
