"""Inputs that a fuzzer found to break a reader (benchmarks/fuzz): each gives a model or one line now."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors_files import BITS, write_raw

import fitcalc
from fitcalc.architectures import from_config
from fitcalc.errors import FitcalcError

BERT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 9}


def test_a_model_type_that_is_no_text() -> None:
    spec = from_config({**BERT, "model_type": {}, "_class_name": "bert"})
    assert spec.model_type == "bert"
    try:
        told = from_config({**BERT, "model_type": {"a" * 5000: 1}}).unknowns
    except FitcalcError as error:
        told = (str(error),)
    assert told
    assert max(len(line) for line in told) < 300


def test_an_image_class_under_model_type() -> None:
    assert from_config({"model_type": "FluxTransformer2DModel"}).unknowns


def _file(path: Path, shapes: dict[str, tuple[str, list[int]]]) -> str:
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return write_raw(path, json.dumps(header).encode(), bytes(end))


def test_keys_and_heads_without_elements(tmp_path: Path) -> None:
    shapes = {
        "model.layers.0.self_attn.k_proj.weight": ("F8_E4M3", [0, 0, 0]),
        "model.layers.1.self_attn.q_norm.weight": ("F8_E4M3", [0]),
    }
    assert fitcalc.load_model(_file(tmp_path / "a.safetensors", shapes)).params_total == 0


def test_a_stack_of_no_experts(tmp_path: Path) -> None:
    shapes = {"visual.rm.weight": ("F4", [0, 16, 16]), "visual.rm_scale_inv": ("F4", [0, 16, 16])}
    shapes["x.weight"] = ("BF16", [4, 4])
    assert fitcalc.load_model(_file(tmp_path / "a.safetensors", shapes)).params_total == 16
