"""Names on the Hugging Face Hub: hf:org/name, with @revision, /a file or folder, or :the type of a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fitcalc.errors import ModelFileError, RequestError, UnknownNameError
from fitcalc.frozen import dataclass

PREFIX = "hf:"
_WORD = r"[A-Za-z0-9_](?:[\w.+-]*\w)?"
_NAME = re.compile(
    rf"(?P<repo>{_WORD}(?:/{_WORD})?)(?:@(?P<revision>refs/\w+/{_WORD}|{_WORD}))?"
    rf"(?:/(?P<path>{_WORD}(?:/{_WORD})*))?(?::(?P<tag>{_WORD}))?",
    re.ASCII,
)
_LONGEST_NAME = 500
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class HubName:
    """What is asked of the Hub: a repository, one of its revisions, and which of its files."""

    repo: str
    revision: str = "main"
    path: str = ""
    """A file or folder in the repository."""
    tag: str = ""
    """The type of a GGUF file, such as Q4_K_M."""


def hub_name(text: str) -> HubName:
    """The parts of 'hf:org/name@revision/path:tag', of which all but the repository may be left out."""
    match = _NAME.fullmatch(text.removeprefix(PREFIX).strip()) if len(text) <= _LONGEST_NAME else None
    if match is None:
        hint = "write hf:org/name, hf:org/name@revision, hf:org/name/file.gguf or hf:org/name:Q4_K_M"
        raise RequestError(f"{text[:120]!r} is no name on the Hugging Face Hub", hint=hint)
    given = {key: value for key, value in match.groupdict().items() if value}
    return HubName(**given)


def is_repository(text: str) -> bool:
    """Could the text be 'org/name', with or without a revision?"""
    match = _NAME.fullmatch(text) if len(text) <= _LONGEST_NAME else None
    return match is not None and "/" in match["repo"] and not match["path"] and not match["tag"]


def file_of_tag(name: HubName, files: Iterable[str]) -> str:
    """The GGUF file, or the first part of it, whose name ends in the tag; exact ones before those of other recipes."""
    stems = {file: _stem(file) for file in files if file.endswith(".gguf") and "mmproj" not in file.lower()}
    ends = re.compile(rf"(?:^|[-./]){re.escape(name.tag)}$", re.IGNORECASE)
    found = [file for file, stem in stems.items() if ends.search(stem)]
    plain = [file for file in found if f"ud-{name.tag}".lower() not in file.lower()] or found
    if len({stems[file] for file in plain}) == 1:
        return min(plain)
    listed = sorted({stems[file].rpartition("/")[2] for file in plain or stems})
    if plain:
        shown = ", ".join(sorted(plain)[:_MOST_NAMED])
        hint = f"give one of them, such as hf:{name.repo}/{min(plain)}"
        raise ModelFileError(f"hf:{name.repo}: several files are {name.tag}: {shown}", hint=hint)
    more = " …" if len(listed) > _MOST_NAMED else ""
    held = f"it holds {', '.join(listed[:_MOST_NAMED])}{more}" if listed else "it holds no GGUF files"
    raise UnknownNameError(f"GGUF type in {name.repo}", name.tag, hint=held)


def _stem(file: str) -> str:
    return _PART.sub("", file.removesuffix(".gguf"))
