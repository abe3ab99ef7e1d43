"""Models on the Hub against a server on this machine: what is read, what is kept, and one line for every fault."""

from __future__ import annotations

import json
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_files import STRING, U32, FileTensor, Gguf
from hub_server import COMMIT, Hub, serving
from hypothesis import given
from hypothesis import strategies as st
from safetensors_files import names_of, write

import fitcalc
from fitcalc.architectures import from_config
from fitcalc.cli import run
from fitcalc.errors import HubError, ModelFileError, RequestError, UnknownNameError
from fitcalc.readers import hub_cache, hub_files
from fitcalc.readers.hub import config_from_hub, model_from_hub
from fitcalc.readers.hub_access import Access
from fitcalc.readers.hub_fetch import Asked, fetch
from fitcalc.readers.hub_names import HubName, file_of_tag, hub_name, is_repository
from fitcalc.sources import load_model

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
SPEC = from_config(LLAMA)
SHARDS = 6


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A repository of shards with an index, and a GGUF repository's files beside it in folders."""
    folder = tmp_path / "served"
    folder.mkdir()
    fill_shards(folder)
    with serving(Hub(folder)) as served:
        yield served


def fill_shards(folder: Path) -> int:
    """A sharded model with its index; its bytes."""
    tensors = list(names_of(SPEC).items())
    step = -(-len(tensors) // SHARDS)
    places, total = {}, 0
    for number in range(SHARDS):
        name = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = dict(tensors[number * step : (number + 1) * step])
        total += write(folder / name, part)
        places |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return total


def access(hub: Hub, **given: Any) -> Access:
    return Access(endpoint=hub.address, **({"timeout_s": 5.0, "pause_s": 0.0} | given))


def gguf(path: Path, *, layers: int = 2, tokens: int = 320) -> Gguf:
    norms = [f"blk.{layer}.{name}_norm.weight" for layer in range(layers) for name in ("attn", "ffn")]
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    tensors = [FileTensor("token_embd.weight", (64, 320), "q8_0"), FileTensor("output_norm.weight", (64,))]
    tensors += [FileTensor(name, (64,)) for name in norms]
    tensors += [FileTensor(f"blk.{layer}.{name}.weight", (64, 64), "q8_0") for layer in range(layers) for name in names]
    numbers = {"block_count": layers, "embedding_length": 64, "context_length": 4096, "feed_forward_length": 64,
               "attention.head_count": 4, "attention.head_count_kv": 4}  # fmt: skip
    metadata: dict[str, Any] = {"general.architecture": (STRING, "llama"), "general.file_type": (U32, 7)}
    metadata |= {f"llama.{key}": (U32, value) for key, value in numbers.items()}
    metadata["tokenizer.ggml.tokens"] = (9, (STRING, ["token" * 20] * tokens))
    file = Gguf(metadata, tuple(tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    file.write(path)
    return file


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_sharded_repository_is_exact_from_its_headers(hub: Hub) -> None:
    files = sum(path.stat().st_size for path in hub.folder.glob("*.safetensors"))
    spec = model_from_hub("hf:me/tiny", access(hub))
    assert (spec.params_total, spec.file_bytes) == (SPEC.params_total, files)
    assert (spec.id, spec.hf_repo, spec.source) == ("tiny", "me/tiny", f"hf:me/tiny@{COMMIT}")
    assert spec.cache_layers == SPEC.cache_layers
    assert all(asked.startswith("bytes=") for path, asked, _ in hub.asked if "/resolve/" in path)


def test_weights_are_never_fetched(hub: Hub) -> None:
    large = 10**8
    write(hub.folder / "big.safetensors", {"model.embed_tokens.weight": ("BF16", (large, 8))})
    assert (model_from_hub("hf:me/tiny/big.safetensors", access(hub)).file_bytes or 0) > large * 16 > 10**9
    model_from_hub("hf:me/tiny", access(hub))
    headers = sum(8 + struct.unpack("<Q", path.read_bytes()[:8])[0] for path in hub.folder.glob("model-*.safetensors"))
    assert hub.sent_bytes < headers + (SHARDS + 2) * hub_files._FIRST_BYTES + 20_000


def test_one_file_and_a_config_alone(hub: Hub) -> None:
    for path in hub.folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    assert model_from_hub("hf:me/tiny", access(hub)).params_total == SPEC.params_total
    size = write(hub.folder / "model.safetensors", names_of(SPEC))
    spec = model_from_hub("hf:me/tiny", access(hub))
    assert (spec.file_bytes, spec.params_total) == (size, SPEC.params_total)
    spec = model_from_hub("hf:me/tiny/model.safetensors", access(hub))
    assert (spec.file_bytes, spec.id) == (size, "model")


@pytest.mark.parametrize("around", [-9, -8, -7, -1, 0, 1, 7, 8, 9])
def test_headers_around_the_first_window(hub: Hub, around: int) -> None:
    """A header that ends at, just before or just behind what the first request asks for."""
    for path in hub.folder.glob("*model*"):
        path.unlink()
    raw = _header_of(names_of(SPEC), hub_files._FIRST_BYTES + around - 8)
    data = sum(SPEC_BYTES)
    (hub.folder / "model.safetensors").write_bytes(raw + bytes(data))
    spec = model_from_hub("hf:me/tiny", access(hub))
    assert spec.file_bytes == len(raw) + data
    assert spec.params_total == SPEC.params_total


SPEC_BYTES = [2 * tensor.elems for tensor in SPEC.tensors if not tensor.is_buffer]


def _header_of(tensors: Any, length: int) -> bytes:
    from safetensors_files import header_of

    raw, _ = header_of(tensors)
    text = raw[8:].rstrip(b" ")
    return struct.pack("<Q", length) + text + b" " * (length - len(text))


def test_a_gguf_file_by_path_by_type_and_in_parts(hub: Hub) -> None:
    gguf(hub.folder / "tiny-Q8_0.gguf", tokens=40_000)
    gguf(hub.folder / "UD" / "tiny-UD-Q8_0.gguf")
    gguf(hub.folder / "tiny-Q4_K_M.gguf", layers=3)
    size = (hub.folder / "tiny-Q8_0.gguf").stat().st_size
    assert size > 4 * 2**20
    for name in ("hf:me/tiny/tiny-Q8_0.gguf", "hf:me/tiny:Q8_0", "hf:me/tiny:q8_0"):
        spec = model_from_hub(name, access(hub))
        assert (spec.file_bytes, spec.layers, spec.hf_repo, spec.id) == (size, 2, "me/tiny", "tiny-Q8_0")
        assert spec.source == f"hf:me/tiny@{COMMIT}/tiny-Q8_0.gguf"
    assert model_from_hub("hf:me/tiny:UD-Q8_0", access(hub)).id == "tiny-UD-Q8_0"
    assert model_from_hub("hf:me/tiny/UD", access(hub)).id == "tiny-UD-Q8_0"
    with pytest.raises(UnknownNameError, match="Q5_K_M") as caught:
        model_from_hub("hf:me/tiny:Q5_K_M", access(hub))
    assert "tiny-Q8_0" in caught.value.hint


def test_a_start_command_names_the_file_of_the_repository(hub: Hub) -> None:
    gguf(hub.folder / "tiny-UD-Q8_0.gguf")
    spec = model_from_hub("hf:me/tiny:UD-Q8_0", access(hub))
    report = fitcalc.fit(spec, gpu="rtx-3060", engine="llama.cpp")
    assert "-hf me/tiny -hff tiny-UD-Q8_0.gguf" in report.recommendation.command
    report = fitcalc.fit(spec, gpu="rtx-3060", engine="ollama")
    assert "FROM hf.co/me/tiny:tiny-UD-Q8_0.gguf" in report.recommendation.command


def test_several_models_in_one_repository_are_listed_by_their_names_there(hub: Hub) -> None:
    for path in list(hub.folder.iterdir()):
        path.unlink()
    gguf(hub.folder / "a.gguf")
    gguf(hub.folder / "b.gguf")
    with pytest.raises(ModelFileError) as caught:
        model_from_hub("hf:me/tiny", access(hub))
    assert str(caught.value) == "hf:me/tiny: several models: a.gguf, b.gguf"
    assert caught.value.hint == "give one of them, such as hf:me/tiny/a.gguf"


def test_a_revision_and_a_commit(hub: Hub) -> None:
    assert model_from_hub(f"hf:me/tiny@{COMMIT}", access(hub)).params_total == SPEC.params_total
    with pytest.raises(HubError, match="no such revision"):
        model_from_hub("hf:me/tiny@v9", access(hub))


def test_the_configuration_alone(hub: Hub) -> None:
    config, repo, source = config_from_hub("hf:me/tiny", access(hub))
    assert (config, repo, source) == (LLAMA, "me/tiny", f"hf:me/tiny@{COMMIT}/config.json")
    assert not any("safetensors" in path for path in hub.paths())


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_twice(hub: Hub) -> None:
    first = model_from_hub("hf:me/tiny", access(hub))
    hub.asked.clear()
    assert model_from_hub("hf:me/tiny", access(hub)) == first
    assert hub.paths() == ["/api/models/me/tiny/revision/main"]
    hub.asked.clear()
    assert model_from_hub(f"hf:me/tiny@{COMMIT}", access(hub)) == first
    assert model_from_hub("hf:me/tiny", access(hub, offline=True)) == first
    assert hub.asked == []


def test_offline_without_having_read_it(hub: Hub) -> None:
    with pytest.raises(HubError, match="HF_HUB_OFFLINE") as caught:
        model_from_hub("hf:me/tiny", access(hub, offline=True))
    assert "\n" not in str(caught.value)
    assert hub.asked == []


def test_without_a_network_what_was_read_stands_in_and_says_so(hub: Hub) -> None:
    first = model_from_hub("hf:me/tiny", access(hub))
    hub.faults[""] = "broken"
    second = model_from_hub("hf:me/tiny", access(hub))
    assert second.params_total == first.params_total
    assert any("503" in note and COMMIT[:12] in note for note in second.notes)


def test_a_downloaded_copy_stands_in_for_fetching(hub: Hub, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "huggingface" / "hub" / "models--me--tiny" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for path in hub.folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    spec = model_from_hub("hf:me/tiny", access(hub))
    assert spec.params_total == SPEC.params_total
    assert hub.paths() == ["/api/models/me/tiny/revision/main"]
    assert model_from_hub("hf:me/tiny", access(hub, offline=True)).file_bytes == spec.file_bytes


def test_a_broken_file_is_fetched_anew(hub: Hub) -> None:
    shard = next(hub.folder.glob("*-00002-of-*"))
    good = shard.read_bytes()
    shard.write_bytes(good[:8] + b"[" + good[9:])
    with pytest.raises(ModelFileError, match=r"hf:me/tiny/model-00002-of-00006\.safetensors"):
        model_from_hub("hf:me/tiny", access(hub))
    shard.write_bytes(good)
    assert model_from_hub("hf:me/tiny", access(hub)).params_total == SPEC.params_total


def test_a_cache_that_cannot_be_used_is_as_good_as_none(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert model_from_hub("hf:me/tiny", access(hub)).params_total == SPEC.params_total
    (tmp_path / "cache").unlink()
    model_from_hub("hf:me/tiny", access(hub))
    base = Path(hub_cache.repository_folder(hub.address, "me/tiny"))
    for path in [*(base / COMMIT).iterdir(), base / f"{COMMIT}.json"]:
        path.write_bytes(b"\xff\x00")
    assert model_from_hub("hf:me/tiny", access(hub)).params_total == SPEC.params_total


def test_progress_is_told_for_a_set(hub: Hub) -> None:
    told: list[tuple[int, int]] = []
    with hub_files.watched(lambda done, total: told.append((done, total))):
        model_from_hub("hf:me/tiny", access(hub))
    assert told == [(done, SHARDS) for done in range(1, SHARDS + 1)]


# --- faults -----------------------------------------------------------------------------------------------------------

SHARD = f"model-00003-of-{SHARDS:05}.safetensors"
FAULTS = [
    ("gated", "me/tiny is gated: it is read only with a token", "accept its conditions at http"),
    ("unauthorized", "unknown repository 'me/tiny'", "HF_TOKEN"),
    ("limited", "limits how often it is asked", "in 37 s"),
    ("broken", "answers with 503", "try again"),
    ("teapot", "answers with 418", "proxy"),
    ("slow", "did not answer within 0.2 s", "online"),
    ("drip", "did not answer within 0.05 s", "online"),
    ("truncated", "bytes are missing", "online"),
    ("redirect round", "redirects", "online"),
    ("redirect to a file", "redirect to file, which is not followed", "online"),
    ("hangs up", "broke off", "online"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "said", "hint"), FAULTS, ids=[case[0] for case in FAULTS])
@pytest.mark.parametrize("file", [SHARD, ""], ids=["shard", "listing"])
def test_a_fault_is_one_line_with_a_hint(hub: Hub, file: str, fault: str, said: str, hint: str) -> None:
    hub.faults[file] = fault
    if fault == "drip":
        hub.listed = [*hub.files(), *(f"more-{number}.json" for number in range(100))]
    with pytest.raises((HubError, UnknownNameError)) as caught:
        model_from_hub("hf:me/tiny", access(hub, timeout_s=0.05 if fault == "drip" else 0.2))
    assert said in str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("absent", "the file is not there"),
        ("another range", "another range"),
        ("huge", "a file of 1,000,000"),
        ("length too small", "bytes are missing"),
    ],
)
def test_faults_of_a_file(hub: Hub, fault: str, said: str) -> None:
    hub.faults[SHARD] = fault
    with pytest.raises(HubError, match=said) as caught:
        model_from_hub("hf:me/tiny", access(hub))
    assert SHARD in str(caught.value)


def test_a_length_that_is_too_large_is_harmless_where_the_range_says_better(hub: Hub) -> None:
    hub.faults[SHARD] = "length too large"
    assert model_from_hub("hf:me/tiny", access(hub)).params_total == SPEC.params_total
    hub.faults[""] = "length too large"
    spec = model_from_hub("hf:me/tiny", access(hub))
    assert any("1,000 of" in note and "bytes are missing" in note for note in spec.notes)


@pytest.mark.parametrize("fault", ["page", "other list", "length too small"])
def test_a_listing_that_is_none(hub: Hub, fault: str) -> None:
    hub.faults[""] = fault
    with pytest.raises(HubError, match="no list of its files"):
        model_from_hub("hf:me/tiny", access(hub))


@pytest.mark.parametrize("fault", ["truncated", "broken", "hangs up", "slow"])
def test_what_fails_in_passing_is_tried_again(hub: Hub, fault: str) -> None:
    hub.faults |= {SHARD: fault, "": fault, "config.json": fault}
    hub.first_only = {SHARD, "", "config.json"}
    assert model_from_hub("hf:me/tiny", access(hub, timeout_s=0.3)).params_total == SPEC.params_total


def test_ranges_that_are_ignored_give_the_same_and_fetch_no_weights(hub: Hub) -> None:
    hub.faults |= dict.fromkeys([*hub.files()], "range ignored")
    spec = model_from_hub("hf:me/tiny", access(hub))
    assert spec.params_total == SPEC.params_total
    assert spec.file_bytes == sum(path.stat().st_size for path in hub.folder.glob("*.safetensors"))
    piece = fetch(Asked(access(hub), "me/tiny"), f"{hub.address}/me/tiny/resolve/{COMMIT}/{SHARD}", most=10, first=100)
    whole = (hub.folder / SHARD).read_bytes()
    assert piece == (whole[100:110], len(whole))


def test_a_file_that_shrinks_to_a_page_is_no_safetensors_file(hub: Hub) -> None:
    hub.faults[SHARD] = "page"
    with pytest.raises(ModelFileError, match="states a header of"):
        model_from_hub("hf:me/tiny", access(hub))


def test_an_absent_repository(hub: Hub) -> None:
    with pytest.raises(UnknownNameError, match="repository 'me/none'") as caught:
        model_from_hub("hf:me/none", access(hub))
    assert "HF_TOKEN" in caught.value.hint
    with pytest.raises(ModelFileError, match="hf:me/tiny/none: not there") as missing:
        model_from_hub("hf:me/tiny/none", access(hub))
    assert "config.json" in missing.value.hint


def test_a_port_where_nothing_listens() -> None:
    lonely = Access(endpoint="http://127.0.0.1:9", timeout_s=1.0, pause_s=0.0)
    with pytest.raises(HubError, match="cannot be reached") as caught:
        model_from_hub("hf:me/tiny", lonely)
    assert "HF_ENDPOINT" in caught.value.hint
    with pytest.raises(HubError):
        model_from_hub("hf:me/tiny", Access(endpoint="nonsense", pause_s=0.0))


def test_a_gated_repository_with_a_token_that_has_no_access(hub: Hub) -> None:
    hub.token, hub.faults["config.json"] = "secret", "gated"
    with pytest.raises(HubError, match="this token has no access") as caught:
        model_from_hub("hf:me/tiny", access(hub, token="secret"))
    assert "secret" not in str(caught.value) + caught.value.hint + repr(access(hub, token="secret"))


def test_the_token_stays_with_the_endpoint(hub: Hub) -> None:
    """A redirect to another host carries the range and never the token; one to the same host carries both."""
    with serving(Hub(hub.folder)) as other:
        hub.elsewhere = other.address
        hub.faults |= {SHARD: "redirect", "config.json": "redirect here"}
        spec = model_from_hub("hf:me/tiny", access(hub, token="secret"))
    assert spec.params_total == SPEC.params_total
    assert {held for _, _, held in hub.asked} == {"Bearer secret"}
    assert other.asked
    assert all(held == "" and asked.startswith("bytes=") for _, asked, held in other.asked)


def test_names_that_lead_out_of_a_folder_are_left_out(hub: Hub) -> None:
    hub.listed = [*hub.files(), "../evil.json", "/etc/config.json", "a/../../b.json", "a\\b.json", ".git/config.json",
                  "x/./y.json", "", "nul\0.json"]  # fmt: skip
    assert model_from_hub("hf:me/tiny", access(hub)).params_total == SPEC.params_total
    assert hub_files.safe_names([*hub.listed, 7, None]) == tuple(hub.files()[: SHARDS + 2])


def test_a_config_that_is_too_large_is_not_fetched(hub: Hub) -> None:
    with (hub.folder / "config.json").open("r+b") as file:
        file.truncate(2**25)
    with pytest.raises(HubError, match="33,554,432 bytes"):
        model_from_hub("hf:me/tiny", access(hub))
    assert hub.sent_bytes < 2**20


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:org/name", HubName("org/name")),
        ("hf:gpt2", HubName("gpt2")),
        ("hf:org/name@v1.0", HubName("org/name", "v1.0")),
        ("hf:org/name@refs/pr/3/a.gguf", HubName("org/name", "refs/pr/3", "a.gguf")),
        ("hf:org/na.me/in/file.gguf", HubName("org/na.me", path="in/file.gguf")),
        ("hf:org/name@main:Q4_K_M", HubName("org/name", tag="Q4_K_M")),
    ],
)
def test_names(text: str, name: HubName) -> None:
    assert hub_name(text) == name


@pytest.mark.parametrize(
    "text", ["hf:", "hf:/", "hf:a/../b", "hf:../x/y", "hf:a//b", "hf:a b/c", "hf:a/b@", "hf:" + "a" * 600]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        hub_name(text)
    assert "hf:org/name" in caught.value.hint


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_an_error_and_never_leads_out(text: str) -> None:
    try:
        name = hub_name(f"hf:{text}")
    except RequestError:
        return
    assert name.repo.count("/") <= 1
    parts = [*name.repo.split("/"), *name.path.split("/"), name.revision, name.tag]
    assert not any(part in (".", "..") or "\\" in part or "\0" in part for part in parts)


def test_repositories_by_their_form() -> None:
    assert is_repository("org/name")
    assert is_repository("org/name@v1")
    for text in ("name", "org/name/file", "./org/name", "org/name:tag", "org /name"):
        assert not is_repository(text)


def test_types_in_file_names() -> None:
    files = ["a-Q4_K_M.gguf", "a-Q4_K_S.gguf", "x/a-Q8_0-00002-of-00002.gguf", "x/a-Q8_0-00001-of-00002.gguf",
             "mmproj-F16.gguf", "b/a.Q5_K_M.gguf"]  # fmt: skip
    assert file_of_tag(HubName("o/n", tag="q4_k_m"), files) == "a-Q4_K_M.gguf"
    assert file_of_tag(HubName("o/n", tag="Q8_0"), files) == "x/a-Q8_0-00001-of-00002.gguf"
    assert file_of_tag(HubName("o/n", tag="Q5_K_M"), files) == "b/a.Q5_K_M.gguf"
    for tag in ("K_M", "F16", "Q4"):
        with pytest.raises(UnknownNameError):
            file_of_tag(HubName("o/n", tag=tag), files)
    with pytest.raises(ModelFileError, match="several files"):
        file_of_tag(HubName("o/n", tag="Q4_K_M"), ["a-7B-Q4_K_M.gguf", "a-13B-Q4_K_M.gguf"])


# --- the command line and huggingface_hub -----------------------------------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, endpoint: str, **given: Any) -> None:
    """huggingface_hub as far as fitcalc uses it."""
    package, constants = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.constants")
    settings = {"ENDPOINT": endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DOWNLOAD_TIMEOUT": 5} | given
    for name, value in settings.items():
        setattr(constants, name, value)
    package.__dict__.update(constants=constants, get_token=lambda: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)


def test_the_command_line_asks_the_hub_only_when_told_to(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, hub.address)
    assert run(["me/tiny", "--gpu", "rtx-3060"]) == 2
    assert "hf:me/tiny asks the Hugging Face Hub" in capsys.readouterr().err
    assert hub.asked == []
    for arguments in (["hf:me/tiny"], ["me/tiny", "--online"]):
        assert run([*arguments, "--gpu", "rtx-3060", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["model"]["params_total"] == SPEC.params_total
        assert report["model"]["source"] == f"hf:me/tiny@{COMMIT}"
    hub.asked.clear()
    assert run(["meta-llama/Meta-Llama-3.1-8B", "--online", "--gpu", "rtx-3060", "--json"]) == 0
    assert hub.asked == []
    assert fitcalc.fit("me/tiny", gpu="rtx-3060", online=True).model["params_total"] == SPEC.params_total
    assert load_model("hf:me/tiny").params_total == SPEC.params_total


def test_offline_by_the_environment(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, hub.address, HF_HUB_OFFLINE=True)
    assert run(["hf:me/tiny", "--gpu", "rtx-3060"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    assert run(["hf:me/tiny", "--gpu", "rtx-3060"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "fitcalc[hub]" in lines[1]


@pytest.mark.oracle
def test_huggingface_hub_gives_endpoint_token_and_switches(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """The real package, started anew under an environment that points here."""
    import subprocess

    pytest.importorskip("huggingface_hub")
    code = "from fitcalc.readers.hub_access import hub_access as a; x = a(); print(x.endpoint, x.token, x.offline)"
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == [hub.address, "secret", "True"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    command = [sys.executable, "-m", "fitcalc", "hf:me/tiny", "--gpu", "rtx-3060", "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert report["model"]["params_total"] == SPEC.params_total
    assert {held for _, _, held in hub.asked} == {"Bearer secret"}
