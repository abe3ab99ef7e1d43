"""GGUF files read: headers, parts, tensors and caches, and that a file's ledger is that of the model it was made of."""

from __future__ import annotations

import csv
import os
import struct
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf_files as files
import pytest
from gguf_files import ARRAY, BOOL, STRING, U32, FileTensor, Gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.errors import FitcalcError
from fitcalc.machine import machine_of
from fitcalc.plan import Request, named_scheme, required_case
from fitcalc.quantization import assign, checkpoint_bytes, file_scheme, stored_bytes, weights_bytes
from fitcalc.readers import gguf_header
from fitcalc.readers.gguf import model_from_gguf
from fitcalc.readers.gguf_header import read_header
from fitcalc.spec.model import CacheLayer, ModelSpec

GOLDEN = Path(__file__).parent / "golden" / "gguf_sizes.csv"

SAME: dict[str, str] = {
    "llama-3.1-8b": "q4_k_m", "mistral-7b": "q5_k_s", "mixtral-8x7b": "q3_k_m", "qwen2.5-7b": "q6_k",
    "qwen3-0.6b": "q8_0", "qwen3-30b-a3b": "q4_k_m", "qwen1.5-moe-a2.7b": "q4_0", "gemma-2b": "q4_k_s",
    "gemma-2-9b": "q2_k", "gemma-3-12b": "q4_k_m", "gemma-3n-e4b": "q4_k_m", "phi-2": "q5_k_m",
    "phi-3-medium-4k": "q4_k_m", "phi-3.5-moe": "q4_k_m", "falcon-7b": "q4_k_m", "bloom-1b1": "q8_0",
    "santacoder-1.1b": "q5_1", "mpt-7b": "q4_1", "gpt2": "fp16", "deepseek-v2-lite": "q4_k_m",
    "deepseek-v3": "q3_k_l", "glm-4.5": "q4_k_m", "deepseek-v3.2": "q4_k_m", "glm-4.5-air": "iq4_xs",
    "glm-4-9b": "q4_k_m",
    "gpt-oss-20b": "mxfp4_moe", "llama-4-scout": "q4_k_m", "olmo-3.1-32b": "q4_k_m", "step-3.7-flash": "iq4_nl",
    "command-r-35b": "q5_0", "internlm2-7b": "q4_k_m", "starcoder2-15b": "q4_k_m", "nemotron-super-49b": "q3_k_s",
    "jamba-v0.1": "q4_k_m", "granite-4.0-h-tiny": "q4_k_m", "nemotron-3-nano-30b-a3b": "q4_k_m",
    "lfm2-1.2b": "q4_k_m", "mamba-2.8b": "q8_0", "codestral-mamba-7b": "q4_k_m", "qwen3-next-80b-a3b": "q4_k_m",
    "qwen3.5-27b": "q5_k_m", "kimi-linear-48b-a3b": "q4_k_m", "minimax-m1-80k": "q4_k_m", "grok-1": "q4_k_m",
    "bert-base": "q8_0",
}  # fmt: skip
"""Model -> quantization of a file made as llama.cpp would make it."""


def made(model_id: str, quant: str) -> tuple[ModelSpec, ModelSpec]:
    """(the model as its file shows it, the catalogue's)."""
    with TemporaryDirectory() as folder:
        path = files.gguf_like(model_id, quant).write(Path(folder) / f"{model_id}.gguf")
        return model_from_gguf(path), catalog.load_model(model_id)


def ledgers(model: ModelSpec, quant: str, *, engine: str = "llama.cpp", gpus: tuple[str, ...] = ("h100-80:8",)) -> Any:
    """(device, term, bytes, low, high) of every term at 8,192 tokens for two requests."""
    machine = machine_of(list(gpus), None, None, None)
    request = Request(model, machine, 8192, 2, engine=catalog.load_engine(engine))
    case = required_case(request, named_scheme(model, quant))
    return [
        (entry.id, term.name, term.bytes, term.low_bytes, term.high_bytes)
        for entry in case.ledgers(8192, 2)
        for term in entry.terms
    ]


@pytest.mark.parametrize("model_id", SAME)
def test_ledger_of_a_file_is_that_of_its_model(model_id: str) -> None:
    quant = SAME[model_id]
    file, model = made(model_id, quant)
    assert ledgers(file, quant) == ledgers(model, quant)
    assert (file.layers, file.hidden, file.heads, file.vocab) == (model.layers, model.hidden, model.heads, model.vocab)
    assert (file.experts, file.experts_per_token) == (model.experts, model.experts_per_token)
    assert file.tied_embeddings == model.tied_embeddings
    if model.heads:
        assert (file.head_dim, file.gated_mlp) == (model.head_dim, model.gated_mlp)
    assert not file.unknowns
    text = sum(t.elems for t in model.tensors if t.part in ("text", "encoder", "other") and not t.is_buffer)
    assert file.params_total == text


@pytest.mark.parametrize("engine", ["llama.cpp", "llama.cpp-2024", "ollama"])
def test_ledger_is_the_same_under_every_engine_that_reads_the_file(engine: str) -> None:
    for model_id in ("llama-3.1-8b", "gemma-2-9b", "deepseek-v2-lite"):
        file, model = made(model_id, "q4_k_m")
        card = ("rtx-4090", "rtx-3090")
        assert ledgers(file, "q4_k_m", engine=engine, gpus=card) == ledgers(model, "q4_k_m", engine=engine, gpus=card)


def test_another_type_is_computed_as_for_the_model_itself() -> None:
    for model_id in ("llama-3.1-8b", "mixtral-8x7b", "gemma-3n-e4b", "phi-3-mini-128k", "glm-4.5-air"):
        file, model = made(model_id, "q4_k_m")
        for other in ("q6_k", "iq4_xs", "bf16"):
            assert ledgers(file, other) == ledgers(model, other)


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q3_K_L", "Q6_K", "IQ4_XS"])
def test_a_file_holds_what_the_quantizer_says(tmp_path: Path, quant: str) -> None:
    """Bytes in every type that llama-quantize reports, against what is read from a file of the same layout."""
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [
        row for row in csv.DictReader(lines) if row["quant"] == quant and row["imatrix"] == "no" and not row["vocab"]
    ]
    rows = [row for row in rows if row["rules"] == "2026" and row["model"] == row["profile"]]
    assert len(rows) > 10
    for row in rows[:16]:
        path = files.gguf_like(row["profile"], quant.lower()).write(tmp_path / "m.gguf")
        spec = model_from_gguf(path)
        scheme = file_scheme(spec)
        assert scheme is not None
        assert weights_bytes(spec, scheme, gguf=True) == int(row["tensor_bytes"]), row["model"]
        assert checkpoint_bytes(spec, scheme, gguf=True) == os.path.getsize(path) == spec.file_bytes
        found: dict[str, int] = {}
        for entry in assign(spec, scheme):
            found[entry.format.id] = found.get(entry.format.id, 0) + stored_bytes(entry)
        stated = (part.split(":") for part in row["types"].split())
        assert found == {kind: int(size) for kind, _, size in stated}, row["model"]


# Headers


def test_versions_2_and_3_read_alike(tmp_path: Path) -> None:
    one, other = (replace(files.small(), version=number).write(tmp_path / f"{number}.gguf") for number in (2, 3))
    assert read_header(one)._replace(path="", version=0) == read_header(other)._replace(path="", version=0)


def test_keys_are_exact(tmp_path: Path) -> None:
    """Neither another architecture's keys nor longer ones that end alike are taken."""
    decoys = {
        "clip__block_count": (U32, 99), "llama__rope__scaling__original_context_length": (U32, 512),
        "qwen2__context_length": (U32, 7), "llama__vision__embedding_length": (U32, 8),
    }  # fmt: skip
    spec = model_from_gguf(files.small(**decoys).write(tmp_path / "m.gguf"))
    assert (spec.layers, spec.max_context_tokens, spec.hidden) == (2, 4096, 512)
    assert spec.rope is not None
    assert spec.rope.original_positions == 512


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_alignment_is_obeyed(tmp_path: Path, alignment: int) -> None:
    whole = replace(files.small(general__alignment=(U32, alignment)), alignment=alignment)
    header = read_header(whole.write(tmp_path / "m.gguf"))
    assert header.data_start % alignment == 0
    assert header.file_bytes == header.data_start + whole.data_bytes()
    assert model_from_gguf(header.path).file_bytes == header.file_bytes


def test_a_vocabulary_is_stepped_over(tmp_path: Path) -> None:
    plain = files.small()
    worded = replace(plain, metadata={**plain.metadata, **files.vocabulary(20_000)})
    header = read_header(worded.write(tmp_path / "m.gguf"))
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, gguf_header.Array)
    assert (tokens.length, tokens.values) == (20_000, None)
    assert header.tensors == read_header(plain.write(tmp_path / "n.gguf")).tensors


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.binary(max_size=90), max_size=60), window=st.integers(16, 300))
def test_strings_end_where_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[bytes], window: int
) -> None:
    """Whatever the lengths and wherever the window that is held in memory ends."""
    pair = (ARRAY, (STRING, words))
    whole = files.small(tokenizer__ggml__tokens=pair, behind=(U32, 77))
    path = whole.write(tmp_path / "m.gguf")
    with monkeypatch.context() as patched:
        patched.setattr(gguf_header, "_WINDOW_BYTES", window)
        header = read_header(path)
    assert header.metadata["behind"] == 77
    assert len(header.tensors) == len(whole.tensors)


def test_long_texts_are_not_kept(tmp_path: Path) -> None:
    header = read_header(
        files.small(chat=(STRING, "x" * 50_000), name=(STRING, b"\xff\xfe")).write(tmp_path / "m.gguf")
    )
    assert header.metadata["chat"] is None
    assert header.metadata["name"] == "\ufffd\ufffd"


# Split files


@pytest.mark.parametrize("given_part", [0, 1, 2])
def test_a_split_file_is_its_whole(tmp_path: Path, given_part: int) -> None:
    whole = files.gguf_like("qwen3-0.6b")
    total = len(whole.tensors)
    paths = files.split(whole, (0, 100, total - 100), tmp_path)
    spec = model_from_gguf(paths[given_part])
    single = model_from_gguf(whole.write(tmp_path / "model.gguf"))
    assert spec.file_bytes == sum(map(os.path.getsize, paths))
    assert (spec.id, spec.source) == ("model", paths[0])
    assert replace(spec, file_bytes=0, source="") == replace(single, file_bytes=0, source="")


# What the metadata says


def kv_of(spec: ModelSpec) -> list[CacheLayer]:
    return list(spec.cache_layers)


def test_heads_per_layer(tmp_path: Path) -> None:
    spec = model_from_gguf(
        files.small(llama__attention__head_count_kv=(ARRAY, (U32, [2, 0]))).write(tmp_path / "m.gguf")
    )
    assert kv_of(spec) == [CacheLayer("full", (0,), 2, 64, 64)]


@pytest.mark.parametrize(
    ("more", "windowed"),
    [
        ({}, {0, 2, 4}),
        ({"gemma2__attention__sliding_window_pattern": (U32, 3)}, {0, 1, 3, 4}),
        ({"gemma2__attention__sliding_window_pattern": (ARRAY, (BOOL, [0, 0, 1, 1, 0, 1]))}, {2, 3, 5}),
        ({"gemma2__attention__sliding_window": (U32, 0)}, set()),
    ],
)
def test_windows(tmp_path: Path, more: dict[str, files.Pair], windowed: set[int]) -> None:
    spec = model_from_gguf(_of("gemma2", 6, {"attention.sliding_window": (U32, 1024)}, more).write(tmp_path / "m.gguf"))
    held = {layer for cache in kv_of(spec) if cache.kind == "sliding" for layer in cache.layers}
    assert held == windowed
    assert {layer for cache in kv_of(spec) for layer in cache.layers} == set(range(6))


def _of(architecture: str, layers: int, own: dict[str, files.Pair], more: dict[str, files.Pair]) -> Gguf:
    """The small model as another architecture, with `layers` of them."""
    plain = files.small().metadata
    pairs = {key.replace("llama.", f"{architecture}."): pair for key, pair in plain.items()}
    pairs |= {"general.architecture": (STRING, architecture), f"{architecture}.block_count": (U32, layers)}
    pairs |= {f"{architecture}.{key}": pair for key, pair in own.items()}
    pairs |= {key.replace("__", "."): pair for key, pair in more.items()}
    return Gguf(pairs, files.small_tensors(range(layers)))


def test_a_window_that_llama_cpp_does_not_use(tmp_path: Path) -> None:
    """Configs of Phi-3 and Mistral name one; llama.cpp keeps every token."""
    for architecture in ("phi3", "llama", "qwen2"):
        whole = _of(architecture, 2, {"attention.sliding_window": (U32, 1024)}, {})
        assert {cache.kind for cache in kv_of(model_from_gguf(whole.write(tmp_path / "m.gguf")))} == {"full"}


def test_an_unknown_architecture_is_bounded_and_said(tmp_path: Path) -> None:
    spec = model_from_gguf(_of("tomorrow", 2, {}, {}).write(tmp_path / "m.gguf"))
    assert "tomorrow" in spec.unknowns[0]
    assert spec.at_least is not None
    assert not spec.at_least.cache_layers
    assert kv_of(spec)[0].elems_per_token == 2 * 8 * 64
    assert spec.params_total == model_from_gguf(files.small().write(tmp_path / "n.gguf")).params_total


def test_latent_attention_of_old_files_keeps_every_head(tmp_path: Path) -> None:
    """Files from before the split of kv_b: K and V of all heads, no latent."""
    model = catalog.load_model("deepseek-v2-lite")
    whole = files.gguf_like("deepseek-v2-lite")
    kept = [tensor for tensor in whole.tensors if ".attn_v_b." not in tensor.name]
    older = [
        replace(t, name=t.name.replace("attn_k_b", "attn_kv_b"), dimensions=(512, 16 * 256))
        if ".attn_k_b." in t.name
        else t
        for t in kept
    ]
    pairs = {
        **whole.metadata,
        "deepseek2.attention.head_count_kv": (U32, 16),
        "deepseek2.attention.key_length": (U32, 192),
        "deepseek2.attention.value_length": (U32, 128),
    }
    spec = model_from_gguf(Gguf(pairs, tuple(older)).write(tmp_path / "m.gguf"))
    assert kv_of(spec) == [CacheLayer("full", tuple(range(model.layers)), 16, 192, 128)]


def test_experts_as_tensors_of_their_own(tmp_path: Path) -> None:
    """Mixtral files of December 2023: eight matrices where one is today."""
    whole = files.gguf_like("mixtral-8x7b", "q8_0")
    single: list[FileTensor] = []
    for tensor in whole.tensors:
        if "_exps" not in tensor.name:
            single.append(tensor)
            continue
        begin, _, leaf = tensor.name.removesuffix("_exps.weight").rpartition(".")
        single += [FileTensor(f"{begin}.{leaf}.{n}.weight", tensor.dimensions[:2], tensor.type) for n in range(8)]
    old = model_from_gguf(Gguf(whole.metadata, tuple(single)).write(tmp_path / "m.gguf"))
    new = model_from_gguf(whole.write(tmp_path / "n.gguf"))
    assert (old.params_total, old.params_active) == (new.params_total, new.params_active)
    assert ledgers(old, "q8_0") == ledgers(new, "q8_0")


def test_rwkv_keeps_a_state_alone(tmp_path: Path) -> None:
    """Two shifted hidden states and a matrix per head: n_embd × (2 + head size) in 32 bit."""
    tensors = [
        FileTensor("token_embd.weight", (2048, 65536), "q4_K"),
        FileTensor("output.weight", (2048, 65536), "q6_K"),
    ]
    tensors += [FileTensor(f"blk.{n}.time_mix_key.weight", (2048, 2048), "q4_K") for n in range(24)]
    pairs = {
        "general.architecture": (STRING, "rwkv6"), "rwkv6.block_count": (U32, 24),
        "rwkv6.embedding_length": (U32, 2048),
        "rwkv6.context_length": (U32, 2**20), "rwkv6.wkv.head_size": (U32, 64), "rwkv6.attention.head_count": (U32, 0),
    }  # fmt: skip
    spec = model_from_gguf(Gguf(pairs, tuple(tensors)).write(tmp_path / "m.gguf"))
    (only,) = kv_of(spec)
    assert only.conv_channels * (only.conv_kernel - 1) + only.state_elems == 2048 * (2 + 64)
    assert len(only.layers) == 24


def test_prediction_layers_stay_on_disk() -> None:
    file, model = made("glm-4.5-air", "q4_k_m")
    assert file.layers == model.layers
    stored = sum(t.elems for t in file.tensors)
    assert stored - file.params_total > sum(t.elems for t in file.tensors if t.part == "mtp") > 0
    scheme = file_scheme(file)
    assert scheme is not None
    assert file.file_bytes is not None
    assert weights_bytes(file, scheme, gguf=True) < 0.99 * file.file_bytes


# Quantization


@pytest.mark.parametrize(
    ("number", "scheme_id", "name"),
    [(15, "q4_k_m", "Q4_K_M (GGUF file)"), (1, "fp16", "F16 (GGUF file)"), (38, "mxfp4_moe", "MXFP4_MOE (GGUF file)"),
     (1024 + 15, "q4_k-mix", "mostly Q4_K (GGUF file)"), (900, "q4_k-mix", "mostly Q4_K (GGUF file)")],
)  # fmt: skip
def test_a_file_names_its_type(tmp_path: Path, number: int, scheme_id: str, name: str) -> None:
    spec = model_from_gguf(files.small(general__file_type=(U32, number)).write(tmp_path / "m.gguf"))
    scheme = file_scheme(spec)
    assert scheme is not None
    assert (scheme.id, scheme.name, scheme.kind) == (scheme_id, name, "file")
    assert named_scheme(spec, scheme_id.upper()) == scheme


def test_types_of_the_file_win_over_its_name(tmp_path: Path) -> None:
    """A file that calls itself Q4_K_M and holds one layer in Q8_0 is as large as it is."""
    whole = files.small()
    heavier = tuple(
        replace(t, type="q8_0") if t.name.startswith("blk.1.") and len(t.dimensions) > 1 else t for t in whole.tensors
    )
    spec = model_from_gguf(replace(whole, tensors=heavier).write(tmp_path / "m.gguf"))
    scheme = file_scheme(spec)
    assert scheme is not None
    assert weights_bytes(spec, scheme, gguf=True) == sum(tensor.bytes for tensor in heavier)
    downs = {t.stored.id: t.layers for t in spec.tensors if t.role == "mlp_down" and t.stored}
    assert downs == {"q6_K": (0,), "q8_0": (1,)}


# As a user would


def test_fit_of_a_file(tmp_path: Path) -> None:
    path = files.gguf_like("llama-3.1-8b").write(tmp_path / "Some Llama.gguf")
    report = fitcalc.fit(path, gpu="rtx-3060", context=8192)
    assert report.verdict == "fits"
    assert report.checkpoint_bytes == os.path.getsize(path)
    assert report.inputs["quant"] == "q4_k_m"
    assert report.inputs["engine"] == "llama.cpp"
    assert report.recommendation is not None
    assert f"-m '{path}'" in report.recommendation.command
    assert report.model["id"] == "Some Llama"
    assert not any("published" in note for note in report.notes)
    named = fitcalc.fit(path, gpu="rtx-3060", context=8192, quant="Q4_K_M")
    assert (
        named.weights_bytes
        == report.weights_bytes
        == fitcalc.fit("llama-3.1-8b", gpu="rtx-3060", quant="q4_k_m", context=8192).weights_bytes
    )


def test_another_quantization_is_noted(tmp_path: Path) -> None:
    path = files.gguf_like("llama-3.1-8b").write(tmp_path / "m.gguf")
    report = fitcalc.fit(path, gpu="rtx-3060", context=8192, quant="q5_k_m")
    assert any("q4_k_m" in note and "Q5_K_M" in note for note in report.notes)
    assert report.recommendation is not None
    assert path not in report.recommendation.command


def test_ollama_runs_the_file(tmp_path: Path) -> None:
    path = files.gguf_like("llama-3.1-8b").write(tmp_path / "m.gguf")
    report = fitcalc.fit(path, gpu="rtx-3060", context=8192, engine="ollama")
    assert report.recommendation is not None
    assert f"FROM {path}" in report.recommendation.command


@pytest.mark.parametrize("more", [{"engine": "vllm"}, {"quant": "awq"}, {"engine": "transformers"}])
def test_other_engines_do_not_read_it(tmp_path: Path, more: dict[str, str]) -> None:
    path = files.gguf_like("llama-3.1-8b").write(tmp_path / "m.gguf")
    with pytest.raises(FitcalcError, match="does not read GGUF files"):
        fitcalc.fit(path, gpu="a100-80", context=8192, **more)


def test_what_does_not_fit_names_smaller_files(tmp_path: Path) -> None:
    path = files.gguf_like("mixtral-8x7b").write(tmp_path / "m.gguf")
    report = fitcalc.fit(path, gpu="rtx-4090", context=4096)
    assert report.verdict == "does_not_fit"
    assert report.recommendation is not None
    quants = {other.quant for other in report.recommendation.alternatives}
    assert quants - {"q4_k_m"}


# Against the gguf package


@pytest.mark.oracle
@pytest.mark.parametrize(
    "model_id", ["llama-3.1-8b", "deepseek-v2-lite", "gemma-3-12b", "qwen3-next-80b-a3b", "gpt-oss-20b"]
)
def test_headers_are_what_the_gguf_package_reads(tmp_path: Path, model_id: str) -> None:
    gguf: Any = pytest.importorskip("gguf")
    whole = files.gguf_like(model_id, SAME.get(model_id, "q4_k_m"))
    path = replace(whole, metadata={**whole.metadata, **files.vocabulary(500)}).write(tmp_path / "m.gguf")
    mine, theirs = read_header(path), gguf.GGUFReader(path)
    assert mine.data_start == theirs.data_offset
    assert mine.alignment == theirs.alignment
    assert [(t.name, t.dimensions, t.type_id, mine.data_start + t.offset) for t in mine.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), int(t.tensor_type), int(t.data_offset)) for t in theirs.tensors
    ]
    for key, value in mine.metadata.items():
        if isinstance(value, gguf_header.Array):
            assert len(theirs.fields[key].data) == value.length
            assert value.values is None or list(value.values) == theirs.fields[key].contents()
        else:
            assert theirs.fields[key].contents() == value
    spec = model_from_gguf(path)
    scheme = file_scheme(spec)
    assert scheme is not None
    assert weights_bytes(spec, scheme, gguf=True) == sum(int(t.n_bytes) for t in theirs.tensors)


@pytest.mark.oracle
@pytest.mark.parametrize("parts", [1, 3])
def test_files_of_the_gguf_package_are_read(tmp_path: Path, parts: int) -> None:
    gguf: Any = pytest.importorskip("gguf")
    numpy: Any = pytest.importorskip("numpy")
    path = tmp_path / "written.gguf"
    split = {"split_max_tensors": 4} if parts > 1 else {}
    writer = gguf.GGUFWriter(path, "llama", **split)
    for add, value in (("block_count", 2), ("context_length", 4096), ("embedding_length", 512), ("head_count", 8),
                       ("head_count_kv", [2, 2]), ("feed_forward_length", 1024), ("file_type", 15)):  # fmt: skip
        getattr(writer, f"add_{add}")(value)
    writer.add_token_list(["a", "bc", "ä"])
    kept = (*files.small_tensors((0,)),) if parts > 1 else files.small_tensors()
    for tensor in kept:
        kind = gguf.GGMLQuantizationType(tensor.number)
        shape = tuple(reversed(tensor.dimensions))
        if tensor.type == "f32":
            writer.add_tensor(tensor.name, numpy.zeros(shape, numpy.float32))
        else:
            data = numpy.zeros(gguf.quant_shape_to_byte_shape(shape, kind), numpy.uint8)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(tmp_path.glob("written*.gguf"))
    assert len(found) == parts
    spec = model_from_gguf(str(found[-1]))
    scheme = file_scheme(spec)
    assert scheme is not None
    assert weights_bytes(spec, scheme, gguf=True) == sum(tensor.bytes for tensor in kept)
    assert spec.kv_heads == 2


def test_struct_of_a_version_3_header() -> None:
    """The first bytes by hand, so that writer and reader cannot be wrong together."""
    raw = Gguf({"a.b": (U32, 7)}, (FileTensor("t", (256, 2), "q4_K"),)).header()
    pair = struct.pack("<Q3sII", 3, b"a.b", 4, 7)
    tensor = struct.pack("<Q1sIQQIQ", 1, b"t", 2, 256, 2, 12, 0)
    assert raw == b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + pair + tensor
