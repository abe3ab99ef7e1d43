"""fitcalc MODEL --curve: its options, and how a curve is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click


def curve_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--curve, --max-ttft, --max-tpot, --prompt-tokens, --generated-tokens, --plot."""
    for decorate in reversed(
        [
            click.option(
                "--curve",
                "over",
                is_flag=False,
                flag_value="concurrency",
                type=click.Choice(["concurrency", "context"]),
                help="Speeds against the number of requests or the context.  [default: concurrency]",
            ),
            click.option("--max-ttft", metavar="TIME", help="With --curve: longest time to first token, such as 2s."),
            click.option("--max-tpot", metavar="TIME", help="With --curve: longest time per token, such as 50ms."),
            click.option("--prompt-tokens", metavar="N", help="With --curve: length of each prompt."),
            click.option("--generated-tokens", metavar="N", help="With --curve: length of each answer."),
            click.option("--plot", metavar="FILE", help="With --curve: a picture too, .png or .svg (extra 'plot')."),
        ]
    ):
        function = decorate(function)
    return function


CURVE_NAMES = ("over", "max_ttft", "max_tpot", "prompt_tokens", "generated_tokens", "plot")


def refuse_without_curve(options: dict[str, Any]) -> None:
    """Options of a curve ask for one."""
    given = next((name for name in CURVE_NAMES[1:] if options[name] is not None), None)
    if given and options["over"] is None:
        raise click.UsageError(f"--{given.replace('_', '-')} needs --curve")


def show_curve(model: Any, options: dict[str, Any], form: str | None, **plan: Any) -> int:
    """Answer with a curve; 1 where nothing fits or no number of requests is within the limits."""
    from fitcalc.cli import VERDICT_EXIT
    from fitcalc.curves import curve
    from fitcalc.units import parse_tokens

    if options["plot"]:
        from fitcalc.render.plot import require_plot

        require_plot(options["plot"])
    counts = {name: options[name] for name in ("prompt_tokens", "generated_tokens")}
    found = curve(
        model,
        over=options["over"],
        max_ttft=options["max_ttft"],
        max_tpot=options["max_tpot"],
        **{name: None if text is None else parse_tokens(text) for name, text in counts.items()},
        **plan,
    )
    if options["plot"] and found.points:
        from fitcalc.render.plot import save_plot

        save_plot(found, options["plot"])
    _print(found, form)
    missed = found.within is not None and found.within.concurrency == 0
    return 1 if missed else VERDICT_EXIT[found.verdict]


def _print(found: Any, form: str | None) -> None:
    from fitcalc.render import curve_text
    from fitcalc.render.style import style_of, style_of_stdout
    from fitcalc.render.text import note_text

    if form == "json":
        click.echo(found.to_json())
    elif form == "csv":
        click.echo(curve_text.curve_csv(found), nl=False)
    elif form == "markdown":
        click.echo(curve_text.curve_markdown(found))
    else:
        click.echo(curve_text.curve_text(found, style_of_stdout()))
        for note in found.notes:
            click.echo(note_text(note, style_of(sys.stderr)), err=True)
