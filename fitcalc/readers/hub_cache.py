"""What was read from the Hub before, on disk: heads of files by commit, so that nothing is fetched twice.

A head is the beginning of a file behind eight bytes that say how large the whole is. A commit never changes, so heads
never grow old; what a branch pointed to is remembered for times without network. A cache that cannot be read or
written is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from fitcalc.frozen import dataclass

_SIZE_BYTES = 8
_LARGEST_BYTES = 2**30
_MOST_FILES = 100_000


def cache_folder() -> str:
    """fitcalc/hub in $XDG_CACHE_HOME, or in the platform's place for caches."""
    import sys

    home = os.path.expanduser("~")
    if base := os.environ.get("XDG_CACHE_HOME"):
        pass
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = os.path.join(home, ".cache")
    return os.path.join(base, "fitcalc", "hub")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at a commit."""

    commit: str
    files: tuple[str, ...]


def repository_folder(endpoint: str, repo: str) -> str:
    """Where the cache keeps a repository of an endpoint."""
    return os.path.join(cache_folder(), quote(urlsplit(endpoint).netloc, safe="") or "hub", repo.replace("/", "--"))


def load_listing(base: str, revision: str) -> Listing | None:
    """What the revision was when it was last looked at."""
    commit = _text(_reference(base, revision)) or revision
    try:
        files = json.loads(_text(os.path.join(base, f"{quote(commit, safe='')}.json")))
    except (ValueError, RecursionError):
        return None
    known = isinstance(files, list) and len(files) <= _MOST_FILES and all(isinstance(name, str) for name in files)
    return Listing(commit, tuple(files)) if known else None


def save_listing(base: str, revision: str, listing: Listing) -> None:
    """Remember what a revision is."""
    _write(os.path.join(base, f"{quote(listing.commit, safe='')}.json"), json.dumps(listing.files).encode())
    _write(_reference(base, revision), listing.commit.encode())


def load_head(base: str, commit: str, file: str) -> tuple[bytes, int] | None:
    """(beginning of a file, bytes of the whole), or None where it was not read before."""
    raw = _bytes(_head(base, commit, file))
    whole = int.from_bytes(raw[:_SIZE_BYTES], "little")
    return (raw[_SIZE_BYTES:], whole) if _SIZE_BYTES <= len(raw) <= whole + _SIZE_BYTES else None


def save_head(base: str, commit: str, file: str, head: Sequence[int] | bytes, whole_bytes: int) -> None:
    """Remember the beginning of a file."""
    _write(_head(base, commit, file), whole_bytes.to_bytes(_SIZE_BYTES, "little") + bytes(head))


def forget_head(base: str, commit: str, file: str) -> None:
    """Drop what turned out to be broken."""
    with contextlib.suppress(OSError):
        os.unlink(_head(base, commit, file))


def _head(base: str, commit: str, file: str) -> str:
    # A digest, because names may be longer than a file system allows.
    return os.path.join(base, quote(commit, safe=""), hashlib.sha256(file.encode()).hexdigest()[:40])


def _reference(base: str, revision: str) -> str:
    return os.path.join(base, "refs", quote(revision, safe=""))


def _text(path: str) -> str:
    return _bytes(path).decode("utf-8", "replace").strip()


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_BYTES)
    except OSError:
        return b""


def _write(path: str, content: bytes) -> None:
    """The whole file or none of it."""
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, part = tempfile.mkstemp(dir=os.path.dirname(path))
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(part, path)
        except OSError:
            os.unlink(part)
