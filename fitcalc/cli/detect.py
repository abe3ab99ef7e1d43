"""fitcalc detect: what is in this computer, and how fast its memory is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from fitcalc.cli.options import profiles_option

if TYPE_CHECKING:
    from fitcalc.spec.detected import Measured


@click.command("detect")
@click.option("--measure", is_flag=True, help="Time memory and GPU copies too (seconds; see what it says).")
@click.option("--save", is_flag=True, help="With --measure: keep the figures as your own profiles of the devices.")
@click.option("--json", "as_json", is_flag=True, help="As JSON (schema_version 1).")
@profiles_option
def command(measure: bool, save: bool, as_json: bool, profiles: str | None) -> int:
    """GPUs, CPU, memory and limits of this computer, and the devices of the catalogue that they are.

    Always exits with 0: a computer without a GPU is an answer too.
    """
    from fitcalc import __version__, catalog
    from fitcalc.detection import look
    from fitcalc.render.detected import detected_json, detected_text
    from fitcalc.render.style import style_of, style_of_stdout
    from fitcalc.render.text import note_text

    if save and not measure:
        raise click.UsageError("--save keeps what --measure times: give both")
    if profiles:
        catalog.use_folders([profiles])
    found = look()
    measured: tuple[Measured, ...] = ()
    notes = found.notes
    if measure:
        from fitcalc.detection.measure import measure_all

        measured, more = measure_all(found)
        notes = (*notes, *more)
    if not as_json:
        click.echo(detected_text(found, measured, style_of_stdout()))
    if save:
        from fitcalc.detection.saving import save_all

        notes = (*notes, *save_all(found, measured))
    if as_json:
        from fitcalc.frozen import replace

        click.echo(detected_json(replace(found, notes=notes), measured, __version__))
        return 0
    for note in notes:
        click.echo(note_text(note, style_of(sys.stderr)), err=True)
    return 0
