"""fitcalc cost MODEL: what a plan costs to rent, to buy, and beside an API."""

from __future__ import annotations

import re
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

_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


def amount(text: str) -> float:
    """2500000 from '2.5M': k, M and B are thousands, millions and billions."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmb]?)\s*", text.lower().replace(",", ""))
    if match is None:
        raise click.UsageError(f"--tokens-per-day {text!r} is not a number of tokens, such as 500000, 2.5M or 1B")
    return float(match[1]) * _FACTORS[match[2]]


@click.command("cost")
@model_argument
@device_options
@plan_options
@price_options
@click.option("--utilization", metavar="SHARE", type=float, default=0.5, show_default=True, help="Busy share of a day.")
@click.option("--tokens-per-day", metavar="N", help="The load, prompts and answers together: 50M, 1B.")
@click.option("--prompt", metavar="N", help="Tokens of a prompt.  [default: 2048]")
@click.option("--output", metavar="N", help="Tokens of an answer.  [default: 256]")
@click.option("--years", metavar="N", type=float, default=3.0, show_default=True, help="Over which a card is paid off.")
@click.option("--electricity", metavar="USD", type=float, help="Price per kWh.  [default: United States average]")
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
    """What MODEL costs on that hardware: by the hour, by the million tokens, and from which load on it beats an API.

    Without --concurrency, as many requests as fit run at once.
    """
    from fitcalc import catalog
    from fitcalc.cli import VERDICT_EXIT
    from fitcalc.costs import cost

    if profiles:
        catalog.use_folders([profiles])
    tokens = given["tokens_per_day"]
    source = click.get_current_context().get_parameter_source("concurrency")
    is_given = source is not click.core.ParameterSource.DEFAULT
    found = cost(
        model,
        gpu=list(gpu) or None,
        cpu=given["cpu"],
        ram=given["ram"],
        gpu_used=given["gpu_used"],
        quant=given["quant"],
        context=None if context is None else tokens_or_auto(context),
        concurrency=tokens_or_auto(concurrency) if is_given else _requests(context),
        engine=given["engine"],
        kv_dtype=given["kv_dtype"],
        tensor_parallel=given["tp"],
        pipeline_parallel=given["pp"],
        data_parallel=given["dp"],
        expert_parallel=given["ep"],
        engine_options=split_options(options),
        provider=given["provider"],
        spot=given["spot"],
        utilization=given["utilization"],
        tokens_per_day=None if tokens is None else amount(tokens),
        prompt=_whole(given["prompt"]),
        output=_whole(given["output"]),
        years=given["years"],
        electricity=given["electricity"],
        prices=given["prices"],
    )
    _show(found, as_json=as_json)
    return VERDICT_EXIT[found.verdict]


def _requests(context: str | None) -> int | str:
    """As many as fit; one where the context is what is solved for."""
    from fitcalc.arguments import AUTO, is_auto

    return 1 if context is not None and is_auto(context) else AUTO


def _whole(text: str | None) -> int | None:
    from fitcalc.units import parse_tokens

    return None if text is None else parse_tokens(text)


def _show(found: Any, *, as_json: bool) -> None:
    if as_json:
        click.echo(found.to_json())
        return
    import sys

    from fitcalc.render.cost_text import cost_text
    from fitcalc.render.style import style_of, style_of_stdout
    from fitcalc.render.text import note_text

    click.echo(cost_text(found, style_of_stdout()))
    for note in found.notes:
        click.echo(note_text(note, style_of(sys.stderr)), err=True)
