"""fitcalc profiles check: validate profile files against their schemas."""

from __future__ import annotations

import os

import click


@click.group("profiles")
def profiles() -> None:
    """Work with profile files."""


@profiles.command("check")
@click.argument("folder", required=False)
def check(folder: str | None) -> int:
    """Validate every profile in FOLDER (default: the user folders); exit 2 when one is wrong."""
    from fitcalc import catalog
    from fitcalc.checking import check_profiles

    if folder and os.path.isdir(folder):
        # Its profiles may name one another.
        catalog.use_folders([folder])
    checked, problems = check_profiles(folder)
    if not checked and not problems:
        looked = [folder] if folder else _looked_in()
        click.echo(f"no profiles in {', '.join(looked)}", err=True)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{_counted(checked, 'profile')} checked, {_counted(len(problems), 'problem')}")
    return 2 if problems else 0


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _looked_in() -> list[str]:
    """The user's folders, the one for settings named even where it does not exist."""
    from fitcalc.catalog.files import config_folder, user_folders

    own = config_folder()
    return [own, *(folder for folder in user_folders() if folder != own)]
