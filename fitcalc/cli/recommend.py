"""fitcalc recommend MODEL: what to run it on."""

from __future__ import annotations

from typing import Any

import click

from fitcalc.cli.options import model_argument, names_completion, online_option, profiles_option


@click.command("recommend")
@model_argument
@click.option(
    "--gpu", multiple=True, metavar="ID[:N]", shell_complete=names_completion("gpus", "nodes"),
    help="A card to choose from, up to N of them; repeat for several.  [default: the catalogue]",
)  # fmt: skip
@click.option(
    "--cpu", multiple=True, metavar="ID", shell_complete=names_completion("cpus"), help="A CPU or board to choose from."
)
@click.option("--ram", metavar="SIZE", help="Memory of the CPUs named, such as 64GB.")
@click.option("--gpu-used", metavar="SIZE", help="Memory on each named card that others hold (desktop).")
@click.option("--gpus-from", metavar="FILE", help="A TOML file of [[devices]]: id, count, usd, usd_per_h.")
@click.option("--budget", metavar="USD", type=float, help="At most this to buy the devices.")
@click.option("--max-price", metavar="USD/H", type=float, help="At most this to rent them, per hour.")
@click.option("--context", "-c", metavar="N", help="Tokens per request: 8192, 128k.")
@click.option("--concurrency", "-n", metavar="N", default="1", help="Requests at once.  [default: 1]")
@click.option("--min-speed", metavar="N", type=float, help="Tokens per second of each request.")
@click.option("--max-ttft", metavar="TIME", help="Longest time to the first token: 2s, 500ms.")
@click.option("--quality", metavar="LEVEL", help="At least low, medium (6 %), high (1 %) or lossless (0.1 % loss).")
@click.option("--offline", is_flag=True, help="Own hardware and local engines only: nothing rented, no server farm.")
@click.option("--quant", "-q", metavar="ID", shell_complete=names_completion("quants"), help="Only this quantization.")
@click.option(
    "--engine", "-e", multiple=True, metavar="ID", shell_complete=names_completion("engines"),
    help="Only these engines.  [default: vLLM, llama.cpp, MLX]",
)  # fmt: skip
@click.option("--kv-dtype", metavar="ID", help="Only this type of the KV cache.")
@click.option("--json", "form", flag_value="json", help="The report as JSON (schema_version 1).")
@click.option("--csv", "form", flag_value="csv", help="The front as CSV.")
@online_option
@profiles_option
def command(
    model: str, context: str | None, concurrency: str, form: str | None, profiles: str | None, **given: Any
) -> int:
    """What to run MODEL on: the plans that none beats in quality, speed and cost, one recommended, and why.

    With --gpu, --cpu, --budget or --max-price the best quality that these allow; over the whole catalogue the cheapest
    plan of medium quality that writes as fast as people read.
    """
    from fitcalc import catalog
    from fitcalc.cli import EXIT_DOES_NOT_FIT, EXIT_FITS
    from fitcalc.selection import recommend
    from fitcalc.units import parse_tokens

    if profiles:
        catalog.use_folders([profiles])
    given |= {name: list(given[name]) or None for name in ("gpu", "cpu", "engine")}
    tokens = None if context is None else parse_tokens(context)
    found = recommend(model, context=tokens, concurrency=parse_tokens(concurrency), **given)
    _show(found, form)
    return EXIT_FITS if found.recommended else EXIT_DOES_NOT_FIT


def _show(found: Any, form: str | None) -> None:
    if form == "json":
        click.echo(found.to_json())
        return
    from fitcalc.render.recommend_text import recommend_csv, recommend_text

    if form == "csv":
        click.echo(recommend_csv(found), nl=False)
        return
    from fitcalc.cli.fit import show_notes
    from fitcalc.render.style import style_of_stdout

    click.echo(recommend_text(found, style_of_stdout()))
    show_notes(found.notes)
