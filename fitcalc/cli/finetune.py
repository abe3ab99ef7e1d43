"""fitcalc finetune MODEL: will a fine-tuning run fit, and which settings make it fit?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fitcalc.cli.options import model_argument, names_completion, profiles_option

_METHODS = ("full", "lora", "qlora", "dora", "freeze")
_FACTORS = {"k": 10**3, "m": 10**6, "b": 10**9}


def _amount(text: str) -> int:
    """2500000 from '2.5M': k, M and B are thousands, millions and billions."""
    import re

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", text.strip().lower().replace(",", "").replace("_", ""))
    if match is None or not float(match[1]):
        raise click.UsageError(f"--tokens {text!r} is not a number of tokens, such as 500000, 2.5M or 1B")
    return round(float(match[1]) * _FACTORS.get(match[2], 1))


def _run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in reversed(
        [
            click.option("--method", "-m", metavar="NAME", default="lora", show_default=True,
                         help=f"{', '.join(_METHODS)}."),
            click.option("--gpu", multiple=True, metavar="ID[:N]", shell_complete=names_completion("gpus", "nodes"),
                         help="A GPU or a node and how many, or a bare size such as 24GB."),
            click.option("--gpu-used", metavar="SIZE", help="Memory on each card that others hold (desktop)."),
            click.option("--ram", metavar="SIZE", help="Host memory, such as 64GB: what is offloaded has to fit."),
            click.option("--micro-batch", "-b", metavar="N", type=int, default=1, show_default=True,
                         help="Sequences per card at once."),
            click.option("--seq-len", "-s", metavar="N", default="2048", show_default=True,
                         help="Tokens of a sequence: 4096, 32k."),
            click.option("--gradient-accumulation", metavar="N", type=int, default=1, show_default=True,
                         help="Micro batches per step."),
            click.option("--rank", "-r", metavar="N", type=int, default=16, show_default=True, help="Of the adapters."),
            click.option("--target-modules", metavar="LIST", default="all-linear", show_default=True,
                         help="all-linear, attention, or names: q_proj,v_proj."),
            click.option("--trainable-layers", metavar="N", type=int,
                         help="That freeze trains, the last ones.  [default: 2]"),
            click.option("--optimizer", metavar="ID", default="adamw", show_default=True,
                         help="adamw, adamw-8bit, paged-adamw-8bit, adafactor, sgd, lion, muon …"),
            click.option("--precision", metavar="NAME", default="bf16", show_default=True,
                         help="bf16, fp16, fp32, or mixed (32-bit weights)."),
            click.option("--gradient-checkpointing/--no-gradient-checkpointing", default=True, show_default=True,
                         help="Blocks are computed again in the backward pass."),
            click.option("--sharding", metavar="NAME", default="none", show_default=True,
                         help="none, zero1, zero2, zero3 or fsdp."),
            click.option("--attention", metavar="NAME", default="sdpa", show_default=True, help="sdpa, flash, eager."),
            click.option("--loss", metavar="NAME", default="standard", show_default=True,
                         help="standard, chunked or fused."),
            click.option("--offload", metavar="NAME", help="optimizer, params, all or activations: into host memory."),
            click.option("--trainer", metavar="ID", default="peft", show_default=True,
                         help="peft, axolotl, torchtune or litgpt."),
        ]
    ):  # fmt: skip
        function = decorate(function)
    return function


@click.command("finetune")
@model_argument
@_run_options
@click.option("--tokens", metavar="N", help="Tokens of an epoch, such as 20M: how long it takes and what it costs.")
@click.option("--price-per-hour", metavar="USD", type=float, help="Of one card.  [default: the cheapest on record]")
@click.option("--emit", metavar="FORM", help="A starter configuration: peft, axolotl or torchtune.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON (schema_version 1).")
@click.option("--explain", is_flag=True, help="Every term with its formula, its inputs and their sources.")
@profiles_option
def command(
    model: str,
    gpu: tuple[str, ...],
    seq_len: str,
    tokens: str | None,
    emit: str | None,
    as_json: bool,
    explain: bool,
    profiles: str | None,
    **given: Any,
) -> int:
    """Will fine-tuning MODEL fit, what is each byte for, and which settings make it fit?

    With --emit, the configuration alone goes to standard output.
    """
    from fitcalc import catalog
    from fitcalc.cli import VERDICT_EXIT
    from fitcalc.training.asking import finetune
    from fitcalc.units import parse_tokens

    if profiles:
        catalog.use_folders([profiles])
    found = finetune(
        model,
        gpu=list(gpu) or None,
        seq_len=parse_tokens(seq_len),
        tokens=None if tokens is None else _amount(tokens),
        emit=emit,
        **given,
    )
    _show(found, as_json=as_json, explain=explain, emit=emit)
    return VERDICT_EXIT[found.verdict]


def _show(found: Any, *, as_json: bool, explain: bool, emit: str | None) -> None:
    from fitcalc.cli.fit import show_notes

    if as_json:
        click.echo(found.to_json())
        return
    if emit:
        click.echo(found.training.starter, nl=False)
        if found.verdict not in ("fits", "tight"):
            words = "; ".join(found.recommendation.reasons)
            fits = found.recommendation.verdict in ("fits", "tight")
            show_notes((f"what was asked does not fit: {'this has ' + words if fits else 'nothing helps'}",))
        return
    from fitcalc.render.style import style_of_stdout
    from fitcalc.render.training_text import training_text

    click.echo(training_text(found, style_of_stdout()))
    if explain:
        from fitcalc.render.explain import explain_text

        click.echo(explain_text(found))
    show_notes(found.notes)
