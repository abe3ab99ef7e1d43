"""fitcalc models | devices | quants | engines: what the catalogue holds."""

from __future__ import annotations

import json
from typing import Any

import click

from fitcalc.cli.options import profiles_option


def _list(title: str, kinds: tuple[str, ...], filter_text: str | None, as_json: bool, profiles: str | None) -> int:
    from fitcalc import catalog

    if profiles:
        catalog.use_folders([profiles])
    rows = [row for kind in kinds for row in catalog.summaries(kind)]
    if filter_text:
        needle = filter_text.lower()
        rows = [row for row in rows if needle in " ".join(str(value) for value in row.values()).lower()]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, title: rows}, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        click.echo(f"no {title} match {filter_text!r}", err=True)
        return 0
    from itertools import groupby

    from fitcalc.render.lists import list_table

    # Kinds of profiles have columns of their own.
    tables = [list_table(list(group)) for _, group in groupby(rows, key=list)]
    click.echo("\n\n".join(tables))
    return 0


def _command(title: str, kinds: tuple[str, ...], help_text: str, name: str = "") -> click.Command:
    @click.command(name or title, help=help_text)
    @click.argument("filter_text", required=False, metavar="[TEXT]")
    @click.option("--json", "as_json", is_flag=True, help="As JSON.")
    @profiles_option
    def command(**given: Any) -> int:
        return _list(title, kinds, **given)

    return command


list_models = _command(
    "models", ("models", "pipelines"), "Models of the catalogue, those that hold TEXT if given.", name="list"
)
devices = _command("devices", ("gpus", "cpus", "nodes"), "GPUs, CPUs, boards and whole nodes of the catalogue.")
quants = _command("quants", ("quants",), "Quantizations: what they are and which engines run them.")
engines = _command("engines", ("engines",), "Engines and their versions.")
