"""fitcalc compare A B …: answers side by side."""

from __future__ import annotations

from typing import Any

import click

from fitcalc.cli.options import (
    device_options,
    names_completion,
    plan_options,
    profiles_option,
    split_options,
    tokens_or_auto,
)


@click.command("compare")
@click.argument("names", nargs=-1, required=True, shell_complete=names_completion("models", "gpus", "cpus", "quants"))
@click.option("--model", "-m", metavar="MODEL", help="The model, where devices or quantizations are compared.")
@device_options
@plan_options
@click.option("--json", "form", flag_value="json", help="The columns as JSON (schema_version 1).")
@click.option("--csv", "form", flag_value="csv", help="One row for each.")
@profiles_option
def command(
    names: tuple[str, ...],
    model: str | None,
    gpu: tuple[str, ...],
    context: str | None,
    concurrency: str,
    options: tuple[str, ...],
    form: str | None,
    profiles: str | None,
    **plan: Any,
) -> int:
    """Models, devices or quantizations side by side under the same request: NAMES are two or more of one kind."""
    from fitcalc import catalog
    from fitcalc.cli import VERDICT_EXIT
    from fitcalc.selection import compare

    if profiles:
        catalog.use_folders([profiles])
    found = compare(
        *names,
        model=model,
        gpu=list(gpu) or None,
        cpu=plan["cpu"],
        ram=plan["ram"],
        gpu_used=plan["gpu_used"],
        quant=plan["quant"],
        context=None if context is None else tokens_or_auto(context),
        concurrency=tokens_or_auto(concurrency),
        engine=plan["engine"],
        kv_dtype=plan["kv_dtype"],
        tensor_parallel=plan["tp"],
        pipeline_parallel=plan["pp"],
        data_parallel=plan["dp"],
        expert_parallel=plan["ep"],
        engine_options=split_options(options) or None,
    )
    _show(found, form)
    return min(VERDICT_EXIT[one.verdict] for one in found.columns)


def _show(found: Any, form: str | None) -> None:
    if form == "json":
        click.echo(found.to_json())
        return
    from fitcalc.render.compare_text import compare_csv, compare_text

    if form == "csv":
        click.echo(compare_csv(found), nl=False)
        return
    from fitcalc.cli.fit import show_notes
    from fitcalc.render.style import style_of_stdout

    click.echo(compare_text(found, style_of_stdout()))
    show_notes(found.notes)
