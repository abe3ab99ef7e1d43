"""The files of one model: a single GGUF, or all parts of a split one, checked against each other and their sizes."""

from __future__ import annotations

import os
import re

from fitcalc.errors import ModelFileError
from fitcalc.readers.gguf_header import Header, TensorEntry, check_data, read_header
from fitcalc.readers.gguf_metadata import whole
from fitcalc.spec.quant import GgmlTable

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MOST_NAMED = 5
_FORK_TYPES = 97
"""Numbers from here on are types of ik_llama.cpp."""


def stem_of(path: str) -> str:
    """The file's name without its ending and without the number of its part."""
    name = os.path.basename(path)
    match = _PART.fullmatch(name)
    return match["stem"] if match else name.removesuffix(".gguf")


def read_parts(path: str, ggml: GgmlTable) -> tuple[Header, ...]:
    """The headers of all parts of the model in order; the first holds the metadata.

    Raises ModelFileError for parts that are missing or do not belong together, and for data that is cut off.
    """
    header = read_header(path)
    count = _number(header, "split.count", 1)
    headers = (header,) if count < 2 else _all_parts(header, count)
    for part in headers:
        check_data(part, lambda entry, part=part: tensor_bytes(entry, ggml, part.path))  # type: ignore[misc]
    return headers


def _number(header: Header, key: str, default: int) -> int:
    try:
        return whole(header.metadata.get(key, default), key)
    except ModelFileError as error:
        raise ModelFileError(f"{header.path}: {error}", hint=error.hint) from error


def _all_parts(given: Header, count: int) -> tuple[Header, ...]:
    match = _PART.fullmatch(given.path)
    if match is None or int(match["count"]) != count:
        number = _number(given, "split.no", 0) + 1
        hint = f"the parts of a split file end in -00001-of-{count:05}.gguf and so on"
        raise ModelFileError(f"{given.path}: part {number} of {count}, under another name", hint=hint)
    paths = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    missing = [os.path.basename(path) for path in paths if not os.path.exists(path)]
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        said = f"{', '.join(missing[:_MOST_NAMED])}{more} missing beside it"
        raise ModelFileError(f"{given.path}: {said}", hint=f"all {count} parts belong in one folder")
    headers = tuple(given if path == given.path else read_header(path) for path in paths)
    _check_together(headers, count)
    return headers


def _check_together(headers: tuple[Header, ...], count: int) -> None:
    names: set[str] = set()
    for place, header in enumerate(headers):
        if _number(header, "split.count", 1) != count or _number(header, "split.no", -1 + 2**31) != place:
            hint = "were its parts renamed, or mixed from two downloads?"
            raise ModelFileError(f"{header.path}: does not say that it is part {place + 1} of {count}", hint=hint)
        twice = next((entry.name for entry in header.tensors if entry.name in names), None)
        if twice is not None:
            raise ModelFileError(f"{header.path}: tensor {twice!r} is in another part too", hint="mixed downloads?")
        names.update(entry.name for entry in header.tensors)
    stated = _number(headers[0], "split.tensors.count", len(names))
    if stated != len(names):
        said = f"the parts hold {len(names):,} tensors, not {stated:,}"
        raise ModelFileError(f"{headers[0].path}: {said}", hint="are all parts from one download?")


def tensor_bytes(entry: TensorEntry, ggml: GgmlTable, path: str) -> int:
    """Bytes of a tensor's data; ModelFileError for a type that is not known or does not divide its rows."""
    name = ggml.type_ids.get(entry.type_id)
    if name is None:
        fork = entry.type_id >= _FORK_TYPES
        hint = "a type of ik_llama.cpp?" if fork else "removed from llama.cpp, or newer than fitcalc: convert it again"
        raise ModelFileError(f"{path}: tensor {entry.name!r} has the unknown type {entry.type_id:,}", hint=hint)
    layout, row = ggml.types[name], entry.dimensions[0]
    if row % layout.block_elems:
        said = f"rows of {row:,} are no multiple of the {layout.block_elems} elements of a {name} block"
        raise ModelFileError(f"{path}: tensor {entry.name!r}: {said}", hint="the file was made wrongly")
    size = row // layout.block_elems * layout.block_bytes
    for rows in entry.dimensions[1:]:
        size *= rows
    return size
