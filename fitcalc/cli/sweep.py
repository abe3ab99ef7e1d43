"""fitcalc sweep: a grid of plans into a file, and the best of them in words."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from fitcalc.cli.options import names_completion, profiles_option

_AXES = ("models", "gpus", "cpus", "quants", "engines", "kv_dtypes", "tp", "contexts", "concurrencies")


@click.command("sweep")
@click.argument("grid", required=False, metavar="[GRID.toml]")
@click.option(
    "--models", multiple=True, metavar="A,B", shell_complete=names_completion("models"), help="Ids, aliases or paths."
)
@click.option(
    "--gpus", multiple=True, metavar="X,Y:2", shell_complete=names_completion("gpus"), help="GPUs, nodes or sizes."
)
@click.option(
    "--cpus",
    multiple=True,
    metavar="X,Y",
    shell_complete=names_completion("cpus"),
    help="Boards and CPUs that have RAM.",
)
@click.option(
    "--quants", multiple=True, metavar="A,B", help="Quantizations; native: each model's own.  [default: native]"
)
@click.option("--engines", multiple=True, metavar="A,B", help="Engines; chosen if not given.")
@click.option("--kv-dtypes", multiple=True, metavar="A,B", help="Types of the KV cache.  [default: the engine's]")
@click.option("--tp", multiple=True, metavar="N,M", help="Tensor parallel degrees.  [default: all GPUs]")
@click.option(
    "--contexts", multiple=True, metavar="N,M", help="Tokens per request: 8192,128k or 1k:64k:1k.  [default: 8192]"
)
@click.option("--concurrencies", multiple=True, metavar="N,M", help="Requests at once: 1,8,64 or 1:256.  [default: 1]")
@click.option("--columns", metavar="A,B", help="Only these columns of numbers.  [default: all]")
@click.option(
    "--best",
    metavar="COLUMN",
    default="-total_tokens_per_s",
    show_default=True,
    help="The best of each model: smallest, or -COLUMN, largest.",
)
@click.option("--out", "-o", metavar="FILE", help="Write every point: .csv, .jsonl, .parquet or .arrow.")
@click.option("--resume", is_flag=True, help="Go on with a file that an interrupted run left.")
@click.option("--jobs", "-j", metavar="N", type=click.IntRange(1, 256), default=1, help="Processes.  [default: 1]")
@profiles_option
def command(
    grid: str | None, columns: str | None, best: str, out: str | None, resume: bool, jobs: int, profiles: str | None,
    **axes: tuple[str, ...],
) -> int:  # fmt: skip
    """Every combination of models, devices, quantizations, contexts and concurrencies.

    The values come from options, or from a file GRID.toml with lists of the same names (options win). Combinations
    that no engine runs are in the output with the reason.

    Columns of numbers, among others: total_bytes, headroom_bytes, verdict, fits, max_context_tokens, max_concurrency,
    decode_tokens_per_s, total_tokens_per_s, time_to_first_token_s, usd_per_h, usd_per_million_tokens.
    """
    from fitcalc import catalog
    from fitcalc.frozen import replace
    from fitcalc.grids.build import columns_of, sweep_of

    if profiles:
        catalog.use_folders([profiles])
    if resume and not out:
        raise click.UsageError("--resume needs -o FILE")
    given = ({} if grid is None else _read(grid)) | {
        name: _items(name, ",".join(texts)) for name, texts in axes.items() if texts
    }
    if "models" not in given or not ("gpus" in given or "cpus" in given):
        raise click.UsageError("give --models and --gpus or --cpus, or a GRID.toml that has them")
    devices = [*_listed(given.get("gpus", [])), *_listed(given.get("cpus", []))]
    names = ("quants", "contexts", "concurrencies", "engines", "kv_dtypes", "tp")
    usual: dict[str, Any] = {"quants": "native", "contexts": 8192, "concurrencies": 1}
    values = [given.get(name, usual.get(name)) for name in names]
    wanted = columns_of(None if columns is None else [name.strip() for name in columns.split(",")])
    found = replace(sweep_of((given["models"], devices, *values)), wanted=wanted)
    return _run(found, best, out, resume=resume, jobs=jobs)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _read(path: str) -> dict[str, Any]:
    """The lists of a grid file."""
    import tomllib

    from fitcalc.errors import RequestError

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        hint = "give the path of a TOML file, or options such as --models"
        raise RequestError(f"cannot read {path}: {error.strerror}", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is not TOML: {error}", hint='lists such as models = ["llama-3.1-8b"]') from error
    unknown = next((name for name in content if name not in _AXES), None)
    if unknown is not None:
        raise RequestError(f"{path} has {unknown!r}, which is no axis", hint=f"axes: {', '.join(_AXES)}")
    return {
        name: [
            item for entry in _listed(value) for item in (_range(name, entry) if isinstance(entry, str) else [entry])
        ]
        for name, value in content.items()
    }


def _items(name: str, text: str) -> list[Any]:
    """The values of an option, separated by commas."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    return [value for item in items for value in _range(name, item)]


def _range(name: str, item: str) -> list[Any]:
    """Numbers from first:last or first:last:step, last included; other values as they are."""
    from fitcalc.units import parse_tokens

    if name == "tp":
        if not item.isdigit():
            raise click.UsageError(f"--tp {item!r} is not a number")
        return [int(item)]
    if name not in ("contexts", "concurrencies") or ":" not in item:
        return [item]
    bounds = [parse_tokens(part) for part in item.split(":")]
    if len(bounds) > 3 or bounds[0] > bounds[1] or 0 in bounds[2:]:
        raise click.UsageError(f"--{name} {item!r} is not first:last or first:last:step")
    step = bounds[2] if len(bounds) == 3 else 1
    return list(range(bounds[0], bounds[1] + 1, step))


def _pool(jobs: int, stack: ExitStack) -> Any:
    """Processes that end with the stack. An interruption from the keyboard reaches them too, but is not theirs."""
    import signal
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    quiet = (signal.SIGINT, signal.SIG_IGN)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=signal.signal, initargs=quiet)
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def _run(found: Any, by: str, out: str | None, *, resume: bool, jobs: int) -> int:
    from fitcalc.frozen import replace
    from fitcalc.grids import writing
    from fitcalc.grids.choosing import Summary
    from fitcalc.render.style import style_of_stdout
    from fitcalc.render.sweep_text import sweep_text

    summary = Summary(found.grid, by)
    with ExitStack() as stack:
        if jobs > 1:
            found = replace(found, executor=_pool(jobs, stack))
        if out is None:
            with writing.bar(found) as step:
                for chunk, keep in replace(found, wanted=summary.columns).chunks():
                    summary.take(summary.of(chunk, keep))
                    step(chunk.size)
        else:
            try:
                rows = writing.write(found, out, resume=resume, summary=summary)
            except KeyboardInterrupt:
                if writing.form_of(out) in writing.TEXT_FORMS:
                    click.echo("interrupted: the same command with --resume goes on from here", err=True)
                raise
            click.echo(f"{rows:,} points written to {out}", err=True)
    grid = found.grid
    best = summary.best.records()
    told = (grid.points, grid.blocks, grid.axes["model"], summary.counts, summary.refusals)
    click.echo(sweep_text(*told, by, best, style_of_stdout()))
    return 0 if summary.counts["fits"] + summary.counts["tight"] else 1
