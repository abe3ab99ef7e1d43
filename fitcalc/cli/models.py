"""fitcalc models [TEXT]: what the catalogue holds; fitcalc models add: a config.json becomes an own profile."""

from __future__ import annotations

import os

import click

from fitcalc.cli.lists import list_models
from fitcalc.cli.options import profiles_option


class ModelsGroup(click.Group):
    """Lists models unless its first word is a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Send anything that is not a command to `list`."""
        if not args or args[0] not in (*self.commands, "--help", "-h"):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options of the list beside the commands."""
        list_models.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group("models", cls=ModelsGroup, subcommand_metavar="[TEXT] | add")
def models() -> None:
    """Models of the catalogue, those that hold TEXT if given; `add` puts an own one beside them."""


models.add_command(list_models)


@models.command("add")
@click.argument("source")
@click.option("--name", required=True, metavar="ID", help="What the model is called from now on.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Another name that it answers to; repeat it.")
@click.option("--params", metavar="N", help="Its count of parameters, where the configuration does not tell.")
@click.option("--force", is_flag=True, help="Replace a profile, or take a name, that is there already.")
@profiles_option
def add(source: str, name: str, aliases: tuple[str, ...], params: str | None, force: bool, profiles: str | None) -> int:
    """Write the model of a config.json into your own catalogue.

    SOURCE is a config.json, the folder that holds one, hf:org/name, hf-cache:org/name, or - for standard input.
    """
    from fitcalc import catalog
    from fitcalc.additions import add_model
    from fitcalc.cli.group import COMMANDS

    if name in COMMANDS:
        raise click.UsageError(f"{name} is a command of fitcalc: take another --name")
    if profiles and os.path.isdir(profiles):
        catalog.use_folders([profiles])
    done = add_model(source, name, aliases=aliases, params=_count(params), folder=profiles, force=force)
    model = done.model
    counted = f"{model.params_total:,} parameters" if not model.unknowns else "parameters not known in full"
    click.echo(f"{done.id}: {counted}, {model.layers} layers, {model.model_type} -> {done.path}")
    where = f" --profiles {profiles}" if profiles else ""
    click.echo(f"  fitcalc {done.id}{where} --gpu rtx-4090")
    for note in (*done.notes, *(f"not known: {text}" for text in model.unknowns)):
        click.echo(f"note: {note}", err=True)
    return 0


def _count(text: str | None) -> int | None:
    """A number of parameters, with or without separators."""
    if text is None:
        return None
    digits = text.replace(",", "").replace("_", "")
    if not digits.isascii() or not digits.isdigit() or not 0 < len(digits) <= 15 or not int(digits):
        raise click.UsageError(f"--params {text!r} is not a whole number, such as 8,030,261,248")
    return int(digits)
