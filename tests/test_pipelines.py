"""Pipelines: the models each one loads, held against counts that others took of the same parts.

golden/pipeline_counts.csv: parameters of every component, counted from the classes of diffusers 0.42.1 and
transformers 5.23.0 on the meta device.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from fitcalc.catalog import ids, load_model, load_pipeline, resolve

_GOLDEN = Path(__file__).parent / "golden" / "pipeline_counts.csv"
_ROWS = list(csv.DictReader(_GOLDEN.read_text(encoding="utf-8").splitlines()))
_PIPELINES = ids("pipelines")


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
def test_components_are_encoders_or_say_what_is_unknown(name: str) -> None:
    for part in load_pipeline(name).components:
        spec = load_model(part.model)
        assert spec.cache_layers == ()
        assert (spec.kind == "encoder") == part.role.startswith(("text_encoder", "safety_checker")), part.role
        assert spec.kind == "encoder" or spec.unknowns


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
