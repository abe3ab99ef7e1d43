"""config.json from disk: the catalogue's answer for the catalogue's config, one line for every broken file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import fitcalc
from fitcalc.errors import ModelFileError, UnsupportedModelError

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def _written(folder: Path, content: str | bytes) -> str:
    path = folder / "config.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_a_config_counts_like_the_published_model(tmp_path: Path) -> None:
    spec = fitcalc.load_model(_written(tmp_path, json.dumps(LLAMA)))
    assert spec.params_total == 8_030_261_248
    assert spec.id == tmp_path.name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"[1, 2]", "object"),
        (b"\xff\xfe{}", "UTF-8"),
        (b'{"model_type": "llama", "model_type": "gpt2"}', "twice"),
        (b'{"hidden_size": NaN}', "NaN"),
        (b"[" * 200_000, "deep"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "JSON"),
        (b'{"a": 1', "JSON"),
    ],
)
def test_a_broken_file_gets_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        fitcalc.load_model(_written(tmp_path, content))
    assert "config.json" in str(caught.value)
    assert words in f"{caught.value} {caught.value.hint}"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", None), ("hidden_size", "4096"), ("num_hidden_layers", -1), ("vocab_size", 2**40),
     ("num_attention_heads", 0), ("tie_word_embeddings", "no"), ("num_hidden_layers", True)],
)  # fmt: skip
def test_a_wrong_key_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ModelFileError) as caught:
        fitcalc.load_model(_written(tmp_path, json.dumps({**LLAMA, key: value})))
    assert key in str(caught.value) or key == "num_attention_heads"


def test_a_missing_file_a_folder_and_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path / "none.json", pipe, tmp_path / "folder.json"):
        with pytest.raises(ModelFileError):
            fitcalc.load_model(str(path))


def test_an_unknown_model_type_is_undecided_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        fitcalc.load_model(_written(tmp_path, json.dumps({**LLAMA, "model_type": "llamma"})))
    assert caught.value.hint == "did you mean llama?"
    report = fitcalc.fit(_written(tmp_path, json.dumps({**LLAMA, "model_type": "novel"})), gpu="h200", quant="bf16")
    assert report.verdict == "unknown"


def test_a_misspelled_size_is_an_error_and_not_the_class_default(tmp_path: Path) -> None:
    config = {"hidden_sise" if key == "hidden_size" else key: value for key, value in LLAMA.items()}
    with pytest.raises(ModelFileError, match="hidden_size is missing") as caught:
        fitcalc.load_model(_written(tmp_path, json.dumps(config)))
    assert "hidden_sise looks like hidden_size" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "scheme"),
    [
        ("hf_quant_config.json", {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "nvfp4"),
        ("quantize_config.json", {"bits": 8, "group_size": 32, "desc_act": False}, "gptq-8bit-g32"),
        ("quant_config.json", {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}, "awq-g64"),
    ],
)
def test_quantization_in_a_file_beside_the_config(
    tmp_path: Path, name: str, content: dict[str, Any], scheme: str
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    spec = fitcalc.load_model(_written(tmp_path, json.dumps(LLAMA)))
    assert spec.quant is not None
    assert spec.quant.scheme == scheme
