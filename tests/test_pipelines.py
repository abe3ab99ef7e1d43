"""Pipelines and their image components, held against counts and shapes that others took of the same parts.

golden/pipeline_counts.csv: parameters of every component, counted from the classes of diffusers 0.42.1 and
transformers 5.23.0 on the meta device. golden/component_tensors.json: parameter names, shapes and counts of small
components made by the classes of diffusers 0.42.1.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fitcalc.architectures import from_config
from fitcalc.catalog import ids, load_model, load_pipeline, resolve
from fitcalc.errors import ModelFileError

_GOLDEN = Path(__file__).parent / "golden"
_ROWS = list(csv.DictReader((_GOLDEN / "pipeline_counts.csv").read_text(encoding="utf-8").splitlines()))
_CLASSES: list[dict[str, Any]] = json.loads((_GOLDEN / "component_tensors.json").read_text(encoding="utf-8"))
_PIPELINES = ids("pipelines")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _params(model: str) -> int:
    spec = load_model(model)
    return spec.params_total or spec.published_params or 0


def test_every_pipeline_is_counted() -> None:
    assert {row["pipeline"] for row in _ROWS} == set(_PIPELINES)


@pytest.mark.parametrize("name", _PIPELINES)
def test_components_are_models_with_these_counts(name: str) -> None:
    expected = {row["role"]: int(row["params"]) for row in _ROWS if row["pipeline"] == name}
    pipeline = load_pipeline(name)
    assert {part.role: _params(part.model) for part in pipeline.components} == expected
    assert all(part.count == 1 for part in pipeline.components)
    assert pipeline.source


@pytest.mark.parametrize("name", _PIPELINES)
def test_components_are_encoders_or_parts_whose_pass_is_known(name: str) -> None:
    for part in load_pipeline(name).components:
        spec = load_model(part.model)
        assert spec.cache_layers == ()
        assert (spec.kind == "encoder") == part.role.startswith(("text_encoder", "safety_checker")), part.role
        assert (spec.image is None) == (spec.kind == "encoder")
        assert not spec.unknowns


@pytest.mark.parametrize(
    ("spelling", "pipeline"),
    [
        ("Stable Diffusion 1.5", "stable-diffusion-1.5"),
        ("sd1.5", "stable-diffusion-1.5"),
        ("SD-1.5", "stable-diffusion-1.5"),
        ("runwayml/stable-diffusion-v1-5", "stable-diffusion-1.5"),
        ("stable-diffusion", "stable-diffusion-1.5"),
        ("stabilityai/stable-diffusion-2-1", "stable-diffusion-2.1"),
        ("sdxl", "sdxl-base"),
        ("SDXL 1.0", "sdxl-base"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl-base"),
        ("stabilityai/stable-diffusion-xl-refiner-1.0", "sdxl-refiner"),
        ("sdxl-with-refiner", "sdxl-base-refiner"),
        ("sd3", "sd3-medium"),
        ("stabilityai/stable-diffusion-3-medium-diffusers", "sd3-medium"),
        ("flux", "flux1-dev"),
        ("FLUX.1-dev", "flux1-dev"),
        ("black-forest-labs/FLUX.1-dev", "flux1-dev"),
    ],
)
def test_names_people_use(spelling: str, pipeline: str) -> None:
    found = resolve("model", spelling)
    assert (found.kind, found.id) == ("pipelines", pipeline)


@pytest.mark.parametrize("name", ["sdxl", "stable-diffusion", "sd3", "flux"])
def test_a_name_with_several_meanings_says_which_is_taken(name: str) -> None:
    assert resolve("model", name).note


def test_the_refiner_adds_one_unet_when_both_are_loaded() -> None:
    def total(name: str) -> int:
        return sum(_params(part.model) for part in load_pipeline(name).components)

    assert total("sdxl-base-refiner") - total("sdxl-base") == _params("sdxl-refiner-unet")


def test_stable_diffusion_is_an_860_million_unet_and_a_123_million_text_encoder() -> None:
    parts = {part.role: part.model for part in load_pipeline("stable-diffusion-1.5").components}
    assert round(_params(parts["unet"]) / 1e6) == 860
    assert round(_params(parts["text_encoder"]) / 1e6) == 123


# --- components -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", _CLASSES, ids=lambda case: case["class"])
def test_every_tensor_of_the_class_is_in_the_inventory(case: dict[str, Any]) -> None:
    spec = from_config(case["config"])
    counts: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for tensor in spec.tensors:
        if not tensor.is_buffer:
            counts[_NUMBER.sub("#", tensor.name.replace("{layer}", "#")), tensor.shape] += tensor.repeats
    assert counts == Counter({(name, tuple(shape)): count for name, shape, count in case["tensors"]})
    assert spec.params_total == case["params"]
    assert [[t.name, list(t.shape)] for t in spec.tensors if t.is_buffer] == case["buffers"]


@pytest.mark.parametrize("case", _CLASSES, ids=lambda case: case["class"])
def test_components_run_in_one_piece_without_cache(case: dict[str, Any]) -> None:
    spec = from_config(case["config"])
    assert (spec.kind, spec.cache_layers) == ("component", ())
    assert {tensor.split for tensor in spec.tensors} == {"replicated"}
    assert all(len(tensor.shape) == 2 for tensor in spec.tensors if tensor.is_linear)
    assert not spec.unknowns or "activations" in spec.unknowns[0]
    assert max(layer for tensor in spec.tensors for layer in tensor.layers or (0,)) < max(spec.layers, 1)


_UNET, _VAE = _CLASSES[2]["config"], _CLASSES[0]["config"]


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "UNet2DConditionModel", "in_channels": 4},
        {**_UNET, "class_embed_type": "timestep"},
        {**_UNET, "down_block_types": ["ResnetDownsampleBlock2D"] * 3},
        {**_UNET, "down_block_types": [{"a": 1}] * 3},
        {**_UNET, "up_block_types": _UNET["up_block_types"][:2]},
        {**_UNET, "layers_per_block": [1, 2, 3]},
        {**_UNET, "block_out_channels": 320},
        {**_VAE, "down_block_types": ["DCDownBlock2d"] * 3},
        {"_class_name": "AutoencoderKL"},
        {"_class_name": "FluxTransformer2DModel", "num_layers": 19},
        {"_class_name": "SD3Transformer2DModel", "num_layers": 24},
    ],
)
def test_a_layout_that_is_not_known_is_stated(config: dict[str, Any]) -> None:
    spec = from_config(config)
    assert spec.tensors == ()
    assert "not known" in spec.unknowns[0]


@pytest.mark.parametrize(
    "config",
    [
        {**_UNET, "layers_per_block": 65},
        {**_UNET, "transformer_layers_per_block": 10_000},
        {**_UNET, "block_out_channels": [8, 16, "24"]},
        {**_UNET, "cross_attention_dim": -1},
        {**_UNET, "transformer_layers_per_block": [1, 2]},
        {**_VAE, "latent_channels": 2**40},
        {**_VAE, "block_out_channels": [8] * 100},
    ],
)
def test_wrong_files_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError):
        from_config(config)
