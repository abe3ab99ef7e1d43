"""fitcalc MODEL: the main job."""

from __future__ import annotations

from typing import Any

import click

from fitcalc.cli.curve import CURVE_NAMES, curve_options, refuse_without_curve
from fitcalc.cli.emit import check_kind, emit_option, show_start
from fitcalc.cli.options import (
    device_options,
    help_option,
    media_options,
    model_argument,
    online_option,
    output_options,
    plan_options,
    profiles_option,
    split_options,
    tokens_or_auto,
)


@click.command("fit")
@model_argument
@device_options
@plan_options
@media_options
@curve_options
@online_option
@output_options
@emit_option
@click.option("--imatrix", is_flag=True, help="Types of a GGUF file that was made with an importance matrix.")
@click.option("--explain", is_flag=True, help="Every term with its formula, its inputs and their sources.")
@profiles_option
@help_option
def command(
    model: str,
    gpu: tuple[str, ...],
    cpu: str | None,
    ram: str | None,
    gpu_used: str | None,
    context: str | None,
    concurrency: str,
    options: tuple[str, ...],
    form: str | None,
    emit: str | None,
    imatrix: bool,
    explain: bool,
    profiles: str | None,
    online: bool,
    **plan: Any,
) -> int:
    """Will MODEL fit, what is each byte for, and how is it started? (The main job: `fit` may be left out.)"""
    from fitcalc import api, catalog
    from fitcalc.cli import VERDICT_EXIT
    from fitcalc.sources import load_model

    curve = {name: plan[name] for name in CURVE_NAMES}
    refuse_without_curve(curve)
    check_kind(emit, "curve" if curve["over"] else form, explain=explain)
    if profiles:
        catalog.use_folders([profiles])
    spec: Any = model
    if online or model.startswith("hf:"):
        from fitcalc.cli.progress import shown

        with shown():
            spec = load_model(model, online=online)
    asked: dict[str, Any] = {
        "gpu": list(gpu) or None,
        "cpu": cpu,
        "ram": ram,
        "gpu_used": gpu_used,
        "quant": plan["quant"],
        "context": None if context is None else tokens_or_auto(context),
        "concurrency": tokens_or_auto(concurrency),
        "engine": plan["engine"],
        "kv_dtype": plan["kv_dtype"],
        "tensor_parallel": plan["tp"],
        "pipeline_parallel": plan["pp"],
        "data_parallel": plan["dp"],
        "expert_parallel": plan["ep"],
        "engine_options": split_options((*options, "imatrix=true") if imatrix else options),
        "images": plan["images"] or 0,
        "image_size": plan["image_size"],
        "audio_seconds": plan["audio_seconds"],
        "resolution": plan["resolution"],
        "batch": None if plan["batch"] is None else tokens_or_auto(plan["batch"]),
    }
    if curve["over"]:
        from fitcalc.cli.curve import show_curve

        return show_curve(spec, curve, form, **asked)
    found = api.fit(spec, **asked)
    if emit:
        show_start(found, emit)
    else:
        _show(found, form, explain=explain)
    return VERDICT_EXIT[found.verdict]


def _show(found: Any, form: str | None, *, explain: bool) -> None:
    if form == "json":
        click.echo(found.to_json())
        return
    if form == "csv":
        from fitcalc.render.csv_text import report_csv

        click.echo(report_csv(found), nl=False)
        return
    if form == "markdown":
        from fitcalc.render.markdown import report_markdown

        click.echo(report_markdown(found))
    else:
        from fitcalc.render.style import style_of_stdout
        from fitcalc.render.text import report_text

        click.echo(report_text(found, style_of_stdout()))
    if explain:
        from fitcalc.render.explain import explain_text

        click.echo(explain_text(found))
    if found.notes:
        show_notes(found.notes)


def show_notes(notes: tuple[str, ...]) -> None:
    """Each note on stderr."""
    import sys

    from fitcalc.render.style import style_of
    from fitcalc.render.text import note_text

    style = style_of(sys.stderr)
    for note in notes:
        click.echo(note_text(note, style), err=True)
