"""The header of one GGUF file: key-value pairs and tensor entries, read with bounds and decoded as far as asked.

Nothing is allocated or walked in proportion to a number that the file merely states: counts are held against the bytes
that are there, vocabularies are stepped over. Versions 2 and 3, little endian. Errors say what is wrong without the
path; `read_header` puts it in front.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from operator import length_hint
from struct import Struct, error
from typing import Any, BinaryIO, NamedTuple

from fitcalc.errors import ModelFileError
from fitcalc.readers.files import open_regular, size_of

_U32, _U64 = Struct("<I"), Struct("<Q")
_FIXED = Struct("<4sIQQ")
_DIMENSIONS = {count: Struct(f"<{count}QIQ") for count in range(1, 5)}

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
"""Number of a value type -> how struct spells it; arrays and strings aside."""
_LAYOUTS = {number: Struct(f"<{letter}") for number, letter in _SCALARS.items()}

_VERSIONS = (2, 3)
_MOST_KEYS = 2**16
_MOST_TENSORS = 2**18
_MOST_STRINGS = 2**22
"""Strings of all arrays together; the largest vocabularies have 2^18 tokens and twice as many merges."""
_LONGEST_KEY_BYTES = 2**16 - 1
_LONGEST_NAME_BYTES = 63
"""GGML_MAX_NAME is 64, its end included."""
_LONGEST_KEPT_BYTES = 1024
"""Longer strings (chat templates, licences) are stepped over."""
_LONGEST_KEPT_ELEMS = 2**13
"""Longer arrays are vocabularies; those of layers are far shorter."""
_LEAST_KEY_BYTES = 8 + 1 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_LARGEST_ALIGNMENT = 2**20
_DEFAULT_ALIGNMENT = 32
_WINDOW_BYTES = 2**20
_LARGEST_HEADER_BYTES = 2**30
"""Vocabularies take some 10 MB."""
_LARGEST_COUNT = 2**63 - 1
_CUT_OFF = "the download was interrupted, or this is no GGUF file"
_CONVERT_AGAIN = "convert the model again with a current llama.cpp"


class Array(NamedTuple):
    """An array of a header. `values` is None where it was stepped over: strings, and more than any model has layers."""

    element_type: int
    length: int
    values: tuple[int | float | bool, ...] | None


Value = int | float | bool | str | Array | None
"""None: a string too long to be a name."""


class TensorEntry(NamedTuple):
    """A tensor as the header lists it: dimensions with the row length first, number of its ggml type, place."""

    name: str
    dimensions: tuple[int, ...]
    type_id: int
    offset: int
    """From the start of the tensor data."""


class Header(NamedTuple):
    """Everything a GGUF file says before its tensor data begins at byte `data_start`."""

    path: str
    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorEntry, ...]
    alignment: int
    data_start: int
    file_bytes: int


def read_header(path: str) -> Header:
    """The header of a GGUF file; ModelFileError with path and reason for everything that is not one."""
    with open_regular(path) as file:
        size = size_of(file)
        try:
            return _header(_Cursor(file, size), path, size)
        except ModelFileError as problem:
            raise ModelFileError(f"{path}: {problem}", hint=problem.hint) from problem
        except OSError as problem:
            raise ModelFileError(f"{path}: {problem.strerror or problem}", hint="is the disk all right?") from problem


class _Cursor:
    """A place in a file of `size` bytes, with a window of it in memory."""

    __slots__ = ("_file", "_start", "_window", "position", "size")

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._window, self._start, self.position = b"", 0, 0

    def left(self) -> int:
        """Bytes behind the place."""
        return self.size - self.position

    def _load(self, wanted: int) -> None:
        if wanted > self.left():
            raise ModelFileError(f"cut off inside its header at byte {self.size:,}", hint=_CUT_OFF)
        self._file.seek(self.position)
        self._window, self._start = self._file.read(max(wanted, _WINDOW_BYTES)), self.position
        if len(self._window) < wanted:
            raise ModelFileError("became shorter while it was read", hint="is it still being written?")

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        """The values of a layout; the place moves behind them."""
        at = self.position - self._start
        if at + layout.size > len(self._window):
            self._load(layout.size)
            at = 0
        self.position += layout.size
        return layout.unpack_from(self._window, at)

    def number(self, layout: Struct) -> int:
        """One integer."""
        return int(self.unpack(layout)[0])

    def take(self, count: int) -> bytes:
        """That many bytes; `count` is small (a name)."""
        at = self.position - self._start
        if at + count > len(self._window):
            self._load(count)
            at = 0
        self.position += count
        return self._window[at : at + count]

    def skip(self, count: int, what: str) -> None:
        """Step over bytes that have to be there."""
        if count > self.left():
            hint = f"{self.left():,} bytes are left of the file; {_CUT_OFF}"
            raise ModelFileError(f"{what} claims {count:,} bytes", hint=hint)
        self.position += count
        if self.position > _LARGEST_HEADER_BYTES:
            raise ModelFileError(f"{what} makes the header larger than 1 GiB", hint="no model has such a header")

    def skip_strings(self, count: int, what: str) -> None:
        """Step over that many strings with nothing but their lengths looked at."""
        unpack, left = _U64.unpack_from, count
        while left:
            self._load(min(_U64.size, self.left() + 1))
            window, at, rest = self._window, 0, repeat(None, left)
            try:
                for _ in rest:
                    at += unpack(window, at)[0] + 8
                left = 0
            except (error, OverflowError):
                # The next length lies beyond the window.
                left = length_hint(rest) + 1
            self.skip(at, what)


def _header(cursor: _Cursor, path: str, size: int) -> Header:
    _check_start(cursor)
    _, version, tensor_count, key_count = cursor.unpack(_FIXED)
    _check_count(key_count, "key-value pairs", cursor.left() // _LEAST_KEY_BYTES, _MOST_KEYS)
    _check_count(tensor_count, "tensors", cursor.left() // _LEAST_TENSOR_BYTES, _MOST_TENSORS)
    metadata = _metadata(cursor, key_count)
    alignment = _alignment(metadata)
    tensors = _tensors(cursor, tensor_count, alignment)
    data_start = -(-cursor.position // alignment) * alignment
    return Header(path, version, metadata, tensors, alignment, data_start, size)


def _check_start(cursor: _Cursor) -> None:
    if not cursor.size:
        raise ModelFileError("the file is empty", hint="was the download interrupted?")
    magic = cursor.take(min(4, cursor.size))
    if magic == b"FUGG":
        raise _big_endian()
    if magic != b"GGUF":
        raise ModelFileError("does not begin with 'GGUF'", hint="is it a GGUF file?")
    if cursor.size < _FIXED.size:
        raise ModelFileError(f"{cursor.size} bytes; a header alone takes {_FIXED.size}", hint=_CUT_OFF)
    version = cursor.number(_U32)
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in (*_VERSIONS, 1):
            raise _big_endian()
        if version == 1:
            raise ModelFileError("GGUF version 1 (August 2023), which llama.cpp no longer reads", hint=_CONVERT_AGAIN)
        raise ModelFileError(f"GGUF version {version:,}", hint="versions 2 and 3 are known; is fitcalc up to date?")
    cursor.position = 0


def _big_endian() -> ModelFileError:
    hint = "it is for machines like IBM Z; gguf-convert-endian of the Python package gguf turns it round"
    return ModelFileError("a big-endian GGUF file", hint=hint)


def _check_count(count: int, what: str, room: int, most: int) -> None:
    if count > room:
        raise ModelFileError(f"claims {count:,} {what}; there is room for {room:,} at most", hint=_CUT_OFF)
    if count > most:
        raise ModelFileError(f"claims {count:,} {what}; no model has more than {most:,}", hint=_CUT_OFF)


def _text(cursor: _Cursor, longest: int, what: str) -> str:
    """A key or a name: never empty, never long, always UTF-8."""
    length = cursor.number(_U64)
    if not length:
        raise ModelFileError(f"an empty {what}", hint=_CUT_OFF)
    if length > longest:
        raise ModelFileError(f"a {what} of {length:,} bytes; {longest:,} are allowed", hint=_CUT_OFF)
    raw = cursor.take(length)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise ModelFileError(f"a {what} that is not UTF-8: {raw[:40]!r}", hint=_CUT_OFF) from problem


def _metadata(cursor: _Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    strings_left = _MOST_STRINGS
    for _ in range(count):
        key = _text(cursor, _LONGEST_KEY_BYTES, "key")
        if key in metadata:
            raise ModelFileError(f"key {key!r:.80} appears twice", hint=_CONVERT_AGAIN)
        kind = cursor.number(_U32)
        if kind == _ARRAY:
            found = _array(cursor, key, strings_left)
            strings_left -= found.length if found.element_type == _STRING else 0
            metadata[key] = found
        elif kind == _STRING:
            metadata[key] = _string(cursor, key)
        elif kind in _LAYOUTS:
            metadata[key] = _scalar(cursor.unpack(_LAYOUTS[kind])[0], kind, key)
        else:
            raise ModelFileError(f"key {key!r:.80} has value type {kind:,}", hint="types 0 to 12 are known")
    return metadata


def _scalar(value: int | float, kind: int, key: str) -> int | float | bool:
    if kind != _BOOL:
        return value
    if value not in (0, 1):
        raise ModelFileError(f"key {key!r:.80} is a boolean with the value {value}", hint="0 and 1 are allowed")
    return bool(value)


def _string(cursor: _Cursor, key: str) -> str | None:
    length = cursor.number(_U64)
    if length > _LONGEST_KEPT_BYTES:
        cursor.skip(length, f"the text of key {key!r:.80}")
        return None
    return cursor.take(length).decode("utf-8", errors="replace")


def _array(cursor: _Cursor, key: str, strings_left: int) -> Array:
    kind, count = cursor.number(_U32), cursor.number(_U64)
    what = f"the array {key!r:.80}"
    if kind == _ARRAY:
        raise ModelFileError(f"{what} is an array of arrays", hint="llama.cpp has none")
    if kind == _STRING:
        _check_count(count, f"strings in {what}", cursor.left() // _U64.size, strings_left)
        cursor.skip_strings(count, what)
        return Array(kind, count, None)
    if kind not in _LAYOUTS:
        raise ModelFileError(f"{what} has elements of type {kind:,}", hint="types 0 to 12 are known")
    layout = _LAYOUTS[kind]
    if count > _LONGEST_KEPT_ELEMS:
        cursor.skip(count * layout.size, what)
        return Array(kind, count, None)
    raw = cursor.take(count * layout.size)
    return Array(kind, count, tuple(_scalar(value, kind, key) for (value,) in layout.iter_unpack(raw)))


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelFileError(f"general.alignment is {value!r:.40}", hint="it is a power of two, usually 32")
    if not 0 < value <= _LARGEST_ALIGNMENT or value & (value - 1):
        raise ModelFileError(f"general.alignment is {value:,}", hint="it is a power of two, usually 32")
    return value


def _tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[TensorEntry, ...]:
    entries: dict[str, TensorEntry] = {}
    for _ in range(count):
        name = _text(cursor, _LONGEST_NAME_BYTES, "tensor name")
        if name in entries:
            raise ModelFileError(f"tensor {name!r} appears twice", hint=_CONVERT_AGAIN)
        entry = _entry(cursor, name)
        if entry.offset % alignment:
            hint = f"offsets are multiples of {alignment}"
            raise ModelFileError(f"tensor {name!r} begins at the odd offset {entry.offset:,}", hint=hint)
        entries[name] = entry
    return tuple(entries.values())


def _entry(cursor: _Cursor, name: str) -> TensorEntry:
    rank = cursor.number(_U32)
    if rank not in _DIMENSIONS:
        raise ModelFileError(f"tensor {name!r} has {rank:,} dimensions", hint="1 to 4 are allowed")
    values = cursor.unpack(_DIMENSIONS[rank])
    dimensions = values[:rank]
    product = 1
    for size in dimensions:
        product *= size
        if not 0 < size <= _LARGEST_COUNT or product > _LARGEST_COUNT:
            shape = " × ".join(f"{value:,}" for value in dimensions)
            raise ModelFileError(f"tensor {name!r} has the shape {shape}", hint="no tensor is like that")
    return TensorEntry(name, dimensions, values[rank], values[rank + 1])


SizeOf = Callable[[TensorEntry], int]
"""Bytes of a tensor's data."""


def check_data(header: Header, size_of: SizeOf) -> None:
    """Hold the tensors' places against each other and the file; ModelFileError says how many bytes are missing."""
    end, before = 0, ""
    for entry in sorted(header.tensors, key=lambda tensor: tensor.offset):
        if entry.offset < end:
            raise ModelFileError(f"{header.path}: tensors {before!r} and {entry.name!r} overlap", hint=_CONVERT_AGAIN)
        end, before = entry.offset + size_of(entry), entry.name
    missing = header.data_start + end - header.file_bytes
    if header.tensors and missing > 0:
        said = f"{missing:,} of {header.data_start + end:,} bytes are missing at its end"
        raise ModelFileError(f"{header.path}: {said}", hint="the download was interrupted; fetch the file again")
