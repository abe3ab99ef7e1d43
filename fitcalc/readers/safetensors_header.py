"""The header of one safetensors file: 8 bytes of length, JSON, and every way in which it can be wrong.

Nothing is believed before it is checked against the size of the file, so that time and memory stay in proportion to it.
"""

from __future__ import annotations

import json
import math
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

from fitcalc.errors import ModelFileError
from fitcalc.readers.files import open_regular, size_of

LARGEST_HEADER_BYTES = 100_000_000
"""The format's own limit; the largest real ones, with an entry per expert, have some 20 MB."""
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_LARGEST_SIDE = 2**63

DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of an element, for every type that the format has."""


class Entry(NamedTuple):
    """One tensor of a file as its header states it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Header(NamedTuple):
    """A file's tensors in the order of the header, its free-form metadata, and its size on disk in bytes."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    file_bytes: int


def read_header(path: str) -> Header:
    """The header of a safetensors file, checked as a whole: types, shapes, offsets, and that the file is complete.

    Raises ModelFileError: one line with the path, the tensor, what is wrong, and what to try.
    """
    with open_regular(path) as file:
        size = size_of(file)
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        _hold_length(path, size, length)
        content = parsed_object(path, file.read(length), "the header")
    metadata = _metadata(path, content.pop(_METADATA, {}))
    spans = [_span(path, name, stated) for name, stated in content.items()]
    _hold_spans(path, sorted(spans, key=itemgetter(1, 2)), size - _LENGTH_BYTES - length)
    return Header(tuple(entry for entry, _, _ in spans), metadata, size)


def parsed_object(path: str, raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `raw`; ModelFileError for anything else, keys that appear twice included."""
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _broken(path, f"{what} is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise _broken(path, f"{what} is nested too deeply") from error
    except ValueError as error:
        raise _broken(path, f"{what} is not valid JSON: {str(error).splitlines()[0]:.120}") from error
    if not isinstance(content, dict):
        raise _broken(path, f"{what} holds a {type(content).__name__}, not an object")
    return content


def _broken(path: str, said: str, hint: str = "") -> ModelFileError:
    return ModelFileError(f"{path}: {said}", hint=hint or "the file is damaged or no safetensors file; fetch it again")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r:.80} appears twice")
        found[key] = value
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _hold_length(path: str, size: int, length: int) -> None:
    if size < _LENGTH_BYTES:
        raise _broken(path, f"{size} bytes, too short for a safetensors file")
    if length > LARGEST_HEADER_BYTES:
        said = f"states a header of {length:,} bytes, the format allows {LARGEST_HEADER_BYTES:,}"
        raise _broken(path, said, "this is no safetensors file, or it is damaged")
    if length > size - _LENGTH_BYTES:
        missing = length - (size - _LENGTH_BYTES)
        raise _broken(path, f"the header of {length:,} bytes is cut off: {missing:,} bytes are missing")
    if not length:
        raise _broken(path, "the header is empty")


def _metadata(path: str, stated: Any) -> dict[str, str]:
    if not isinstance(stated, dict) or not all(isinstance(value, str) for value in stated.values()):
        raise _broken(path, f"{_METADATA} has to map texts to texts")
    return stated


def _span(path: str, name: str, stated: Any) -> tuple[Entry, int, int]:
    """(entry, begin, end) of one tensor whose type, shape and byte range agree with each other."""
    if not isinstance(stated, dict) or not {"dtype", "shape", "data_offsets"} <= stated.keys():
        raise _broken(path, f"tensor {name!r:.120} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = stated["dtype"], stated["shape"], stated["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        hint = "a newer format, or a damaged file"
        raise _broken(path, f"tensor {name!r:.120} has dtype {dtype!r:.40}, which is not known", hint)
    if not _are_sizes(shape):
        raise _broken(path, f"tensor {name!r:.120} has shape {shape!r:.60}, not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(path, f"tensor {name!r:.120} has data_offsets {offsets!r:.60}, not [begin, end]")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8:
        raise _broken(path, f"tensor {name!r:.120}: {dtype} {shape!r:.60} does not end at a whole byte")
    if bits // 8 != end - begin:
        said = f"{dtype} {shape!r:.60} takes {_grouped(bits // 8)} bytes, its offsets span {end - begin:,}"
        raise _broken(path, f"tensor {name!r:.120}: {said}")
    return Entry(name, dtype, tuple(shape), end - begin), begin, end


def _grouped(number: int) -> str:
    """The number with commas; one too large to be printed in full is called so."""
    return f"{number:,}" if number < _LARGEST_SIDE else "more than 2^63"


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _LARGEST_SIDE for item in value)


def _hold_spans(path: str, spans: list[tuple[Entry, int, int]], data_bytes: int) -> None:
    """The byte ranges follow one another without holes from the first byte of the data to the last."""
    expected = 0
    for entry, begin, end in spans:
        if begin != expected:
            what = "overlaps the tensor before it" if begin < expected else f"leaves {begin - expected:,} bytes unused"
            raise _broken(path, f"tensor {entry.name!r:.120} at {begin:,} {what}")
        expected = end
    if expected > data_bytes:
        said = f"{expected - data_bytes:,} of {expected:,} bytes of data are missing"
        raise _broken(path, f"cut off: {said}", "the download was interrupted; fetch the file again")
    if expected < data_bytes:
        raise _broken(path, f"{data_bytes - expected:,} bytes behind the last tensor belong to none")
