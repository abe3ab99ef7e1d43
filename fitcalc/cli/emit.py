"""--emit KIND: a file that starts the plan, in place of the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _kinds(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from fitcalc.emission import KINDS

    return [CompletionItem(kind) for kind in KINDS if kind.startswith(incomplete)]


def emit_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--emit."""
    said = "A file that starts the plan: vllm, llama.cpp …, docker-compose, kubernetes, leaderworkerset."
    return click.option("--emit", metavar="KIND", shell_complete=_kinds, help=said)(function)


def check_kind(kind: str | None, form: str | None, *, explain: bool) -> None:
    """Raise for a kind that there is not, or for two forms of one answer, before the plan is made."""
    if kind is None:
        return
    if form or explain:
        raise click.UsageError(f"--emit and --{form or 'explain'} are two forms of the answer: give one")
    from fitcalc.emission import kind_of

    kind_of(kind)


def show_start(found: Any, kind: str) -> None:
    """The start file alone on stdout, so that it can be piped; what is to be known beside it on stderr."""
    from fitcalc import emission
    from fitcalc.cli.fit import show_notes

    if found.verdict in ("does_not_fit", "unknown"):
        said = "does not fit" if found.verdict == "does_not_fit" else "cannot be decided"
        reason = found.recommendation.reasons[0] if found.recommendation.reasons else ""
        click.echo(f"nothing to start: the plan {said}" + (f": {reason}" if reason else ""), err=True)
        return
    click.echo(emission.emit(found, kind), nl=False)
    show_notes((*emission.notes(found, kind), *found.notes))
