"""The command line: `run` owns exit codes and error text; commands live in one file per family, loaded on use.

Exit codes: 0 fits · 1 does not fit · 2 bad usage or input · 3 cannot be decided · 70 internal error · 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from fitcalc.cli.group import cli
from fitcalc.errors import FitcalcError, UnsupportedModelError

EXIT_FITS = 0
EXIT_DOES_NOT_FIT = 1
EXIT_USAGE = 2
EXIT_UNKNOWN = 3
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
VERDICT_EXIT = {"fits": EXIT_FITS, "tight": EXIT_FITS, "does_not_fit": EXIT_DOES_NOT_FIT, "unknown": EXIT_UNKNOWN}


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors become one line (JSON with --json).

    A reader that has gone (head, less) ends it quietly with 0; an output that cannot take the text is an error.
    """
    try:
        code = _answered(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return EXIT_FITS
    except OSError as error:
        _discard_output()
        return _fail("output", f"cannot write: {error.strerror or error}", "", EXIT_USAGE, as_json=False)


def _answered(arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments
    output = sys.stdout
    try:
        return int(cli.main(args=list(arguments), prog_name="fitcalc", standalone_mode=False) or 0)
    except SystemExit as stop:
        if sys.stdout is output:
            raise
        # click answers a closed pipe by wrapping the streams and leaving with 1, which here means "does not fit".
        sys.stdout = output
        raise BrokenPipeError from stop
    except FitcalcError as error:
        return _fail(error.code, str(error), error.hint, _exit_of(error), as_json=as_json)
    except click.UsageError as error:
        return _fail("usage", error.format_message(), _usage_hint(error), EXIT_USAGE, as_json=as_json)
    except click.ClickException as error:
        return _fail("usage", error.format_message(), "", EXIT_USAGE, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:
        # Files are opened by name and answered for where they are read: an error without a name is of the output.
        if os.environ.get("FITCALC_TRACEBACK") or (isinstance(error, OSError) and error.filename is None):
            raise
        hint = "this is a defect of fitcalc: run it with FITCALC_TRACEBACK=1 and report what it prints"
        return _fail("internal", f"{type(error).__name__}: {error}", hint, EXIT_INTERNAL, as_json=as_json)


def _discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain about it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_of(error: FitcalcError) -> int:
    return EXIT_UNKNOWN if isinstance(error, UnsupportedModelError) else EXIT_USAGE


def _usage_hint(error: click.UsageError) -> str:
    return f"see {error.ctx.command_path} --help" if error.ctx else "see fitcalc --help"


def _fail(code: str, message: str, hint: str, exit_code: int, *, as_json: bool) -> int:
    if as_json:
        import json

        error = {"code": code, "message": message, "hint": hint, "exit_code": exit_code}
        click.echo(json.dumps({"schema_version": 1, "error": error}, indent=2))
        return exit_code
    with contextlib.suppress(OSError):
        click.echo(f"{click.style('error', fg='red')}: {message}", err=True)
        if hint:
            click.echo(f"  {hint}", err=True)
    return exit_code
