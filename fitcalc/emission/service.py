"""The container of a plan: image, what it runs, volumes, cards, memory, and when it is healthy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fitcalc.catalog import load_device
from fitcalc.emission.run import Run, run_of
from fitcalc.emission.server import Containers, Server
from fitcalc.errors import RequestError
from fitcalc.frozen import dataclass
from fitcalc.spec.hardware import Device
from fitcalc.spec.report import FitReport
from fitcalc.units import GIB, ceil_div, format_asked, format_gib, round_up

_LONGEST_NAME = 40
"""Kubernetes allows 63 characters, and what it makes of a name has a suffix."""


@dataclass(frozen=True, slots=True)
class Service:
    """One server, in a container on one node or one on each of several."""

    name: str
    """Lower case letters, digits and hyphens."""
    title: tuple[str, ...]
    """Lines that say what this is."""
    image: str
    run: Run
    nodes: int
    environment: dict[str, str]
    port: int
    health: str
    check: tuple[str, ...]
    """Command in the container that succeeds when the server is healthy."""
    asks_command: bool
    """Health is what `check` says, not what the path answers."""
    startup_s: int
    cache: str
    """Folder in the container that keeps what was downloaded."""
    cache_bytes: int
    downloads: bool
    """The model comes from a repository."""
    vendor: str
    cards: int
    """On each node."""
    resource: str
    """What Kubernetes calls a card."""
    shared_memory_bytes: int
    memory_bytes: int
    """Host memory to ask for on each node, shared memory in it."""
    cores: int


def service_of(report: FitReport, server: Server, known: Containers) -> Service:
    """The service of a report. Raises RequestError where no image of the server runs on the devices."""
    command = report.recommendation.command if report.recommendation else ""
    device, total = _cards(report)
    image = _image(report, server, device, total)
    nodes = _nodes(report, total)
    ranks = total // nodes
    run = run_of(server, command, total if nodes > 1 else 0)
    shared = known.shared_memory_bytes if ranks < 2 else ranks * known.shared_memory_per_rank_bytes
    startup_s = int(ceil_div(report.checkpoint_bytes, int(known.read_bytes_per_s))) + server.warm_up_s
    return Service(
        name=name_of(report),
        title=tuple(_title(report, server, known, startup_s)),
        image=image,
        run=run,
        nodes=nodes,
        environment=server.environment | run.environment,
        port=server.port,
        health=server.health,
        check=("ollama", "show", run.created) if run.created else server.check or _asking(server),
        asks_command=bool(run.created),
        startup_s=startup_s,
        cache=server.cache,
        cache_bytes=int(round_up(report.checkpoint_bytes * known.cache_percent // 100 + 1, GIB)),
        downloads=not run.folder,
        vendor=device.vendor if device and total else "",
        cards=ranks,
        resource=known.resources.get(device.vendor, known.resources["nvidia"]) if device else "",
        shared_memory_bytes=shared,
        memory_bytes=_host_bytes(report, known, max(ranks, 1)) + shared,
        cores=_cores(report, known, ranks),
    )


def _asking(server: Server) -> tuple[str, ...]:
    """A command that succeeds when the server answers at its path of health."""
    return ("python3", "-c", f"import urllib.request as u; u.urlopen('http://localhost:{server.port}{server.health}')")


# --- what it needs ----------------------------------------------------------------------------------------------------


def _cards(report: FitReport) -> tuple[Device | None, int]:
    """(the first card, cards that have work); (the CPU, 0) without cards."""
    found = [load_device(entry["id"]) for entry in report.inputs["devices"] if not _is_size(entry["id"])]
    gpus = {device.id for device in found if device.kind != "cpu"}
    sizes = {entry["id"] for entry in report.inputs["devices"] if _is_size(entry["id"])}
    at_work = sum(entry.id in gpus | sizes and entry.total_bytes > 0 for entry in report.devices)
    return (found[0] if found else None), at_work


def _is_size(name: str) -> bool:
    """A card that was given by its memory alone."""
    return name.startswith("custom-")


def _nodes(report: FitReport, cards: int) -> int:
    """Nodes that have a rank."""
    machine_cards = sum(entry["count"] for entry in report.inputs["devices"])
    return int(ceil_div(cards, machine_cards // report.inputs["nodes"])) if report.inputs["nodes"] > 1 else 1


def _image(report: FitReport, server: Server, device: Device | None, cards: int) -> str:
    names = ["cpu"] if not cards else [device.arch, device.vendor] if device else ["nvidia"]
    image = next((server.images[name] for name in names if name in server.images), "")
    if image:
        return image
    where = report.inputs["devices_name"]
    hint = f"--emit {server.kind} starts it without a container"
    raise RequestError(f"no image of {report.inputs['engine_name']} is known to run on {where}", hint=hint)


def _host_bytes(report: FitReport, known: Containers, ranks: int) -> int:
    """Host memory of a node: what the ledger of the host says, else a fixed sum per rank."""
    gpus = {entry["id"] for entry in report.inputs["devices"]} if _cards(report)[1] else set()
    hosts = [entry.high_bytes for entry in report.devices if entry.id not in gpus]
    least = known.host_memory_per_rank_bytes * ranks if not hosts else GIB
    return int(round_up(max(*hosts, least) if hosts else least, GIB))


def _cores(report: FitReport, known: Containers, ranks: int) -> int:
    if ranks:
        return known.cores + ranks * known.cores_per_rank
    device, _ = _cards(report)
    return (device.cores if device else None) or known.cores


# --- how it is called -------------------------------------------------------------------------------------------------


def name_of(report: FitReport) -> str:
    """The plan as a name: model and quantization."""
    return _slug(f"{report.model['id']}-{report.inputs['quant']}")[:_LONGEST_NAME].strip("-") or "model"


def _slug(text: str) -> str:
    """A DNS label of the text; it starts with a letter."""
    found = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return found if not found or found[0].isalpha() else f"m-{found}"


def plan_line(report: FitReport, version: str) -> str:
    """'Llama 3.1 70B · AWQ · vLLM 0.32.0 · 1 × A100 SXM4 80GB'."""
    inputs = report.inputs
    engine = re.sub(r" \(.*|(?<=[A-Za-z]) [0-9.]+$", "", inputs["engine_name"])
    parts = (report.model["name"], inputs["quant_name"], f"{engine} {version}", inputs["devices_name"])
    return " ".join(" · ".join(parts).split())


def _title(report: FitReport, server: Server, known: Containers, startup_s: int) -> Iterator[str]:
    inputs = report.inputs
    yield plan_line(report, server.version)
    asked = format_asked(inputs["context_tokens"], inputs["concurrency"])
    yield f"{asked}; planned by fitcalc {report.fitcalc_version}"
    rate = f"{known.read_bytes_per_s / 1e6:g} MB/s"
    size = format_gib(report.checkpoint_bytes, 1)
    yield f"Start-up may take {startup_s:,} s: {size} at {rate}, then {server.warm_up_s} s to warm up."
