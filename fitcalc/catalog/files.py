"""Where profiles lie and how one file is read: packaged, the user's folders, TOML with bounds.

Later folders win by id: packaged, the user's settings folder, $FITCALC_PROFILES, an explicit list.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from fitcalc.catalog.names import is_stem
from fitcalc.errors import ProfileError

_LARGEST_FILE_BYTES = 1_000_000
_extra_folders: tuple[str, ...] = ()


def use_folders(folders: Sequence[str]) -> None:
    """Folders of profiles that win over all others (`--profiles DIR`); later ones win. Replaces an earlier list."""
    global _extra_folders  # the one setting of a run
    for folder in folders:
        require_folder(folder, "--profiles")
    _extra_folders = tuple(folders)


@lru_cache(maxsize=1)
def packaged_folder() -> str:
    """The profiles that come with fitcalc: inside the installed package, or beside it in a checkout."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(here, "profiles")
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(here), "profiles")


def config_folder() -> str:
    """The user's own profiles: $XDG_CONFIG_HOME or the platform's place for settings, + fitcalc/profiles."""
    import sys

    home = os.path.expanduser("~")
    if base := os.environ.get("XDG_CONFIG_HOME"):
        pass
    elif sys.platform == "win32":
        base = os.environ.get("APPDATA") or os.path.join(home, "AppData", "Roaming")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = os.path.join(home, ".config")
    return os.path.join(base, "fitcalc", "profiles")


def user_folders() -> tuple[str, ...]:
    """Folders of the user's own profiles, weakest first: settings folder, $FITCALC_PROFILES, `use_folders`."""
    own = config_folder()
    named = tuple(part for part in os.environ.get("FITCALC_PROFILES", "").split(os.pathsep) if part)
    for folder in named:
        require_folder(folder, "FITCALC_PROFILES")
    return (*([own] if os.path.isdir(own) else []), *named, *_extra_folders)


def require_folder(folder: str, origin: str) -> None:
    """Raise a ProfileError when `folder`, named by `origin`, is none."""
    if not os.path.isdir(folder):
        hint = "it holds models/, gpus/, cpus/, quants/ … with one TOML file per profile"
        raise ProfileError(f"{origin}: {folder!r} is not a folder", hint=hint)


def stems(folder: str) -> list[str]:
    """Ids of the profiles in one folder, in no order."""
    if not os.path.isdir(folder):
        return []
    names = (entry.removesuffix(".toml") for entry in os.listdir(folder) if entry.endswith(".toml"))
    return [name for name in names if is_stem(name)]


def read_toml(path: str) -> dict[str, Any]:
    """The content of one profile file; a ProfileError with one line for anything that is not one."""
    import stat

    from fitcalc.catalog.generated import parsed

    try:
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode):
            raise ProfileError(f"{path}: not a regular file", hint="a profile is one TOML file")
        if mode.st_size > _LARGEST_FILE_BYTES:
            raise ProfileError(f"{path}: {mode.st_size:,} bytes", hint="a profile has at most 1 MB")
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_FILE_BYTES + 1)
        known = parsed(path, raw)
        return parse_toml(raw) if known is None else known
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}", hint="is the file there and readable?") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8") from error
    except RecursionError as error:
        raise ProfileError(f"{path}: nested too deeply", hint="a profile is a flat TOML file") from error
    except ValueError as error:
        raise ProfileError(f"{path}: {error}", hint="it is not valid TOML") from error


def parse_toml(raw: bytes) -> dict[str, Any]:
    """The content of a TOML file's bytes; ValueError where they are none."""
    # Not at the top: of a packaged profile the content is at hand (see catalog.generated).
    import tomllib

    return tomllib.loads(raw.decode("utf-8-sig"))
