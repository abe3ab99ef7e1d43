"""Start files: a settled plan as a shell script, a compose file or manifests for Kubernetes.

The words of the server are those of the report's own start command; what stands here is what surrounds them.
"""

from __future__ import annotations

from importlib import import_module

from fitcalc.emission.server import Server, containers, server_of
from fitcalc.emission.service import service_of
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.spec.report import FitReport

SCRIPTS = ("vllm", "sglang", "tgi", "tensorrt-llm", "llama.cpp", "ollama")
"""Kinds that are a shell script for one engine."""
MANIFESTS = {"docker-compose": "compose", "kubernetes": "kubernetes", "leaderworkerset": "leaderworkerset"}
"""Kinds that run a container of any of these engines -> their module."""
KINDS = (*SCRIPTS, *MANIFESTS)
_ALIASES = {"compose": "docker-compose", "k8s": "kubernetes", "lws": "leaderworkerset", "trtllm": "tensorrt-llm"}


def emit(report: FitReport, kind: str) -> str:
    """The plan of a report as a file: 'vllm', 'sglang', 'tgi', 'tensorrt-llm', 'llama.cpp' or 'ollama' (a script),
    'docker-compose', 'kubernetes' or 'leaderworkerset' (YAML). What has to be filled in stands as <words>.

    Raises UnknownNameError for another kind; RequestError where the kind does not go with the plan's engine, devices
    or nodes, and for a plan that does not fit.
    """
    kind = kind_of(kind)
    if report.recommendation is None or not report.recommendation.command:
        said = "does not fit" if report.verdict == "does_not_fit" else "cannot be decided"
        raise RequestError(f"nothing to start: the plan {said}", hint="the report names changes that help")
    server = server_of(report)
    _hold_to_engine(report, server, kind)
    _hold_to_nodes(report, kind)
    if kind in SCRIPTS:
        from fitcalc.emission.shell import script

        return script(report, server)
    written: str = import_module(f"fitcalc.emission.{MANIFESTS[kind]}").text(service_of(report, server, containers()))
    return written


def notes(report: FitReport, kind: str) -> tuple[str, ...]:
    """What a reader of the file has to do before it runs."""
    from fitcalc.emission.start import placeholders

    # A script takes what is open from the variable MODEL; a Modelfile in it cannot.
    by_hand = kind_of(kind) in MANIFESTS or kind_of(kind) == "ollama"
    found = [f"replace {word} in the file" for word in placeholders(report)] if by_hand else []
    if kind_of(kind) in MANIFESTS and any(entry["id"].startswith("custom-") for entry in report.inputs["devices"]):
        found.append("a card that was given by its size is taken as one of NVIDIA")
    if report.verdict == "tight":
        found.append("the plan is tight: the estimate fits, its high end does not")
    return tuple(found)


def kind_of(kind: str) -> str:
    """The kind by its name or another name for it. Raises UnknownNameError."""
    name = kind.strip().lower()
    name = _ALIASES.get(name, name)
    if name in KINDS:
        return name
    from difflib import get_close_matches

    raise UnknownNameError(
        "start file", kind, tuple(get_close_matches(name, KINDS, 2, 0.5)), hint="there are " + ", ".join(KINDS)
    )


def _hold_to_engine(report: FitReport, server: Server, kind: str) -> None:
    if kind not in SCRIPTS or kind == server.kind:
        return
    engine = report.inputs["engine_name"]
    hint = f"--emit {server.kind}, {', '.join(MANIFESTS)} go with it; for another engine add --engine {kind}"
    raise RequestError(f"--emit {kind}: the plan runs on {engine}", hint=hint)


def _hold_to_nodes(report: FitReport, kind: str) -> None:
    nodes = report.inputs["nodes"]
    if nodes < 2 or kind in SCRIPTS or kind == "leaderworkerset":
        return
    hint = "--emit leaderworkerset starts a group of pods, one on each node"
    raise RequestError(f"--emit {kind}: the plan divides the model over {nodes} nodes, and this starts one", hint=hint)
