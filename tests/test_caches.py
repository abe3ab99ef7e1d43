"""What other programs have downloaded: the Hugging Face cache, Ollama's manifests and blobs, LM Studio's folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import names_of, write

import fitcalc
from fitcalc.architectures import from_config
from fitcalc.errors import FitcalcError, ModelFileError, UnknownNameError
from fitcalc.readers import caches

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
SPEC = from_config(LLAMA)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def hub_repo(hub: Path, repo: str, commit: str = COMMIT, *, main: bool = True) -> Path:
    """A repository as huggingface_hub lays it out: blobs, and snapshots of links to them."""
    base = hub / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (base / "blobs").mkdir(exist_ok=True)
    write(base / "blobs" / "aaaa", names_of(SPEC))
    (base / "blobs" / "bbbb").write_text(json.dumps(LLAMA))
    (snapshot / "model.safetensors").symlink_to("../../blobs/aaaa")
    (snapshot / "config.json").symlink_to("../../blobs/bbbb")
    if main:
        (base / "refs").mkdir(exist_ok=True)
        (base / "refs" / "main").write_text(commit)
    return base


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def test_a_downloaded_repository_by_its_name(tmp_path: Path) -> None:
    hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "me/my-tune")
    for name in ("hf-cache:me/my-tune", "me/my-tune"):
        spec = fitcalc.load_model(name)
        assert (spec.id, spec.hf_repo, spec.params_total) == ("my-tune", "me/my-tune", SPEC.params_total)
    report = fitcalc.fit("me/my-tune", gpu="h100-80", engine="vllm", quant="bf16")
    assert report.recommendation.command.startswith("vllm serve me/my-tune ")


@pytest.mark.parametrize(
    ("variable", "inner"),
    [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_environment_moves_the_cache(
    variable: str, inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_repo(tmp_path / "elsewhere" / inner, "me/my-tune")
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    assert fitcalc.load_model("hf-cache:me/my-tune").params_total == SPEC.params_total


def test_revisions(tmp_path: Path) -> None:
    hub, other = tmp_path / ".cache" / "huggingface" / "hub", "f" * 40
    hub_repo(hub, "me/two")
    base = hub_repo(hub, "me/two", other, main=False)
    (base / "refs" / "dev").write_text(other)
    assert fitcalc.load_model("hf-cache:me/two").source.endswith(COMMIT)
    assert fitcalc.load_model("hf-cache:me/two@dev").source.endswith(other)
    assert fitcalc.load_model(f"hf-cache:me/two@{other}").source.endswith(other)
    (base / "refs" / "main").unlink()
    with pytest.raises(UnknownNameError):
        fitcalc.load_model("hf-cache:me/two")


def test_a_single_snapshot_needs_no_reference(tmp_path: Path) -> None:
    hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "gpt2-like", main=False)
    assert fitcalc.load_model("hf-cache:gpt2-like").params_total == SPEC.params_total


def test_what_is_not_there_is_suggested(tmp_path: Path) -> None:
    hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "me/my-tune")
    with pytest.raises(UnknownNameError) as caught:
        fitcalc.load_model("hf-cache:me/my-tuna")
    assert caught.value.suggestions == ("me/my-tune",)
    with pytest.raises(UnknownNameError):
        fitcalc.load_model("nobody/nothing-like-it")


def test_a_blob_that_was_not_downloaded(tmp_path: Path) -> None:
    base = hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "me/my-tune")
    (base / "blobs" / "aaaa").unlink()
    (base / "blobs" / "bbbb").unlink()
    with pytest.raises(ModelFileError, match="only links to files that are not there"):
        fitcalc.load_model("hf-cache:me/my-tune")


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b/c", "", "me/..", "a\0b", "me/my-tune@../../x", "x" * 100_000, "/etc"]
)
def test_names_never_lead_out_of_the_cache(name: str, tmp_path: Path) -> None:
    hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "me/my-tune")
    for prefix in ("hf-cache:", "ollama:", "lmstudio:"):
        with pytest.raises(FitcalcError) as caught:
            fitcalc.load_model(prefix + name)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"../../..", b"\xff\xfe", b"", b"a" * 10_000, b"nothing"])
def test_a_reference_that_lies(content: bytes, tmp_path: Path) -> None:
    base = hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "me/my-tune")
    hub_repo(tmp_path / ".cache" / "huggingface" / "hub", "me/my-tune", "e" * 40, main=False)
    (base / "refs" / "main").write_bytes(content)
    assert caches.cached_snapshot("me/my-tune") is None


# --- Ollama -----------------------------------------------------------------------------------------------------------


def ollama(folder: Path, place: str, blob: bytes, *, beside: dict[str, int] | None = None) -> None:
    digest = hashlib.sha256(blob).hexdigest()
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / f"sha256-{digest}").write_bytes(blob)
    parts = [("license", "sha256:" + "0" * 64, 3), ("model", f"sha256:{digest}", len(blob))]
    parts += [(kind, "x", size) for kind, size in (beside or {}).items()]
    layers = [
        {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": size}
        for kind, digest, size in parts
    ]
    manifest = folder / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))


@pytest.fixture
def read_blobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths handed to the reader of files; the model is a stand-in, for GGUF has tests of its own."""
    seen: list[str] = []
    monkeypatch.setattr(caches, "model_from_path", lambda path: seen.append(path) or SPEC)
    return seen


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("llama3.1:8b", "registry.ollama.ai/library/llama3.1/8b"),
        ("llama3.1", "registry.ollama.ai/library/llama3.1/latest"),
        ("me/tune:q4", "registry.ollama.ai/me/tune/q4"),
        ("hf.co/me/tune-GGUF:Q4_K_M", "hf.co/me/tune-GGUF/Q4_K_M"),
    ],
)
def test_ollama_names(name: str, place: str, tmp_path: Path, read_blobs: list[str]) -> None:
    ollama(tmp_path / ".ollama" / "models", place, b"GGUF....")
    spec = fitcalc.load_model(f"ollama:{name}")
    assert spec.id == name
    assert [Path(path).read_bytes() for path in read_blobs] == [b"GGUF...."]


@pytest.mark.usefixtures("read_blobs")
def test_ollamas_environment_and_what_lies_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ollama(tmp_path / "o", "registry.ollama.ai/library/llava/7b", b"GGUF", beside={"projector": 2**30})
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "o"))
    assert "its projector takes 1.00 GiB more and is not counted" in fitcalc.load_model("ollama:llava:7b").notes


def test_a_real_blob_goes_to_the_gguf_reader(tmp_path: Path) -> None:
    ollama(tmp_path / ".ollama" / "models", "registry.ollama.ai/library/broken/latest", b"GGUF" + b"\xff" * 40)
    with pytest.raises(ModelFileError, match="sha256-"):
        fitcalc.load_model("ollama:broken")


def test_ollama_suggests_what_it_has(tmp_path: Path) -> None:
    ollama(tmp_path / ".ollama" / "models", "registry.ollama.ai/library/llama3.1/8b", b"GGUF")
    with pytest.raises(UnknownNameError) as caught:
        fitcalc.load_model("ollama:llama3.1:70b")
    assert caught.value.suggestions == ("llama3.1:8b",)


_LAYER = '{"layers": [{"mediaType": "application/vnd.ollama.image.%s", "digest": "%s"}]}'


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("", "not valid JSON"),
        ("[]", "not an object"),
        ("{}", "names no GGUF"),
        ('{"layers": 3}', "names no GGUF"),
        ('{"layers": [3]}', "names no GGUF"),
        (_LAYER % ("model", "sha256:../../x"), "no sha256"),
        (_LAYER % ("model", "sha256:" + "a" * 64), "missing"),
        (_LAYER % ("tensor", "x"), "names no GGUF"),
    ],
)
def test_a_manifest_that_lies(manifest: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "m"
    folder.mkdir(parents=True)
    (folder / "latest").write_text(manifest)
    with pytest.raises(ModelFileError, match=words):
        fitcalc.load_model("ollama:m")


# --- LM Studio --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", [".lmstudio/models", ".cache/lm-studio/models"])
def test_lm_studio_names(home: str, tmp_path: Path) -> None:
    folder = tmp_path / home / "me" / "my-tune"
    folder.mkdir(parents=True)
    write(folder / "model.safetensors", names_of(SPEC))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for name in ("me/my-tune", "my-tune", "me/my-tune/model.safetensors"):
        assert fitcalc.load_model(f"lmstudio:{name}").params_total == SPEC.params_total
    with pytest.raises(UnknownNameError) as caught:
        fitcalc.load_model("lmstudio:me/my-tuna")
    assert caught.value.suggestions == ("me/my-tune",)


def test_a_name_that_two_makers_use_is_not_guessed(tmp_path: Path) -> None:
    for owner in ("a", "b"):
        (tmp_path / ".lmstudio" / "models" / owner / "tune").mkdir(parents=True)
    with pytest.raises(UnknownNameError) as caught:
        fitcalc.load_model("lmstudio:tune")
    assert set(caught.value.suggestions) == {"a/tune", "b/tune"}
