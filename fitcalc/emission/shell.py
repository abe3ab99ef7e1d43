"""A plan as a shell script that starts the server where its program is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fitcalc.emission.server import Server
from fitcalc.emission.service import plan_line
from fitcalc.emission.start import Step, node_scripts, steps_of
from fitcalc.render.command import wrap_command
from fitcalc.spec.report import FitReport
from fitcalc.units import format_asked

_WIDTH = 100


def script(report: FitReport, server: Server) -> str:
    """The script; over several nodes the same one runs on each, with its number in NODE_RANK."""
    command = report.recommendation.command if report.recommendation else ""
    inputs = report.inputs
    asked = format_asked(inputs["context_tokens"], inputs["concurrency"])
    lines = ["#!/bin/sh", f"# {plan_line(report, server.version)}", f"# {asked}", "set -eu"]
    steps = steps_of(command)
    if any(step.place != "all" for step in steps):
        lines += _over_nodes(command, report)
    elif server.kind == "ollama":
        lines += _ollama(steps)
    else:
        lines += [line for step in steps for line in _wrapped(step.text)]
    return "\n".join(map(_required, lines)) + "\n"


def _wrapped(text: str) -> list[str]:
    """The command in lines; a loop stays on its own."""
    return [text] if text.startswith("until ") else wrap_command(text, _WIDTH)


def _ollama(steps: tuple[Step, ...]) -> Iterator[str]:
    """The server in the background, and the model once it answers."""
    for number, step in enumerate(steps):
        yield from _wrapped(step.text)
        if not number:
            yield "until ollama list > /dev/null 2>&1; do sleep 1; done"


def _over_nodes(command: str, report: FitReport) -> Iterator[str]:
    nodes = report.inputs["nodes"]
    first, others = node_scripts(command, sum(entry["count"] for entry in report.inputs["devices"]))
    yield ': "${FIRST_NODE:?is the address of the first node}"'
    numbers = "1 on the other" if nodes == 2 else f"1 to {nodes - 1} on the others"
    yield f'case "${{NODE_RANK:?is 0 on the first node, {numbers}}}" in'
    for pattern, body in (("0", first), ("*", others)):
        yield f"{pattern})"
        for line in body.splitlines():
            yield from (f"  {part}" for part in _wrapped(line))
        yield "  ;;"
    yield "esac"


def _required(line: str) -> str:
    """A line whose open words are variables: a shell that lacks one stops and says what it is for."""
    return line if line.startswith("#") else re.sub(r"(?<!\S)<([A-Za-z0-9._-]+)>(?!\S)", r'"${MODEL:?is \1}"', line)
