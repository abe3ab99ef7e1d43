"""The Python API refuses arguments of the wrong type in one line, and takes paths as paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fitcalc
from fitcalc.errors import FitcalcError, ModelFileError, RequestError

PLAN: dict[str, Any] = {"gpu": "rtx-3060", "quant": "q4_k_m"}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "max_position_embeddings": 512, "torch_dtype": "float16", "tie_word_embeddings": False,
}  # fmt: skip


def _one_line(error: FitcalcError) -> None:
    assert str(error)
    assert "\n" not in f"{error}{error.hint}"
    assert error.hint


@pytest.mark.parametrize(
    "changed",
    [
        {"gpu": 5}, {"gpu": [None]}, {"gpu": {"a100-80"}}, {"gpu": {"a100-80": 2}}, {"gpu": b"a100-80"},
        {"gpu": ""}, {"gpu": []}, {"gpu": " "}, {"gpu": None, "cpu": ""}, {"cpu": 5}, {"cpu": ["epyc-9654"]},
        {"quant": 5}, {"quant": ["awq"]}, {"engine": 5}, {"kv_dtype": 5},
        {"concurrency": None}, {"concurrency": 1.5}, {"concurrency": True}, {"context": "8k"}, {"context": 0},
        {"tensor_parallel": "2"}, {"pipeline_parallel": 0},
        {"engine_options": ["max_num_seqs=4"]}, {"engine_options": 5}, {"engine_options": {5: 1}},
        {"ram": 1.5}, {"ram": True}, {"ram": -1}, {"ram": 0}, {"gpu_used": -1}, {"gpu_used": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_an_argument_of_the_wrong_type_is_a_request_error(changed: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        fitcalc.fit("llama-3.1-8b", **{**PLAN, **changed})
    _one_line(caught.value)


@pytest.mark.parametrize("model", [None, {}, 5, b"llama-3.1-8b", ["llama-3.1-8b"]], ids=str)
def test_what_is_no_model_is_a_request_error(model: Any) -> None:
    with pytest.raises(RequestError) as caught:
        fitcalc.fit(model, **PLAN)
    _one_line(caught.value)
    with pytest.raises(RequestError):
        fitcalc.load_model(model)


@pytest.mark.parametrize("device", [None, {}, 5])
def test_what_is_no_device_is_a_request_error(device: Any) -> None:
    with pytest.raises(RequestError) as caught:
        fitcalc.load_device(device)
    _one_line(caught.value)


def test_a_device_object_is_answered_with_its_id() -> None:
    device: Any = fitcalc.load_device("rtx-3060")
    for gpu in (device, [device]):
        with pytest.raises(RequestError) as caught:
            fitcalc.fit("llama-3.1-8b", gpu=gpu)
        assert device.id in caught.value.hint


def test_a_path_object_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    given: Any = [path, str(path)]
    first, second = (fitcalc.fit(model, gpu="rtx-3060", quant="fp16") for model in given)
    assert first.to_dict() == second.to_dict()
    assert first.model["architecture"] == "llama"


def test_a_file_that_is_missing_is_told_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("model.gguf", "model.safetensors"):
        with pytest.raises(ModelFileError, match="No such file"):
            fitcalc.load_model(str(tmp_path / name))
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(ModelFileError, match="zip archive"):
            fitcalc.load_model(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"config\.json"):
        fitcalc.load_model(tmp_path / "empty")


def test_no_named_card_with_a_cpu_is_the_cpu() -> None:
    report = fitcalc.fit("llama-3.1-8b", gpu=[], cpu="raspberry-pi-5-8gb")
    assert report.inputs["devices"][0]["id"] == "raspberry-pi-5-8gb"


@pytest.mark.parametrize("gpu", ["24", "24:2", " 24 "])
def test_a_size_without_a_unit_is_told_so(gpu: str) -> None:
    with pytest.raises(RequestError, match="without a unit") as caught:
        fitcalc.fit("llama-3.1-8b", gpu=gpu)
    assert "24GB" in caught.value.hint


def test_a_number_that_names_a_card_is_that_card() -> None:
    assert fitcalc.fit("llama-3.1-8b", gpu="4090", quant="q4_k_m").devices[0].id == fitcalc.load_device("4090").id


def test_a_report_prints_as_one_line_that_names_the_plan_and_the_verdict() -> None:
    report = fitcalc.fit("llama-3.1-8b", **PLAN)
    line = repr(report)
    assert "\n" not in line
    assert len(line) < 160
    for word in ("llama-3.1-8b", "q4_k_m", report.inputs["engine"], report.inputs["devices_name"], report.verdict):
        assert word in line
