"""A config.json on standard input -> ModelSpec: `fitcalc - < config.json`."""

from __future__ import annotations

import sys
from typing import Any

from fitcalc.errors import ModelFileError
from fitcalc.frozen import replace
from fitcalc.readers.hf_config import LARGEST_CONFIG_BYTES, described, parsed_config
from fitcalc.spec.model import ModelSpec

STDIN = "standard input"
_READABLE = "pipe a config.json in: fitcalc - < config.json"


def config_from_stdin() -> dict[str, Any]:
    """The JSON object on standard input; ModelFileError for a terminal, nothing, too much, or anything else."""
    source = sys.stdin
    if source is None or source.closed:
        raise ModelFileError(f"{STDIN} is closed", hint=_READABLE)
    if source.isatty():
        raise ModelFileError(f"{STDIN} is a terminal", hint=_READABLE)
    try:
        binary = getattr(source, "buffer", None)
        raw: bytes = binary.read(LARGEST_CONFIG_BYTES + 1) if binary else source.read().encode()
    except OSError as error:
        raise ModelFileError(f"{STDIN}: {error.strerror or error}", hint=_READABLE) from error
    if not raw.strip():
        raise ModelFileError(f"{STDIN} is empty", hint="did the command before the pipe fail?")
    if len(raw) > LARGEST_CONFIG_BYTES:
        hint = "only a config.json is read from there; weights are read by their path"
        raise ModelFileError(f"{STDIN}: more than {LARGEST_CONFIG_BYTES // 2**20} MiB", hint=hint)
    if raw[:4] in (b"GGUF", b"FUGG") or raw[8:9] == b"{":
        raise ModelFileError(f"{STDIN}: weights, not a config.json", hint="give the path of the file")
    return parsed_config(raw, STDIN)


def model_from_stdin() -> ModelSpec:
    """The model that the config.json on standard input describes; its name is the one in it, or its type."""
    config = config_from_stdin()
    spec = described(config, STDIN, bounded=True)
    stated = config.get("_name_or_path")
    repo = stated if isinstance(stated, str) else ""
    name = repo.rstrip("/").rpartition("/")[2] or spec.model_type or "config"
    return replace(spec, id=name, name=name, hf_repo=repo, source=STDIN)
