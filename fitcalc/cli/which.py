"""fitcalc which: the models that run on a machine."""

from __future__ import annotations

from typing import Any

import click

from fitcalc.cli.options import device_options, names_completion, profiles_option


@click.command("which")
@device_options
@click.option("--use", metavar="USE", default="chat", help="chat, code, long-context, edge or all.  [default: chat]")
@click.option("--context", "-c", metavar="N", help="Tokens per request: 8192, 128k.  [default: that of the use]")
@click.option("--concurrency", "-n", metavar="N", default="1", help="Requests at once.  [default: 1]")
@click.option("--engine", "-e", metavar="ID", shell_complete=names_completion("engines"), help="Only this engine.")
@click.option("--top", metavar="N", type=click.IntRange(1), default=20, show_default=True, help="Rows to show.")
@click.option("--json", "form", flag_value="json", help="All models as JSON (schema_version 1).")
@click.option("--csv", "form", flag_value="csv", help="All models as CSV.")
@profiles_option
def command(
    use: str, context: str | None, concurrency: str, top: int, form: str | None, profiles: str | None, **given: Any
) -> int:
    """Which models run well on a machine, with the best quantization of each; without a device on this one.

    Well means: medium quality or better, and as fast as people read (10 tokens per second).
    """
    from fitcalc import catalog
    from fitcalc.cli import EXIT_DOES_NOT_FIT, EXIT_FITS
    from fitcalc.selection import which
    from fitcalc.units import parse_tokens

    if profiles:
        catalog.use_folders([profiles])
    given["gpu"] = list(given["gpu"]) or None
    found = which(
        use=None if use.strip().lower() == "all" else use.strip().lower(),
        context=None if context is None else parse_tokens(context),
        concurrency=parse_tokens(concurrency),
        **given,
    )
    _show(found, form, top)
    return EXIT_FITS if found.models else EXIT_DOES_NOT_FIT


def _show(found: Any, form: str | None, top: int) -> None:
    if form == "json":
        click.echo(found.to_json())
        return
    from fitcalc.render.which_text import which_csv, which_text

    if form == "csv":
        click.echo(which_csv(found), nl=False)
        return
    from fitcalc.cli.fit import show_notes
    from fitcalc.render.style import style_of_stdout

    click.echo(which_text(found, style_of_stdout(), top))
    show_notes(found.notes)
