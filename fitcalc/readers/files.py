"""A path -> ModelSpec: what the file or folder is, by its content and never by its name alone, and who reads it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, BinaryIO

from fitcalc.errors import ModelFileError
from fitcalc.spec.model import ModelSpec

_SNIFFED_BYTES = 16
_READABLE = "give a config.json, a *.gguf, a *.safetensors, or the folder that holds them"
_OTHER_FORMATS = {
    b"PK\x03\x04": ("a zip archive (a PyTorch .bin or .pt?)", "pickled weights are never opened; use safetensors"),
    b"\x80\x02": ("a Python pickle", "pickled weights are never opened; use safetensors"),
    b"ggjt": ("a GGML file from before GGUF", "convert it with llama.cpp's convert_llama_ggml_to_gguf.py"),
    b"lmgg": ("a GGML file from before GGUF", "convert it with llama.cpp's convert_llama_ggml_to_gguf.py"),
    b"version ": ("a Git LFS pointer, not the file itself", "fetch the file with 'git lfs pull'"),
}
"""First bytes -> (what it is, what to do about it)."""


def model_from_path(path: str) -> ModelSpec:
    """The model in a config.json, a GGUF file, a safetensors file or index, or a folder of them.

    Raises ModelFileError: one line with the path, what is wrong, and what to try.
    """
    if os.path.isdir(path):
        return _reader("folder", "model_from_folder")(path)
    first = _first_bytes(path)
    if first[:4] in (b"GGUF", b"FUGG"):
        return _reader("gguf", "model_from_gguf")(path)
    named_so = path.endswith(".safetensors") and first and not first.startswith(tuple(_OTHER_FORMATS))
    if first[8:9] == b"{" or named_so:
        return _reader("safetensors", "model_from_safetensors")(path)
    named_json = first and path.endswith(".json")
    if named_json or first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        index = path.endswith(".index.json")
        return _reader("folder", "model_from_index")(path) if index else _reader("hf_config", "model_from_config")(path)
    raise _not_a_model(path, first)


def _reader(module: str, function: str) -> Callable[[str], ModelSpec]:
    found: Any = getattr(import_module(f"fitcalc.readers.{module}"), function)
    return found  # type: ignore[no-any-return]


Opener = Callable[[str], BinaryIO | None]
"""A path -> the file that stands for it, or None for the one that lies there."""
_opener: ContextVar[Opener | None] = ContextVar("opener", default=None)


@contextmanager
def opened_by(opener: Opener) -> Iterator[None]:
    """Within it, readers open files through `opener`: those of a repository that is read from afar."""
    before = _opener.set(opener)
    try:
        yield
    finally:
        _opener.reset(before)


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file; its place is the beginning afterwards."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def open_regular(path: str) -> BinaryIO:
    """The file, opened for reading; ModelFileError for what is not there, not readable, or no regular file."""
    opener = _opener.get()
    given = opener(path) if opener else None
    if given is not None:
        return given
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelFileError(f"{path}: not a regular file", hint=_READABLE)
        return open(path, "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelFileError(f"{path}: {reason}", hint=f"is the path right? {_READABLE}") from error


def _first_bytes(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(_SNIFFED_BYTES)


def _not_a_model(path: str, first: bytes) -> ModelFileError:
    if not first:
        return ModelFileError(f"{path}: the file is empty", hint="was the download interrupted?")
    for start, (what, hint) in _OTHER_FORMATS.items():
        if first.startswith(start):
            return ModelFileError(f"{path}: {what}", hint=hint)
    return ModelFileError(f"{path}: neither JSON, GGUF nor safetensors", hint=_READABLE)
