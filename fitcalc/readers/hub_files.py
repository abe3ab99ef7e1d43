"""The files of one repository at one commit: each is fetched as far as it is read, and no further than a header needs.

A downloaded copy in the Hugging Face cache stands in for a file, then the beginning that was read before, then the Hub.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from fitcalc.errors import HubError
from fitcalc.readers import hub_cache
from fitcalc.readers.caches import cached_snapshot
from fitcalc.readers.hub_access import Access
from fitcalc.readers.hub_fetch import Asked, Piece, fetch
from fitcalc.readers.safetensors_header import LARGEST_HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

_FIRST_BYTES = 2**16
"""Enough for the header of most files of a sharded model."""
_MOST_BYTES = 2**30
"""Of all files together."""
_AT_ONCE = 8
_SHARD = re.compile(r"-\d{5}(-of-\d{5}\.safetensors)$")
_LENGTH_BYTES = 8

Progress = Callable[[int, int], None]
"""(files read, files to read) of a set that is fetched."""
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def watched(progress: Progress) -> Iterator[None]:
    """Within it, `progress` hears of files that are fetched."""
    before = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(before)


class Repository:
    """A repository at a commit, whose files open as if they lay in `folder`."""

    def __init__(self, access: Access, repo: str, listing: hub_cache.Listing, folder: str) -> None:
        self.access, self.repo, self.commit, self.files = access, repo, listing.commit, frozenset(listing.files)
        self.folder = folder
        self.base = hub_cache.repository_folder(access.endpoint, repo)
        self.downloaded = cached_snapshot(f"{repo}@{listing.commit}")
        self._beginnings: dict[str, Beginning] = {}
        self._fetched_bytes = 0
        self._lock = threading.Lock()

    def open(self, path: str) -> BinaryIO | None:
        """The file at a path of the folder, fetched as it is read; None for paths elsewhere."""
        name = os.path.relpath(path, self.folder).replace(os.sep, "/")
        if name not in self.files:
            return None
        if (copy := self._copy(name)) is not None:
            return copy
        if _SHARD.search(name) and name not in self._beginnings:
            self._fetch_set(name)
        return io.BufferedReader(_Reading(self.beginning(name)), _FIRST_BYTES)

    def content(self, name: str, most: int) -> bytes:
        """A whole file of at most `most` bytes."""
        copy = self._copy(name)
        if copy is not None:
            with copy:
                return copy.read(most + 1)
        beginning = self.beginning(name)
        if beginning.whole_bytes() > most:
            hint = f"no model has one of more than {most // 2**20} MiB"
            raise HubError(f"{self.repo}/{name}: {beginning.whole_bytes():,} bytes", hint=hint)
        raw = beginning.read(0, beginning.whole_bytes())
        beginning.keep()
        return raw

    def beginning(self, name: str) -> Beginning:
        """What is known of a file, and the means to learn more."""
        return self._beginnings.setdefault(name, Beginning(self, name))

    def piece(self, name: str, first: int, most: int) -> Piece:
        """Bytes of a file from the Hub."""
        if self.access.offline:
            hint = "unset HF_HUB_OFFLINE, or give a config.json or a folder"
            raise HubError(f"{self.repo}/{name} was not read before, and HF_HUB_OFFLINE is set", hint=hint)
        url = f"{self.access.endpoint}/{self.repo}/resolve/{quote(self.commit, safe='')}/{quote(name)}"
        piece = fetch(Asked(self.access, self.repo, name), url, most=most, first=first)
        with self._lock:
            self._fetched_bytes += len(piece.body)
        if self._fetched_bytes > _MOST_BYTES:
            raise HubError(f"{self.repo}: more than {_MOST_BYTES // 2**30} GiB of headers", hint="no model has so many")
        return piece

    def keep(self) -> None:
        """Put what was read into the cache."""
        for beginning in self._beginnings.values():
            beginning.keep()

    def forget(self) -> None:
        """Take what was read out of the cache: something in it is broken."""
        for name in self._beginnings:
            hub_cache.forget_head(self.base, self.commit, name)

    def _copy(self, name: str) -> BinaryIO | None:
        """A downloaded copy of a file."""
        try:
            return open(os.path.join(self.downloaded, name), "rb") if self.downloaded else None
        except OSError:
            return None

    def _fetch_set(self, name: str) -> None:
        """The headers of all files of a set, several at once."""
        match = _SHARD.search(name)
        end = match[1] if match else ""
        stem = _SHARD.sub("", name)
        names = sorted(file for file in self.files if file.startswith(f"{stem}-") and file.endswith(end))
        _all_at_once([self.beginning(file) for file in names], _progress.get())


def _all_at_once(beginnings: Sequence[Beginning], progress: Progress | None) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(beginning.read_safetensors_header) for beginning in beginnings]
        try:
            for done, answer in enumerate(waiting, 1):
                answer.result()
                if progress:
                    progress(done, len(waiting))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Beginning:
    """The bytes of a file from its start as far as they were asked for."""

    def __init__(self, repository: Repository, name: str) -> None:
        self._repository, self._name = repository, name
        known = hub_cache.load_head(repository.base, repository.commit, name)
        self._head = bytearray(known[0] if known else b"")
        self._whole = known[1] if known else None
        self._kept_bytes = len(self._head) if known else -1

    def whole_bytes(self) -> int:
        """Bytes of the whole file."""
        if self._whole is None:
            self._grow(_FIRST_BYTES)
        return self._whole or 0

    def read(self, first: int, count: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        end = min(first + count, self.whole_bytes())
        while len(self._head) < end:
            self._grow(end)
        return bytes(self._head[first:end])

    def read_safetensors_header(self) -> None:
        """All that a safetensors file has before its data, and into the cache with it."""
        length = int.from_bytes(self.read(0, _LENGTH_BYTES), "little")
        if length <= min(LARGEST_HEADER_BYTES, self.whole_bytes()):
            self.read(0, _LENGTH_BYTES + length)
        self.keep()

    def keep(self) -> None:
        """Put it into the cache, if it has grown."""
        if self._whole is not None and len(self._head) > self._kept_bytes:
            place = self._repository
            hub_cache.save_head(place.base, place.commit, self._name, self._head, self._whole)
            self._kept_bytes = len(self._head)

    def _grow(self, end: int) -> None:
        have = len(self._head)
        piece = self._repository.piece(self._name, have, end - have)
        if self._whole is None:
            self._whole = piece.whole_bytes
        elif piece.whole_bytes != self._whole or not piece.body:
            said = f"{self._repository.repo}/{self._name}: answers differ about its size"
            raise HubError(said, hint="try again; a mirror or proxy may mix two versions")
        self._head += piece.body


class _Reading(io.RawIOBase):
    """A beginning as an open file."""

    def __init__(self, beginning: Beginning) -> None:
        super().__init__()
        self._beginning, self._place = beginning, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place}.get(whence)
        self._place = max(0, offset + (self._beginning.whole_bytes() if start is None else start))
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        part = self._beginning.read(self._place, len(view))
        view[: len(part)] = part
        self._place += len(part)
        return len(part)


def safe_names(names: Iterable[object]) -> tuple[str, ...]:
    """Those that are plain relative paths: nothing that leads out of a folder."""
    return tuple(name for name in names if isinstance(name, str) and _SAFE.fullmatch(name) and "/." not in f"/{name}")


_SAFE = re.compile(r"[\w ,()\[\]+=@%&.-]+(?:/[\w ,()\[\]+=@%&.-]+)*")
