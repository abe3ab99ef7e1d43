"""A plan as a file for `docker compose up`."""

from __future__ import annotations

import os
from typing import Any

from fitcalc.emission.run import FILES
from fitcalc.emission.service import Service
from fitcalc.emission.yaml_text import document
from fitcalc.units import GIB, ceil_div


def text(service: Service) -> str:
    """The compose file."""
    lines = [*service.title]
    if service.downloads:
        lines.append("HF_TOKEN of the shell (or of .env) is passed on, for repositories that ask for one.")
    return "".join(f"# {line}\n" for line in lines) + document(_content(service))


def _content(service: Service) -> dict[str, Any]:
    content: dict[str, Any] = {"name": service.name, "services": {"server": _service(service)}}
    if service.run.files:
        content["configs"] = {_config(name): {"content": _kept(body)} for name, body in service.run.files.items()}
    if service.downloads:
        content["volumes"] = {"model-cache": {}}
    return content


def _service(service: Service) -> dict[str, Any]:
    environment = {name: _kept(value) for name, value in service.environment.items()}
    environment |= {"HF_TOKEN": "${HF_TOKEN:-}"} if service.downloads else {}
    found: dict[str, Any] = {
        "image": service.image,
        "entrypoint": [_kept(word) for word in service.run.program],
        "command": [_kept(word) for word in service.run.arguments],
        "ports": [f"{service.port}:{service.port}"],
        "volumes": _volumes(service),
        "shm_size": f"{ceil_div(service.shared_memory_bytes, GIB)}gb",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", *(_kept(word) for word in service.check)],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": f"{service.startup_s}s",
        },
        **_cards(service),
    }
    if environment:
        found["environment"] = environment
    if service.run.files:
        found["configs"] = [{"source": _config(name), "target": f"{FILES}/{name}"} for name in service.run.files]
    return found


def _volumes(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if service.downloads:
        found.append({"type": "volume", "source": "model-cache", "target": service.cache})
    if service.run.folder:
        place = _kept(service.run.folder)
        found.append({"type": "bind", "source": place, "target": service.run.mount, "read_only": True})
    return found


def _cards(service: Service) -> dict[str, Any]:
    """How Docker hands on the cards of a vendor."""
    if not service.cards:
        return {}
    if service.vendor in ("amd", "intel"):
        nodes = ["/dev/kfd", "/dev/dri"] if service.vendor == "amd" else ["/dev/dri"]
        return {"devices": [f"{node}:{node}" for node in nodes], "group_add": ["video"], "ipc": "private"}
    wanted = {"driver": "nvidia", "count": service.cards, "capabilities": ["gpu"]}
    return {"deploy": {"resources": {"reservations": {"devices": [wanted]}}}}


def _kept(text: str) -> str:
    """The text as compose hands it on: it reads $ as the start of a variable."""
    return text.replace("$", "$$")


def _config(name: str) -> str:
    return os.path.splitext(name)[0].lower()
