"""The start command of a report read back: which words run on which node, the files it writes, what is left open."""

from __future__ import annotations

import re
import shlex

from fitcalc.engines.base import is_placeholder
from fitcalc.engines.distributed import HEAD
from fitcalc.frozen import dataclass
from fitcalc.spec.report import FitReport

_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.S)
_ALL, _FIRST, _OTHERS = "all", "first", "others"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a start."""

    place: str
    """Where it runs: 'all' (there is one node), 'first' or 'others'."""
    text: str
    """As a shell takes it, on one line."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words that a shell makes of it."""
        return tuple(shlex.split(self.text))


def steps_of(command: str) -> tuple[Step, ...]:
    """The commands in order; a comment line says where those after it run."""
    place, found = _ALL, []
    for line in re.sub(r"\s*\\\n\s*", " ", command).splitlines():
        if line.startswith("#"):
            place = _FIRST if line.startswith("# on the first node") else _OTHERS
        elif line.strip():
            found.append(Step(place, line.strip()))
    return tuple(found)


def server_words(step: Step) -> tuple[dict[str, str], tuple[str, ...]]:
    """(environment, words) of a command that starts with assignments; a trailing & is left out."""
    words = list(step.words)
    environment = {}
    while words and (match := _ASSIGNMENT.fullmatch(words[0])):
        environment[match[1]] = match[2]
        words.pop(0)
    return environment, tuple(word for word in words if word != "&")


def written_file(step: Step) -> tuple[str, str] | None:
    """(name, content) of the file that a `printf … > name` writes; None for another command."""
    words = step.words
    if words[0] != "printf" or ">" not in words:
        return None
    at = words.index(">")
    pattern, *values = words[1:at] + words[at + 2 :]
    pattern = pattern.replace("\\n", "\n")
    content = "".join(pattern.replace("%s", value) for value in values) if values else pattern
    return words[at + 1], content


def placeholders(report: FitReport) -> tuple[str, ...]:
    """What a start command leaves open beside the address of the first node: a repository, a file."""
    command = report.recommendation.command if report.recommendation else ""
    found = [word for word in re.findall(r"<[A-Za-z0-9._-]+>", command) if word != HEAD and is_placeholder(word)]
    return tuple(dict.fromkeys(found))


def node_scripts(command: str, cards: int) -> tuple[str, str]:
    """(what the first node runs, what each other node runs) of a start over several nodes with so many cards.

    The scripts read FIRST_NODE, the address of the first node, and NODE_RANK, from 1 on the others.
    """
    steps = steps_of(command)
    first = [_for_node(step.text) for step in steps if step.place == _FIRST]
    others = [_for_node(step.text) for step in steps if step.place == _OTHERS]
    if len(first) > 1:
        # The cluster of Ray: the server starts when all nodes have joined, and the others hold on to it.
        wait = f"until python3 -c '{_JOINED.format(cards=cards)}'; do sleep 5; done"
        first, others = [first[0], wait, *first[1:]], [f"{others[0]} --block"]
    return "\n".join([*first[:-1], f"exec {first[-1]}"]), f"exec {others[-1]}"


_JOINED = (
    'import ray; ray.init(address="auto", log_to_driver=False); '
    'raise SystemExit(ray.cluster_resources().get("GPU", 0) < {cards})'
)


def _for_node(text: str) -> str:
    """A command with the variables of a node in place of what the report leaves open."""
    named = re.sub(re.escape(HEAD) + r"(:\d+)?", r'"$FIRST_NODE\1"', text)
    return re.sub(r"\$N\b", '"$NODE_RANK"', named).replace("$((N ", "$((NODE_RANK ")
