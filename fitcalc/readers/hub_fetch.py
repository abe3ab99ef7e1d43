"""Bytes of a file on the Hub by range requests: bounded in size and time, and one error for every way to fail.

The token goes to the endpoint's own host alone, wherever that redirects to. Nothing that an answer claims is believed
before it is held against what came.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from email.message import Message
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fitcalc import __version__
from fitcalc.errors import FitcalcError, HubError, UnknownNameError
from fitcalc.readers.hub_access import Access

_TRIES = 3
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (500, 502, 503, 504)
_PATIENCE = 12
"""An answer may take this many timeouts in all, so that a slow drip ends too."""
_CHUNK_BYTES = 2**16
_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<whole>\d+)")
_LARGEST_FILE_BYTES = 2**50


class Piece(NamedTuple):
    """Bytes of a file, and how many the whole file has (None where that was not said)."""

    body: bytes
    whole_bytes: int | None


class Asked(NamedTuple):
    """What is read, for errors: a repository, or one of its files."""

    access: Access
    repo: str
    file: str = ""

    @property
    def name(self) -> str:
        """'org/name' or 'org/name/file'."""
        return f"{self.repo}/{self.file}" if self.file else self.repo

    @property
    def host(self) -> str:
        """The Hub's own host."""
        return urlsplit(self.access.endpoint).netloc or self.access.endpoint


class UnreachableError(HubError):
    """The Hub did not answer, or not to the end: what was read before may stand in."""


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(asked: Asked, url: str, *, most: int, first: int | None = None) -> Piece:
    """At most `most` bytes of a file from byte `first` on, or (None) of an answer that has no ranges.

    What fails in passing is tried again. Raises HubError, UnknownNameError for a repository that is not there.
    """
    pause_s = asked.access.pause_s
    for left in reversed(range(_TRIES)):
        try:
            return _fetched(asked, url, most, first)
        except UnreachableError:
            if not left:
                raise
        time.sleep(pause_s)
        pause_s *= 2
    raise AssertionError("unreachable")


def _fetched(asked: Asked, url: str, most: int, first: int | None) -> Piece:
    access = asked.access
    deadline = time.monotonic() + _PATIENCE * access.timeout_s
    wanted = {} if first is None else {"Range": f"bytes={first}-{first + most - 1}"}
    try:
        with _opened(access, url, wanted) as response:
            piece = _piece(response, most, first or 0, deadline, ranged=first is not None)
    except HTTPError as error:
        error.close()
        if error.code == 416:
            return Piece(b"", _whole(error.headers))
        raise _refused(asked, error.code, error.headers) from error
    except TimeoutError as error:
        raise _unreachable(asked, f"did not answer within {access.timeout_s:g} s") from error
    except URLError as error:
        said = (
            "did not answer in time" if isinstance(error.reason, TimeoutError) else f"cannot be reached: {error.reason}"
        )
        raise _unreachable(asked, said) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(asked, f"broke off: {error or type(error).__name__}") from error
    return piece


def _opened(access: Access, url: str, headers: dict[str, str]) -> Any:
    """The response behind all redirects; HTTPError for every other answer than success."""
    opener = build_opener(_NoRedirects)
    home = _origin(access.endpoint)
    for _ in range(_MOST_REDIRECTS + 1):
        known = {"Authorization": f"Bearer {access.token}"} if access.token and _origin(url) == home else {}
        request = Request(url, headers={"User-Agent": f"fitcalc/{__version__}", **headers, **known})
        try:
            return opener.open(request, timeout=access.timeout_s)
        except HTTPError as error:
            place = error.headers.get("Location")
            if error.code not in _REDIRECTS or not place:
                raise
            error.close()
            url = _followed(url, place)
    raise URLError(f"more than {_MOST_REDIRECTS} redirects")


def _followed(url: str, place: str) -> str:
    target = urljoin(url, place)
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if after not in ("http", "https") or (before == "https" and after != "https"):
        raise URLError(f"a redirect to {after or 'nowhere'}, which is not followed")
    return target


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _piece(response: Any, most: int, first: int, deadline: float, *, ranged: bool) -> Piece:
    """What came, held against what the answer says of itself."""
    if response.status == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or match["first"] is None or int(match["first"]) != first:
            raise ValueError("the answer is of another range than asked for")
        due = min(int(match["last"]) - first + 1, most)
        body = _read(response, due, deadline)
        _hold_complete(body, due)
        return Piece(body, _bounded(int(match["whole"])))
    # Without ranges the file comes from its beginning; what lies behind the piece is left unread.
    length = _length(response.headers)
    read = _read(response, first + most, deadline)
    if length is not None:
        _hold_complete(read, min(length, first + most))
    whole = length if length is not None else len(read) if len(read) < first + most else None
    if ranged and whole is None:
        raise ValueError("the answer does not say how large the file is")
    return Piece(read[first:], whole)


def _read(response: Any, most: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    left = most
    while left > 0:
        if time.monotonic() > deadline:
            raise TimeoutError
        part = response.read1(min(left, _CHUNK_BYTES))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _hold_complete(body: bytes, due: int) -> None:
    if len(body) != due:
        raise ValueError(f"{due - len(body):,} of {due:,} bytes are missing")


def _length(headers: Message) -> int | None:
    stated = headers.get("Content-Length", "")
    return _bounded(int(stated)) if stated.isascii() and stated.isdigit() and len(stated) < 20 else None


def _whole(headers: Message) -> int | None:
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    return _bounded(int(match["whole"])) if match else 0


def _bounded(size: int) -> int:
    if size > _LARGEST_FILE_BYTES:
        raise ValueError(f"a file of {size:,} bytes")
    return size


def _unreachable(asked: Asked, said: str) -> UnreachableError:
    hint = "is this machine online? HF_ENDPOINT names a mirror; a config.json or a downloaded folder works without"
    return UnreachableError(f"{asked.name}: {asked.host} {said}", hint=hint)


def _refused(asked: Asked, status: int, headers: Message) -> FitcalcError:
    """The error of an answer that is none: its status, and the Hub's own word for why."""
    make = _BY_CODE.get(headers.get("X-Error-Code", "")) or _BY_STATUS.get(status)
    if make is not None:
        return make(asked, headers)
    if status in _PASSING:
        return UnreachableError(f"{asked.name}: {asked.host} answers with {status}", hint="try again later")
    hint = "does a proxy stand between, and is HF_ENDPOINT right?"
    return HubError(f"{asked.name}: {asked.host} answers with {status}", hint=hint)


def _gated(asked: Asked, _: Message) -> FitcalcError:
    page = f"{asked.access.endpoint}/{asked.repo}"
    if asked.access.token:
        return HubError(f"{asked.repo} is gated, and this token has no access", hint=f"ask for it at {page}")
    hint = f"accept its conditions at {page}, then log in ('hf auth login') or set HF_TOKEN"
    return HubError(f"{asked.repo} is gated: it is read only with a token", hint=hint)


def _private(asked: Asked, _: Message) -> FitcalcError:
    told = (
        "the token does not open it"
        if asked.access.token
        else "it is private: log in ('hf auth login') or set HF_TOKEN"
    )
    return UnknownNameError("repository", asked.repo, hint=f"it is not on {asked.host}, or {told}")


def _no_revision(asked: Asked, _: Message) -> FitcalcError:
    return HubError(f"{asked.repo} has no such revision", hint="a revision is a branch, a tag or a commit")


def _not_there(asked: Asked, _: Message) -> FitcalcError:
    if not asked.file:
        return UnknownNameError("repository", asked.repo, hint=f"it is not on {asked.host}")
    return HubError(f"{asked.name}: the file is not there", hint="the repository lists it and does not hold it")


def _limited(asked: Asked, headers: Message) -> FitcalcError:
    wait = headers.get("Retry-After", "")
    after = f"in {wait} s" if wait.isascii() and wait.isdigit() and len(wait) < 7 else "later"
    hint = f"try again {after}" + ("" if asked.access.token else "; a token (HF_TOKEN) raises the limit")
    return HubError(f"{asked.name}: {asked.host} limits how often it is asked", hint=hint)


_Make = Callable[[Asked, Message], FitcalcError]
_BY_CODE: dict[str, _Make] = {
    "GatedRepo": _gated,
    "RepoNotFound": _private,
    "RevisionNotFound": _no_revision,
    "EntryNotFound": _not_there,
}
_BY_STATUS: dict[int, _Make] = {401: _private, 403: _gated, 404: _not_there, 429: _limited}
