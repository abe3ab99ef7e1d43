"""How one version of an engine's server runs in a container, and the arguments it takes: profiles/emission/."""

from __future__ import annotations

import os
from typing import Any

from fitcalc.catalog import load_engine
from fitcalc.catalog.files import packaged_folder, read_toml, user_folders
from fitcalc.errors import ProfileError, RequestError
from fitcalc.frozen import dataclass, field
from fitcalc.spec.report import FitReport
from fitcalc.units import parse_rate, parse_size

_CONTAINERS = "containers"


@dataclass(frozen=True, slots=True)
class Server:
    """The facts of profiles/emission/<engine id>.toml."""

    kind: str
    """The start file that is a script for it."""
    version: str
    """The version whose arguments and image these are."""
    program: tuple[str, ...]
    """The words in a container that stand for the program in a start command."""
    model_arguments: tuple[str, ...]
    """Arguments whose value is the model; '' where it stands first."""
    port: int
    health: str
    """Path that answers 200 once the model is loaded."""
    listen: tuple[str, ...]
    """Words that make it listen on every interface and on `port`."""
    cache: str
    """Folder into which it downloads models."""
    warm_up_s: int
    """From loaded weights to the first answer: compilation, captured graphs."""
    source: str
    images: dict[str, str]
    """Architecture or vendor of the devices -> image."""
    arguments: frozenset[str]
    """Every argument (for Ollama: variable and parameter) that this version takes."""
    check: tuple[str, ...] = ()
    """Command in the container that succeeds when the server is healthy; () asks `health` with Python."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Containers:
    """The facts of profiles/emission/containers.toml."""

    read_bytes_per_s: float
    shared_memory_bytes: int
    shared_memory_per_rank_bytes: int
    host_memory_per_rank_bytes: int
    cores: int
    cores_per_rank: int
    cache_percent: int
    resources: dict[str, str]
    """Vendor -> the name of its cards in Kubernetes."""


def server_of(report: FitReport) -> Server:
    """The server of the report's engine; RequestError for an engine that is no server or is not recorded."""
    engine = str(report.inputs["engine"])
    path = _path(engine)
    if path is None:
        name = report.inputs["engine_name"]
        servers = [other for other in _standard() if other != engine]
        hint = f"its command is in the report; there are start files for {', '.join(servers)}"
        raise RequestError(f"--emit: {name} is no server with start files", hint=hint)
    return load_server(path)


def load_server(path: str) -> Server:
    """The server that a file describes; ProfileError where it lacks something."""
    content = read_toml(path)
    try:
        return Server(
            kind=content["kind"],
            version=content["version"],
            program=tuple(content["program"]),
            model_arguments=tuple(content["model_arguments"]),
            port=content["port"],
            health=content["health"],
            listen=tuple(content["listen"]),
            cache=content["cache"],
            warm_up_s=content["warm_up_s"],
            source=content["source"],
            images=content["images"],
            arguments=frozenset(content["arguments"]["names"]),
            check=tuple(content.get("check", ())),
            environment=content.get("environment", {}),
        )
    except KeyError as error:
        raise ProfileError(
            f"{path}: {error.args[0]} is missing", hint="compare the files in profiles/emission"
        ) from error


def containers() -> Containers:
    """What a container needs beside the server."""
    content: dict[str, Any] = read_toml(_path(_CONTAINERS) or "")
    return Containers(
        read_bytes_per_s=parse_rate(content["read_rate"], "B"),
        shared_memory_bytes=parse_size(content["shared_memory"]),
        shared_memory_per_rank_bytes=parse_size(content["shared_memory_per_rank"]),
        host_memory_per_rank_bytes=parse_size(content["host_memory_per_rank"]),
        cores=content["cores"],
        cores_per_rank=content["cores_per_rank"],
        cache_percent=content["cache_percent"],
        resources=content["resources"],
    )


def _path(name: str) -> str | None:
    """The file of this name in the last folder that has one."""
    folders = (packaged_folder(), *user_folders())
    paths = [os.path.join(folder, "emission", f"{name}.toml") for folder in folders]
    return next((path for path in reversed(paths) if os.path.isfile(path)), None)


def _standard() -> list[str]:
    """The engines whose newest version is recorded, by their short id."""
    names = sorted(os.listdir(os.path.join(packaged_folder(), "emission")))
    ids = [name.removesuffix(".toml") for name in names if name != f"{_CONTAINERS}.toml"]
    return [name for name in ids if load_engine(name).id == name and "-" not in name.replace("tensorrt-llm", "")]
