"""fitcalc sweep: a grid of plans into a file, and the best of them in words."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from fitcalc.cli.options import names_completion, profiles_option

_AXES = ("models", "gpus", "cpus", "quants", "engines", "kv_dtypes", "tp", "contexts", "concurrencies")
_REFUSED = "refused"


@click.command("sweep")
@click.argument("grid", required=False, metavar="[GRID.toml]")
@click.option("--models", metavar="A,B", shell_complete=names_completion("models"), help="Ids, aliases or paths.")
@click.option("--gpus", metavar="X,Y:2", shell_complete=names_completion("gpus"), help="GPUs, nodes or sizes.")
@click.option("--cpus", metavar="X,Y", shell_complete=names_completion("cpus"), help="Boards and CPUs that have RAM.")
@click.option("--quants", metavar="A,B", help="Quantizations; native: each model's own.  [default: native]")
@click.option("--engines", metavar="A,B", help="Engines; chosen if not given.")
@click.option("--kv-dtypes", metavar="A,B", help="Types of the KV cache.  [default: the engine's]")
@click.option("--tp", metavar="N,M", help="Tensor parallel degrees.  [default: all GPUs]")
@click.option("--contexts", metavar="N,M", help="Tokens per request: 8192,128k or 1k:64k:1k.  [default: 8192]")
@click.option("--concurrencies", metavar="N,M", help="Requests at once: 1,8,64 or 1:256.  [default: 1]")
@click.option("--columns", metavar="A,B", help="Only these columns of numbers.")
@click.option("--best", metavar="COLUMN", default="-total_tokens_per_s", show_default=True, help="- before: largest.")
@click.option("--out", "-o", metavar="FILE", help="Write every point: .csv, .jsonl, .parquet or .arrow.")
@click.option("--resume", is_flag=True, help="Go on with a file that an interrupted run left.")
@click.option("--jobs", "-j", metavar="N", type=click.IntRange(1, 256), default=1, help="Processes.  [default: 1]")
@profiles_option
def command(
    grid: str | None, columns: str | None, best: str, out: str | None, resume: bool, jobs: int, profiles: str | None,
    **axes: str | None,
) -> int:  # fmt: skip
    """Every combination of models, devices, quantizations, contexts and concurrencies.

    The values come from options, or from a file GRID.toml with lists of the same names (options win). Combinations
    that no engine runs are in the output with the reason.
    """
    from fitcalc import catalog
    from fitcalc.frozen import replace
    from fitcalc.grids.build import columns_of, sweep_of

    if profiles:
        catalog.use_folders([profiles])
    if resume and not out:
        raise click.UsageError("--resume needs -o FILE")
    given = ({} if grid is None else _read(grid)) | {name: _items(name, text) for name, text in axes.items() if text}
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

    summary = Summary(found.grid, by)
    with ExitStack() as stack:
        if jobs > 1:
            found = replace(found, executor=_pool(jobs, stack))
        if out is None:
            for chunk, keep in replace(found, wanted=summary.columns).chunks():
                summary.take(summary.of(chunk, keep))
        else:
            try:
                rows = writing.write(found, out, resume=resume, summary=summary)
            except KeyboardInterrupt:
                if writing.form_of(out) in writing.TEXT_FORMS:
                    click.echo("interrupted: the same command with --resume goes on from here", err=True)
                raise
            click.echo(f"{rows:,} points written to {out}", err=True)
    click.echo(_summary_text(found, summary, by))
    return 0 if summary.counts["fits"] + summary.counts["tight"] else 1


def _summary_text(found: Any, summary: Any, by: str) -> str:
    """Counts, and the best plan that fits of every model."""
    counts = summary.counts
    told = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    lines = [f"{_several(found.points, 'point')} in {_several(found.grid.blocks, 'plan')}: {told}"]
    word = ("most " if by.startswith("-") else "least ") + by.lstrip("-").replace("_", " ").replace(" per ", "/")
    records = summary.best.records()
    if records:
        lines += ["", f"BEST of each model that fits, by {word}", ""]
    for record in records:
        lines += [record["model"], f"  {_plan_text(record)}", f"    {_figures_text(record)}"]
    missing = len(found.grid.models) - len(records)
    if missing:
        lines.append(f"\n{missing} of {_several(len(found.grid.models), 'model')}: no point of this grid that fits")
    return "\n".join(lines)


def _several(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _plan_text(record: dict[str, Any]) -> str:
    return f"{record['quant']} on {record['device']} with {record['engine']}"


def _figures_text(record: dict[str, Any]) -> str:
    parts = [f"{record['context']:,} tokens × {record['concurrency']:,}"]
    if record["total_tokens_per_s"] is not None:
        parts.append(f"{record['total_tokens_per_s']:,.0f} tok/s")
    if record["usd_per_h"] is not None:
        parts.append(f"${record['usd_per_h']:,.2f}/h")
    if record["usd_per_million_tokens"] is not None:
        parts.append(f"${record['usd_per_million_tokens']:,.2f} a million")
    return " · ".join(parts)
