"""What a container runs: the words of the start command, with paths and programs as the container has them."""

from __future__ import annotations

import os
import re

from fitcalc.emission.server import Server
from fitcalc.emission.start import node_scripts, server_words, steps_of, written_file
from fitcalc.frozen import dataclass, field

MODELS = "/models"
"""Where a container finds models that lie on this machine."""
FILES = "/etc/fitcalc"
"""Where a container finds the files that a start writes."""
_SHELL = ("/bin/sh", "-c")
_FROM = "FROM "
"""The line of a Modelfile that names the model."""


@dataclass(frozen=True, slots=True)
class Run:
    """One start in containers."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    worker: tuple[str, ...] = ()
    """What the other nodes run, behind the same program; () where there are none."""
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Name in FILES -> content."""
    folder: str = ""
    """Folder on this machine that is mounted at `mount`; '' where the model is downloaded."""
    mount: str = ""
    created: str = ""
    """The name under which Ollama gets the model."""


def run_of(server: Server, command: str, cards: int) -> Run:
    """The start of a server by its command; `cards` is their number where they are on several nodes, else 0."""
    if server.kind == "ollama":
        return _ollama(command)
    if cards:
        return _over_nodes(server, command, cards)
    steps = steps_of(command)
    files = dict(file for step in steps if (file := written_file(step)))
    environment, words = server_words(steps[-1])
    words = words[_program_length(words, server) :]
    at = _model_place(words, server)
    folder, mount, inside = _mounted(words[at]) if _lies_here(words, at) else ("", "", words[at])
    words = (*words[:at], inside, *words[at + 1 :])
    arguments = tuple(f"{FILES}/{word}" if word in files else word for word in words)
    return Run(server.program, (*arguments, *server.listen), (), environment, files, folder, mount)


def _program_length(words: tuple[str, ...], server: Server) -> int:
    """How many words of a start command are the program: `python -m module` has three, `vllm serve` two."""
    return 3 if words[1] == "-m" and words[0] == "python" else 2 if words[:2] == server.program else 1


def _model_place(words: tuple[str, ...], server: Server) -> int:
    """Where the model stands among the words."""
    return next((words.index(name) + 1 for name in server.model_arguments if name in words), 0)


def _lies_here(words: tuple[str, ...], at: int) -> bool:
    """The model is a file or folder of this machine (a placeholder for a file too), not a repository."""
    return is_path(words[at]) or words[at - 1 : at] == ("-m",)


def is_path(name: str) -> bool:
    """A path of this machine, rather than a repository or a placeholder for one."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..")


def _mounted(path: str) -> tuple[str, str, str]:
    """(folder on this machine, where it is mounted, the model's path there). A file may have parts beside it."""
    place = os.path.abspath(os.path.expanduser(path))
    if path.endswith((".gguf", ".gguf>")):
        return os.path.dirname(place), MODELS, f"{MODELS}/{os.path.basename(place)}"
    mount = f"{MODELS}/{re.sub(r'[^A-Za-z0-9._-]+', '-', os.path.basename(place)).strip('-.') or 'model'}"
    return place, mount, mount


def _over_nodes(server: Server, command: str, cards: int) -> Run:
    """A script for the first node, another for the rest; a folder has the same path on every node."""
    first, others = (_as_in_image(script, server) for script in node_scripts(command, cards))
    words = next(step.words for step in reversed(steps_of(command)) if step.place == "first")
    words = words[_program_length(words, server) :]
    at = _model_place(words, server)
    folder = mount = os.path.abspath(os.path.expanduser(words[at])) if is_path(words[at]) else ""
    listening = " ".join((first, *server.listen))
    return Run(_SHELL, (f"{listening}\n",), (f"{others}\n",), {}, {}, folder, mount)


def _as_in_image(script: str, server: Server) -> str:
    """The program as the image calls it."""
    return script.replace("exec python -m ", f"exec {server.program[0]} -m ") if "-m" in server.program else script


def _ollama(command: str) -> Run:
    """The server, and what gives it the model once it answers."""
    steps = steps_of(command)
    environment, _ = server_words(steps[0])
    created = next(step.words[2] for step in steps if step.words[:2] in (("ollama", "create"), ("ollama", "run")))
    written = dict(file for step in steps if (file := written_file(step)))
    lines = [line for content in written.values() for line in content.splitlines()]
    paths = [line.removeprefix(_FROM) for line in lines if line.startswith(_FROM) and is_path(line.removeprefix(_FROM))]
    moved = {f"{_FROM}{path}": f"{_FROM}{_mounted(path)[2]}" for path in paths}
    files = {name: "".join(f"{moved.get(line, line)}\n" for line in lines) for name in written}
    folder, mount, _ = _mounted(paths[0]) if paths else ("", "", "")
    gets = f"ollama create {created} -f {FILES}/{next(iter(files))}" if files else f"ollama pull {created}"
    script = (
        "ollama serve &\n"
        "trap 'kill \"$!\"' TERM INT\n"
        "until ollama list > /dev/null 2>&1; do sleep 1; done\n"
        f"{gets}\n"
        "wait\n"
    )
    return Run(_SHELL, (script,), (), environment, files, folder, mount, created)
