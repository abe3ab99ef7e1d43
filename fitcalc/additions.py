"""Adding a model to the user's own catalogue: a config.json becomes a profile that is held to it before it is kept."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fitcalc import catalog
from fitcalc.catalog.files import config_folder
from fitcalc.catalog.names import is_stem
from fitcalc.catalog.writing import toml_text, without_nulls
from fitcalc.errors import ModelFileError, ProfileError, RequestError
from fitcalc.frozen import dataclass
from fitcalc.readers.hf_config import described, read_config
from fitcalc.spec.model import ModelSpec

_LONGEST_NAME = 100
_LIKE_A_FILE = (".json", ".gguf", ".safetensors", ".toml")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_CONFIG_ONLY = "a profile is made from a config.json: give one, the folder that holds it, hf:org/name, or - for stdin"
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Added:
    """A profile that was written, the model it describes, and what the user has to know."""

    id: str
    path: str
    model: ModelSpec
    notes: tuple[str, ...] = ()


def add_model(
    source: str,
    name: str,
    *,
    aliases: Sequence[str] = (),
    params: int | None = None,
    folder: str | None = None,
    force: bool = False,
) -> Added:
    """Write the model of a config.json as the profile `name`, by default into the user's own folder.

    `source` is a path of a config.json or of its folder, '-', 'hf:org/name' or 'hf-cache:org/name'; `params` the exact
    count where it is known better. Nothing is overwritten or hidden without `force`, and nothing is left half written.

    Raises RequestError for a name that cannot be used, ProfileError, and what reading the configuration raises.
    """
    path = os.path.join(folder or _own_folder(), "models", f"{name}.toml")
    _hold_name(name, path, force=force)
    config, repo, origin = _config_of(source)
    spec = described(config, origin)
    names = tuple(dict.fromkeys((*aliases, *_free(repo))))
    _hold_aliases(names, name, force=force)
    kept, nulls, left = without_nulls(config)
    content = {"name": name, "aliases": list(names), "hf_repo": repo, **_counted(spec, params), "source": origin}
    content |= {"null_keys": list(nulls)}
    content = {key: value for key, value in content.items() if value not in ("", [])}
    _write(path, toml_text({**content, "config": kept}), spec, replaces=force)
    return Added(name, path, spec, (*_count_note(spec, params), *_left_note(left)))


def _counted(spec: ModelSpec, params: int | None) -> dict[str, int]:
    """The count under the key that says whether it is exact."""
    exact = bool(spec.tensors) and not spec.unknowns
    if params is None:
        return {"params": spec.params_total} if exact else {}
    return {"params" if exact else "params_published": params}


def _count_note(spec: ModelSpec, params: int | None) -> tuple[str, ...]:
    if params is None or params == spec.params_total or spec.unknowns:
        return ()
    return (f"the tensors of the configuration count {spec.params_total:,}, not {params:,}",)


def _left_note(left: Sequence[str]) -> tuple[str, ...]:
    named = ", ".join(left[:_MOST_NAMED]) + (" …" if left[_MOST_NAMED:] else "")
    return (f"left out, as a profile cannot hold them: {named}",) if left else ()


def _own_folder() -> str:
    """The strongest of the folders in $FITCALC_PROFILES, else the settings folder."""
    named = [part for part in os.environ.get("FITCALC_PROFILES", "").split(os.pathsep) if part]
    return named[-1] if named else config_folder()


def _hold_name(name: str, path: str, *, force: bool) -> None:
    if not is_stem(name) or len(name) > _LONGEST_NAME or name.endswith(_LIKE_A_FILE):
        usable = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:_LONGEST_NAME]
        while usable.endswith(_LIKE_A_FILE):
            usable = usable.rpartition(".")[0]
        hint = "lower-case letters, digits, dots, - and _" + (f"; such as {usable}" if usable else "")
        raise RequestError(f"{name[:_LONGEST_NAME]!r} cannot be a profile's name", hint=hint)
    if os.path.lexists(path) and not force:
        raise ProfileError(f"{path} is there already", hint="--force replaces it; or take another --name")
    known = catalog.known("model", name)
    if known is not None and not force and known.path != path:
        said = f"{name} already means {known.id if known.id != name else 'a model of the catalogue'}"
        raise ProfileError(said, hint="take another --name; --force puts yours in its place")


def _hold_aliases(aliases: Sequence[str], name: str, *, force: bool) -> None:
    for alias in aliases:
        odd = not alias.strip() or not alias.isprintable() or alias.endswith(_LIKE_A_FILE) or alias[0] in "./~-"
        if odd or len(alias) > _LONGEST_NAME:
            raise RequestError(f"{alias[:_LONGEST_NAME]!r} cannot be an alias", hint="give a name as a person types it")
        known = catalog.known("model", alias)
        if known is not None and known.id != name and not force:
            raise ProfileError(f"{alias} already means {known.id}", hint="leave the alias out, or give --force")


def _free(repo: str) -> tuple[str, ...]:
    """The repository as an alias, where its name is not taken."""
    return (repo,) if repo and catalog.known("model", repo) is None else ()


def _config_of(source: str) -> tuple[dict[str, Any], str, str]:
    """(config.json, repository if known, where it came from)."""
    if source == "-":
        from fitcalc.readers.stdin import config_from_stdin

        config = config_from_stdin()
        return config, _stated_repo(config), "config.json on standard input"
    if source.startswith("hf:"):
        from fitcalc.readers.hub import config_from_hub

        return config_from_hub(source)
    if source.startswith("hf-cache:"):
        return _from_hub_cache(source.partition(":")[2].strip())
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        path = os.path.join(path, "config.json")
    if path.endswith((".gguf", ".safetensors")):
        hint = f"{_CONFIG_ONLY}; a file of weights needs no profile: fitcalc {source}"
        raise ModelFileError(f"{source}: weights, not a configuration", hint=hint)
    if not os.path.lexists(path):
        looks = f"hf:{source}, or " if _REPOSITORY.fullmatch(source) and path == source else ""
        raise ModelFileError(f"{path}: No such file", hint=f"{looks}{_CONFIG_ONLY}")
    config = read_config(path)
    return config, _stated_repo(config), os.path.abspath(path)


def _from_hub_cache(name: str) -> tuple[dict[str, Any], str, str]:
    from fitcalc.readers.caches import cached_snapshot, hub_folder

    folder = cached_snapshot(name)
    if folder is None:
        hint = f"hf:{name} asks the Hugging Face Hub"
        raise ModelFileError(f"{name} is not in {hub_folder()}", hint=hint)
    config = read_config(os.path.join(folder, "config.json"))
    return config, name.partition("@")[0], f"hf:{name.partition('@')[0]}@{os.path.basename(folder)}/config.json"


def _stated_repo(config: dict[str, Any]) -> str:
    """The repository that a configuration names, if it is one and no path of somebody's disk."""
    stated = config.get("_name_or_path")
    return stated if isinstance(stated, str) and len(stated) <= _LONGEST_NAME and _REPOSITORY.fullmatch(stated) else ""


def _write(path: str, text: str, spec: ModelSpec, *, replaces: bool) -> None:
    """The file in its place once what it describes is the model that was read."""
    part = ""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # A dot in front keeps it from being a profile itself.
        handle, part = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".toml")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(part, 0o644)
        _hold_same(part, path, spec)
        if replaces:
            os.replace(part, path)
        else:
            _put(part, path)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror or error}", hint="--profiles DIR takes another folder") from error
    finally:
        if part:
            with suppress(OSError):
                os.unlink(part)


def _put(part: str, path: str) -> None:
    """Into an empty place, even where another process fills it at this moment."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise ProfileError(f"{path} is there already", hint="--force replaces it; or take another --name") from None
    except OSError:
        # A file system without links.
        os.rename(part, path)


def _hold_same(part: str, path: str, spec: ModelSpec) -> None:
    try:
        read = catalog.load_model(part)
    except ProfileError as error:
        raise ProfileError(str(error).replace(part, path), hint=error.hint) from error
    same = ("tensors", "cache_layers", "unknowns", "quant", "max_context_tokens", "tied_embeddings", "model_type")
    differs = [field for field in same if getattr(read, field) != getattr(spec, field)]
    if differs:
        said = f"{path}: as a profile it would differ in {', '.join(differs)}"
        raise ProfileError(said, hint="give the config.json itself as the model")
