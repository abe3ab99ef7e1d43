"""The command group: MODEL needs no sub-command, commands load on use, and `fitcalc` alone shows three examples."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

from fitcalc import __version__
from fitcalc.cli.options import eager_option, help_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "fit": "fitcalc.cli.fit:command",
    "recommend": "fitcalc.cli.recommend:command",
    "which": "fitcalc.cli.which:command",
    "compare": "fitcalc.cli.compare:command",
    "cost": "fitcalc.cli.cost:command",
    "capacity": "fitcalc.cli.capacity:command",
    "sweep": "fitcalc.cli.sweep:command",
    "finetune": "fitcalc.cli.finetune:command",
    "models": "fitcalc.cli.models:models",
    "devices": "fitcalc.cli.lists:devices",
    "quants": "fitcalc.cli.lists:quants",
    "engines": "fitcalc.cli.lists:engines",
    "detect": "fitcalc.cli.detect:command",
    "profiles": "fitcalc.cli.profiles:profiles",
}

EXAMPLES = """\
fitcalc: does this model fit on that hardware, and how is it started?

  fitcalc llama-3.1-8b --gpu rtx-3060                      recommend a quantization
  fitcalc llama-3.1-70b --gpu a100-80:2 --quant fp16       check one plan
  fitcalc phi-3-mini --cpu raspberry-pi-5-8gb --explain    where every number comes from

fitcalc --help shows the options; fitcalc models, devices, quants and engines list the names."""


class DefaultGroup(click.Group):
    """A group whose first argument may be a model: then the command is `fit`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module when it is needed."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Send anything that is not a command or an option of the group to `fit`; --profiles may stand first."""
        args = _profiles_behind(args)
        if args and args[0] not in COMMANDS and args[0] not in ("--help", "-h", "--version"):
            args = ["fit", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, and what may stand in their place: models, and the options of `fit`."""
        from fitcalc.cli.options import names_completion

        found = super().shell_complete(ctx, incomplete)
        main = self.get_command(ctx, "fit")
        if incomplete.startswith("-"):
            known = {item.value for item in found}
            more = [] if main is None else main.shell_complete(ctx, incomplete)
            return found + [item for item in more if item.value not in known]
        return found + names_completion("models", "pipelines")(ctx, None, incomplete)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options of the main job beside the commands."""
        main = self.get_command(ctx, "fit")
        if main is not None:
            main.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _profiles_behind(args: list[str]) -> list[str]:
    """['devices', '--profiles', 'DIR'] from ['--profiles', 'DIR', 'devices']."""
    length = 2 if args[:1] == ["--profiles"] else 1 if args and args[0].startswith("--profiles=") else 0
    if length and args[length : length + 1] and args[length] in COMMANDS:
        return [args[length], *args[:length], *args[length + 1 :]]
    return args


@click.group(
    cls=DefaultGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="MODEL [OPTIONS] | COMMAND",
)
@eager_option("--version", text=lambda _context: f"fitcalc, version {__version__}", said="Show the version and exit.")
@help_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Will MODEL fit, what is each byte for, and which deployment should be started?

    MODEL is a catalogue id, an alias, a Hugging Face repository id, the path of a config.json, *.gguf, *.safetensors or
    folder, - for a config.json on standard input, or hf:org/name to read its headers from the Hugging Face Hub.
    """
    if ctx.invoked_subcommand is None:
        click.echo(EXAMPLES)
