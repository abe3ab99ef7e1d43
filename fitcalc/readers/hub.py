"""A name on the Hugging Face Hub -> ModelSpec, from headers alone: weights are never downloaded.

The repository is laid out as a folder of empty files in a temporary place, which the readers of folders and files look
through; what they open is fetched as far as they read it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from fitcalc.errors import FitcalcError, HubError, ModelFileError
from fitcalc.frozen import replace
from fitcalc.readers import hub_cache
from fitcalc.readers.caches import cached_snapshot
from fitcalc.readers.files import model_from_path, opened_by
from fitcalc.readers.hf_config import LARGEST_CONFIG_BYTES, read_config
from fitcalc.readers.hub_access import Access, hub_access
from fitcalc.readers.hub_cache import Listing
from fitcalc.readers.hub_fetch import Asked, UnreachableError, fetch
from fitcalc.readers.hub_files import Repository, safe_names
from fitcalc.readers.hub_names import HubName, file_of_tag, hub_name
from fitcalc.readers.safetensors import LARGEST_INDEX_BYTES
from fitcalc.spec.model import ModelSpec

_LARGEST_LISTING_BYTES = 64 * 2**20
_MOST_FILES = 20_000
_DEEPEST = 3
_LAID_OUT = (".safetensors", ".gguf", ".json", ".bin", ".pt", ".pth", ".ckpt")
_READ_WHOLE = {
    "config.json": LARGEST_CONFIG_BYTES,
    "model_index.json": LARGEST_CONFIG_BYTES,
    "adapter_config.json": LARGEST_CONFIG_BYTES,
    "model.safetensors.index.json": LARGEST_INDEX_BYTES,
}
"""Small files that readers open by themselves -> the most bytes that one may have."""


def model_from_hub(text: str, access: Access | None = None) -> ModelSpec:
    """The model of 'hf:org/name', with '@revision', '/file or folder' or ':Q4_K_M'; exact bytes from the headers.

    Raises HubError (network, rights, limits, the extra missing), UnknownNameError, ModelFileError.
    """
    name, access = hub_name(text), access or hub_access()
    listing, note = _listing(name, access)
    path = file_of_tag(name, listing.files) if name.tag else name.path
    with tempfile.TemporaryDirectory(prefix="fitcalc-") as place:
        # Named as the repository, for the names that readers take from their folder.
        folder = os.path.join(place, name.repo.rpartition("/")[2])
        repository = Repository(access, name.repo, listing, folder)
        try:
            _lay_out(repository, path)
            with opened_by(repository.open):
                spec = model_from_path(os.path.join(folder, path) if path else folder)
        except FitcalcError as error:
            if isinstance(error, ModelFileError):
                repository.forget()
            raise _renamed(error, folder, name) from error
        repository.keep()
    return _identified(spec, name, listing.commit, path, folder, note)


def config_from_hub(text: str, access: Access | None = None) -> tuple[dict[str, Any], str, str]:
    """(config.json, repository, where it was read) of a name on the Hub."""
    name, access = hub_name(text), access or hub_access()
    listing, _ = _listing(name, access)
    path = "/".join(part for part in (name.path, "config.json") if part)
    if name.tag or path not in listing.files:
        raise ModelFileError(f"{text}: no config.json", hint="only a model that has one can be added")
    with tempfile.TemporaryDirectory(prefix="fitcalc-") as place:
        repository = Repository(access, name.repo, listing, place)
        try:
            _fetch_whole(repository, path, LARGEST_CONFIG_BYTES)
            config = read_config(os.path.join(place, path))
        except FitcalcError as error:
            raise _renamed(error, place, name) from error
    return config, name.repo, f"hf:{name.repo}@{listing.commit}/{path}"


def _listing(name: HubName, access: Access) -> tuple[Listing, str]:
    """The files of the repository, and a word where they are not looked up now."""
    base = hub_cache.repository_folder(access.endpoint, name.repo)
    known = hub_cache.load_listing(base, name.revision)
    if known is not None and known.commit == name.revision:
        return known, ""
    known = known or _downloaded(name)
    if access.offline:
        if known is None:
            hint = "unset HF_HUB_OFFLINE, or give a config.json or a downloaded folder"
            raise HubError(f"{name.repo} was not read before, and HF_HUB_OFFLINE is set", hint=hint)
        return known, ""
    url = f"{access.endpoint}/api/models/{name.repo}/revision/{quote(name.revision, safe='')}"
    try:
        raw = fetch(Asked(access, name.repo), url, most=_LARGEST_LISTING_BYTES).body
    except UnreachableError as error:
        if known is None:
            raise
        return known, f"{error}: read as it was at {known.commit[:12]}"
    listing = _parsed(name, raw)
    hub_cache.save_listing(base, name.revision, listing)
    return listing, ""


def _parsed(name: HubName, raw: bytes) -> Listing:
    hint = "does a proxy or a log-in page stand between, and is HF_ENDPOINT right?"
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise HubError(f"{name.repo}: the answer is no list of its files", hint=hint) from error
    commit, files = (content.get("sha"), content.get("siblings")) if isinstance(content, dict) else (None, None)
    if not isinstance(commit, str) or not commit.isalnum() or len(commit) > 64 or not isinstance(files, list):
        raise HubError(f"{name.repo}: the answer is no list of its files", hint=hint)
    return Listing(commit, safe_names(file.get("rfilename") for file in files if isinstance(file, dict)))


def _downloaded(name: HubName) -> Listing | None:
    """The files of a repository that was downloaded before."""
    folder = cached_snapshot(name.repo if name.revision == "main" else f"{name.repo}@{name.revision}")
    if folder is None:
        return None
    found = [
        os.path.relpath(os.path.join(parent, file), folder).replace(os.sep, "/")
        for parent, _, files in os.walk(folder)
        for file in files
    ]
    return Listing(os.path.basename(folder), safe_names(sorted(found)[:_MOST_FILES]))


def _lay_out(repository: Repository, path: str) -> None:
    """Empty files in place of those that a reader may ask for, and whole the small ones that it opens by itself."""
    inner = path.rpartition("/")[0] if path in repository.files else path
    start = f"{inner}/" if inner else ""
    names = [name for name in sorted(repository.files) if name.startswith(start) and name.endswith(_LAID_OUT)]
    if path and not names:
        raise ModelFileError(f"{os.path.join(repository.folder, path)}: not there", hint=_held(repository.files))
    os.makedirs(os.path.join(repository.folder, inner), exist_ok=True)
    for name in names[:_MOST_FILES]:
        if name.count("/") - start.count("/") <= _DEEPEST:
            place = os.path.join(repository.folder, name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb"):
                pass
    if path.endswith(".gguf"):
        return
    for file, most in _READ_WHOLE.items():
        if start + file in repository.files:
            _fetch_whole(repository, start + file, most)


def _held(files: Iterable[str]) -> str:
    models = sorted(name for name in files if name.endswith((".gguf", ".safetensors", "config.json")))
    return (
        f"the repository holds {', '.join(models[:6])}{' …' if models[6:] else ''}" if models else "it holds no model"
    )


def _fetch_whole(repository: Repository, name: str, most: int) -> None:
    place = os.path.join(repository.folder, name)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "wb") as file:
        file.write(repository.content(name, most))


def _renamed(error: FitcalcError, folder: str, name: HubName) -> FitcalcError:
    """The error with names on the Hub in place of those of the temporary folder."""
    revision = "" if name.revision == "main" else f"@{name.revision}"
    shown = f"hf:{name.repo}{revision}"
    error.args = (str(error).replace(folder, shown),)
    error.hint = error.hint.replace(folder, shown)
    return error


def _identified(spec: ModelSpec, name: HubName, commit: str, path: str, folder: str, note: str) -> ModelSpec:
    """The model under its repository's name."""
    source = f"hf:{name.repo}@{commit}" + (f"/{path}" if path else "")
    notes = tuple(text.replace(folder, f"hf:{name.repo}") for text in spec.notes)
    called = (
        spec.name if spec.container == "gguf" else (path or name.repo).rpartition("/")[2].removesuffix(".safetensors")
    )
    return replace(
        spec, id=called, name=called, hf_repo=name.repo, source=source, notes=(*([note] if note else []), *notes)
    )
