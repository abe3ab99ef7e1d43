"""fitcalc capacity MODEL: how many replicas a load needs, what requests see there, and what it costs."""

from __future__ import annotations

from typing import Any

import click

from fitcalc.cli.options import (
    device_options,
    model_argument,
    plan_options,
    price_options,
    profiles_option,
    split_options,
    tokens_or_auto,
)


@click.command("capacity")
@model_argument
@click.option("--rps", metavar="N", type=float, help="Requests per second.")
@click.option("--users", metavar="N", type=int, help="Users, who think between an answer and their next request.")
@click.option("--think-time", metavar="TIME", help="How long they do, such as 30s.")
@click.option("--prompt", metavar="N", help="Tokens of a prompt.  [default: 2048]")
@click.option("--output", metavar="N", help="Tokens of an answer.  [default: 256]")
@click.option("--trace", metavar="FILE", help="Real requests instead, a CSV: arrival, prompt and output tokens.")
@click.option("--max-ttft", metavar="TIME", help="Longest time to first token, such as 2s.")
@click.option("--max-tpot", metavar="TIME", help="Longest time per token, such as 50ms.")
@click.option(
    "--percentile", metavar="P", type=float, default=95.0, show_default=True, help="Of requests within the limits."
)
@click.option(
    "--head-room", metavar="SHARE", type=float, default=0.2, show_default=True, help="Of each replica's rate, free."
)
@device_options
@plan_options
@price_options
@click.option("--simulate", is_flag=True, help="Check the figures by a simulation, and print both.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON (schema_version 1).")
@profiles_option
def command(
    model: str,
    gpu: tuple[str, ...],
    context: str | None,
    concurrency: str,
    options: tuple[str, ...],
    as_json: bool,
    profiles: str | None,
    **given: Any,
) -> int:
    """How many replicas of MODEL carry a load within limits on time, on how many devices, and what that costs.

    Without a number of GPUs (--gpu h100, not h100:2), the cheapest number per replica is taken. Without --concurrency,
    each replica runs as many requests at once as carry most.
    """
    from fitcalc import catalog
    from fitcalc.cli import VERDICT_EXIT
    from fitcalc.fleets.asking import capacity
    from fitcalc.units import parse_tokens

    if profiles:
        catalog.use_folders([profiles])
    source = click.get_current_context().get_parameter_source("concurrency")
    is_given = source is not click.core.ParameterSource.DEFAULT
    counts: dict[str, Any] = {
        name: None if text is None else parse_tokens(text)
        for name, text in (("prompt", given["prompt"]), ("output", given["output"]), ("context", context))
    }
    same = ("rps", "users", "think_time", "trace", "max_ttft", "max_tpot", "percentile", "head_room", "cpu", "ram",
            "gpu_used", "quant", "engine", "kv_dtype", "provider", "spot", "prices", "simulate")  # fmt: skip
    found = capacity(
        model,
        gpu=list(gpu) or None,
        concurrency=tokens_or_auto(concurrency) if is_given else "auto",
        tensor_parallel=given["tp"],
        pipeline_parallel=given["pp"],
        data_parallel=given["dp"],
        expert_parallel=given["ep"],
        engine_options=split_options(options),
        **counts,
        **{name: given[name] for name in same},
    )
    _show(found, as_json=as_json)
    return VERDICT_EXIT[found.verdict]


def _show(found: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(found.to_json())
        return
    from fitcalc.cli.fit import show_notes
    from fitcalc.render.capacity_text import capacity_text
    from fitcalc.render.style import style_of_stdout

    click.echo(capacity_text(found, style_of_stdout()))
    show_notes(found.notes)
