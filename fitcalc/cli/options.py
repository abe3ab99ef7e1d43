"""Options that several commands share, and the completion of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Completion = Callable[[click.Context, click.Parameter | None, str], list[CompletionItem]]


def names_completion(*kinds: str) -> Completion:
    """Completes the ids of these kinds of profiles."""

    def complete(_ctx: click.Context, _param: click.Parameter | None, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from fitcalc.catalog import ids

        return [CompletionItem(name) for kind in kinds for name in ids(kind) if name.startswith(incomplete)]

    return complete


def eager_option(*names: str, text: Callable[[click.Context], str], said: str) -> Callable[..., Any]:
    """A flag that prints a text and ends, such as --help. click's own ones look for translations of what they say,
    which costs a start the module `locale`."""

    def show(context: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(text(context), color=context.color)
            context.exit()

    return click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=show, help=said)


help_option = eager_option("--help", "-h", text=click.Context.get_help, said="Show this message and exit.")


def model_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The MODEL argument."""
    return click.argument("model", shell_complete=names_completion("models", "pipelines"))(function)


def device_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--gpu, --gpu-used, --cpu, --ram."""
    for decorate in reversed(
        [
            click.option(
                "--gpu",
                multiple=True,
                metavar="ID[:N]",
                shell_complete=names_completion("gpus", "nodes"),
                help="A GPU or a node and how many, or a bare size such as 24GB; repeat for mixed cards.",
            ),
            click.option("--gpu-used", metavar="SIZE", help="Memory on each card that others hold (desktop)."),
            click.option("--cpu", metavar="ID", shell_complete=names_completion("cpus"), help="A CPU or board."),
            click.option("--ram", metavar="SIZE", help="Host memory, such as 64GB."),
        ]
    ):
        function = decorate(function)
    return function


def price_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--provider, --spot, --prices."""
    for decorate in (
        click.option("--prices", metavar="FILE", multiple=True, help="A file of own prices, which win."),
        click.option("--spot", is_flag=True, help="Prices of machines that can be interrupted."),
        click.option("--provider", metavar="ID", help="Prices of this provider only: aws, gcp, nebius …"),
    ):
        function = decorate(function)
    return function


def plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--quant, --context, --concurrency, --engine, --kv-dtype, --tp, --pp, --dp, --ep, -o."""
    for decorate in reversed(
        [
            click.option(
                "--quant",
                "-q",
                metavar="ID",
                shell_complete=names_completion("quants"),
                help="Quantization; chosen if not given.",
            ),
            click.option(
                "--context",
                "-c",
                metavar="N",
                help="Tokens per request: 8192, 128k or auto.",
            ),
            click.option(
                "--concurrency",
                "-n",
                metavar="N",
                default="1",
                help="Requests at once, or auto.  [default: 1]",
            ),
            click.option(
                "--engine",
                "-e",
                metavar="ID",
                shell_complete=names_completion("engines"),
                help="Engine; chosen if not given.",
            ),
            click.option("--kv-dtype", metavar="ID", help="Type of the KV cache: fp16, fp8, q8_0 …"),
            click.option("--tp", metavar="N", type=int, help="Tensor parallel degree.  [default: all GPUs]"),
            click.option("--pp", metavar="N", type=int, help="Pipeline parallel degree.  [default: nodes]"),
            click.option("--dp", metavar="N", type=int, help="Data parallel degree; copies share an MoE's experts."),
            click.option("--ep/--no-ep", default=None, help="Whole experts on each rank (expert parallel)."),
            click.option(
                "--option",
                "-o",
                "options",
                multiple=True,
                metavar="NAME=VALUE",
                help="An engine option by its own name.",
            ),
        ]
    ):
        function = decorate(function)
    return function


def media_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--images, --image-size, --audio-seconds, --resolution, --batch."""
    for decorate in reversed(
        [
            click.option("--images", metavar="N", type=int, help="Images in each request."),
            click.option("--image-size", metavar="WxH", help="Their size in pixels.  [default: the model's own]"),
            click.option("--audio-seconds", metavar="S", type=float, help="Seconds of sound in each request."),
            click.option("--resolution", metavar="WxH", help="Size of the pictures an image generator makes."),
            click.option("--batch", metavar="N", help="Pictures or texts at once; another word for --concurrency."),
        ]
    ):
        function = decorate(function)
    return function


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--json, --csv, --markdown."""
    for decorate in reversed(
        [
            click.option("--json", "form", flag_value="json", help="The report as JSON (schema_version 1)."),
            click.option("--csv", "form", flag_value="csv", help="The terms of every device as CSV."),
            click.option("--markdown", "form", flag_value="markdown", help="The report as Markdown tables."),
        ]
    ):
        function = decorate(function)
    return function


def online_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--online."""
    said = "Read a repository that the catalogue lacks from the Hugging Face Hub, as hf:org/name does."
    return click.option("--online", is_flag=True, help=said)(function)


def profiles_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--profiles DIR."""
    return click.option("--profiles", metavar="DIR", help="A folder of own profiles, read before the others.")(function)


def tokens_or_auto(text: str) -> int | str:
    """A number of tokens or requests, or 'auto' as it stands."""
    from fitcalc.arguments import AUTO, is_auto
    from fitcalc.units import parse_tokens

    return AUTO if is_auto(text) else parse_tokens(text)


def split_options(pairs: tuple[str, ...]) -> dict[str, str]:
    """{'max_num_seqs': '64'} from ('max_num_seqs=64',); the engine's module gives the values their type."""
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"-o {pair!r} is not NAME=VALUE")
        options[name.strip().replace("-", "_")] = value.strip()
    return options
