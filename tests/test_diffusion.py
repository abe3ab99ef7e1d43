"""Image generators: what their passes keep alive, against the classes themselves; pipelines as a user asks for them.

golden/other_models.csv, kind activation: peaks of live tensors of one pass, counted by running the classes of diffusers
0.42.1 and transformers 5.23.0 on fake tensors.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.errors import FitcalcError, RequestError
from fitcalc.formulas import diffusion
from fitcalc.pipelines import pipeline_model
from fitcalc.units import GIB, MIB

_ROWS = list(
    csv.DictReader(
        (Path(__file__).parent / "golden" / "other_models.csv").read_text(encoding="utf-8").splitlines(),
    )
)
_MODELS = {"sd15.unet": "sd15-unet", "sdxl.unet": "sdxl-base-unet", "vae.decode": "sd15-vae"}
_TYPES = {"float16": "fp16", "float32": "fp32"}
_PASSES = [row for row in _ROWS if row["kind"] == "activation" and row["model"] in _MODELS]


def _term(report: Any, name: str) -> Any:
    return next(term for term in report.devices[0].terms if term.name == name)


@pytest.mark.parametrize("row", _PASSES, ids=lambda row: f"{row['model']} {row['config']}")
def test_live_tensors_of_one_pass(row: dict[str, str]) -> None:
    found = re.fullmatch(r"px/size=(\d+) batch=(\d+) dtype=(\w+) attn=(.+)", row["config"])
    assert found
    options = {"attention": "eager"} if found[4] == "vanilla" else {}
    report = fitcalc.fit(
        _MODELS[row["model"]], gpu="h100-sxm", quant=_TYPES[found[3]], resolution=int(found[1]), batch=int(found[2]),
        engine_options=options,
    )  # fmt: skip
    assert _term(report, "activations").bytes / GIB == pytest.approx(float(row["value"]), rel=0.004)


# Peaks of the classes of diffusers 0.42.1 on fake tensors in fp16 [bytes].
_COUNTED = [
    ("sd21-unet", 768, 1, 77, "sdpa", 153515140),
    ("sd21-unet", 768, 1, 77, "eager", 3486020740),
    ("sdxl-refiner-unet", 1024, 1, 77, "sdpa", 198384910),
    ("sdxl-refiner-unet", 1024, 1, 77, "eager", 909319438),
    ("sd3-medium-transformer", 1024, 1, 333, "sdpa", 169396226),
    ("sd3-medium-transformer", 1024, 2, 333, "sdpa", 338792452),
    ("sd3-medium-transformer", 512, 1, 333, "sdpa", 46712834),
    ("sd3-medium-transformer", 1024, 1, 77, "sdpa", 164939778),
    ("flux1-dev-transformer", 1024, 1, 512, "sdpa", 490785796),
    ("flux1-dev-transformer", 1024, 2, 512, "sdpa", 976825352),
    ("flux1-dev-transformer", 512, 1, 512, "sdpa", 166364164),
    ("flux1-dev-vae", 1024, 1, 77, "sdpa", 1610612736),
]


@pytest.mark.parametrize(("model", "side", "batch", "prompt", "attention", "counted"), _COUNTED)
def test_other_classes_within_one_and_a_half_percent(
    model: str, side: int, batch: int, prompt: int, attention: str, counted: int
) -> None:
    report = fitcalc.fit(
        model, gpu="h100-sxm", quant="fp16", resolution=side, batch=batch, context=prompt,
        engine_options={"attention": attention},
    )  # fmt: skip
    assert _term(report, "activations").bytes == pytest.approx(counted, rel=0.015)


def test_the_denoiser_of_a_pipeline_runs_two_samples_a_picture_with_guidance() -> None:
    options = {"enable_vae_tiling": True, "enable_vae_slicing": True, "attention": "eager"}
    guided = fitcalc.fit("stable-diffusion-1.5", gpu="rtx-4090", quant="fp16", engine_options=options)
    alone = fitcalc.fit("sd15-unet", gpu="rtx-4090", quant="fp16", batch=2, engine_options={"attention": "eager"})
    plain = fitcalc.fit(
        "stable-diffusion-1.5", gpu="rtx-4090", quant="fp16", engine_options={**options, "guidance_scale": 1}
    )
    assert _term(guided, "activations").bytes == _term(alone, "activations").bytes
    assert _term(plain, "activations").bytes * 2 == _term(guided, "activations").bytes


def test_weights_are_the_sum_of_the_components() -> None:
    report = fitcalc.fit("sdxl-base", gpu="a100-80", quant="fp32")
    counts = [catalog.load_model(part.model).params_total for part in catalog.load_pipeline("sdxl-base").components]
    # The position ids of the text encoders are stored beside the parameters.
    assert report.weights_bytes == pytest.approx(4 * sum(counts), rel=1e-6)
    assert _term(report, "weights").bytes == report.weights_bytes


@pytest.mark.parametrize(
    ("quant", "published_mib"),
    [("q8_0", 12068.09), ("q4_0", 6394.53), ("q4_k_s", 6395.17), ("q3_k_s", 4888.16), ("q2_k", 3735.73)],
)
def test_gguf_bytes_of_flux_are_those_that_its_loader_prints(quant: str, published_mib: float) -> None:
    """github.com/leejet/stable-diffusion.cpp docs/flux.md; every matrix in one type."""
    report = fitcalc.fit("flux1-dev-transformer", gpu="rtx-4090", quant=quant)
    assert report.weights_bytes / MIB == pytest.approx(published_mib, abs=0.01)


def test_sdxl_decodes_in_32_bit_when_it_is_loaded_in_fp16_alone() -> None:
    half = _term(fitcalc.fit("sdxl-base", gpu="rtx-4090", quant="fp16"), "activations").bytes
    brain = _term(fitcalc.fit("sdxl-base", gpu="rtx-4090", quant="bf16"), "activations").bytes
    upcast = 2 * catalog.load_model("sdxl-base-vae").params_total
    assert half == pytest.approx(2 * brain + upcast, rel=1e-4)


def test_offloading_leaves_the_largest_component_and_says_that_it_is_a_lower_bound() -> None:
    options = {"enable_model_cpu_offload": True}
    report = fitcalc.fit("sdxl-base", gpu="rtx-3060-8gb", ram="32GB", quant="fp16", engine_options=options)
    card, host = report.devices
    unet = catalog.load_model("sdxl-base-unet").params_total
    assert _term(report, "weights").bytes == pytest.approx(2 * unet, rel=1e-4)
    assert next(term for term in host.terms if term.name == "weights").bytes == report.weights_bytes
    assert any("lower bound" in note for note in report.notes)
    assert card.total_bytes < report.weights_bytes


def test_components_to_quantize_are_the_users_choice() -> None:
    def held(roles: str) -> int:
        options = {"components_to_quantize": roles}
        return fitcalc.fit("sd3-medium", gpu="rtx-4090", quant="fp8", engine_options=options).weights_bytes

    t5 = catalog.load_model("sd3-medium-text-encoder-3")
    linears = sum(tensor.elems for tensor in t5.tensors if tensor.is_linear)
    saved = held("transformer") - held("transformer,text_encoder_3")
    assert saved == pytest.approx(linears, rel=0.002)
    with pytest.raises(RequestError, match="no component 'unet'"):
        held("unet")


@pytest.mark.parametrize(
    "arguments",
    [
        {"gpu": "rtx-4090", "resolution": "1000x777"},
        {"gpu": "rtx-4090", "resolution": "big"},
        {"gpu": "rtx-4090", "resolution": 0},
        {"gpu": "rtx-4090", "images": 1},
        {"gpu": "rtx-4090", "engine": "vllm"},
        {"gpu": "rtx-4090", "quant": "awq"},
        {"gpu": "rtx-4090:2"},
        {"gpu": "rtx-4090", "batch": 2, "concurrency": 3},
        {"gpu": "rtx-4090", "quant": "bnb-nf4", "engine_options": {"enable_sequential_cpu_offload": True}},
        {"gpu": "rtx-4090", "engine_options": {"attention": "magic"}},
    ],
)
def test_what_does_not_run_is_refused_in_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(FitcalcError) as caught:
        fitcalc.fit("sdxl-base", **arguments)
    assert "\n" not in str(caught.value)


def test_a_text_model_makes_no_pictures() -> None:
    with pytest.raises(RequestError, match="makes no pictures"):
        fitcalc.fit("llama-3.1-8b", gpu="rtx-4090", resolution=1024)
    with pytest.raises(FitcalcError, match="runs image generators"):
        fitcalc.fit("llama-3.1-8b", gpu="rtx-4090", engine="diffusers")


def test_limits_are_where_the_verdict_turns() -> None:
    report = fitcalc.fit("sdxl-base", gpu="rtx-3060", quant="fp16")
    side, batch = report.limits.max_resolution_px, report.limits.max_concurrency
    assert side
    assert batch
    for resolution, count, fits in (
        (side, 1, True), (side + 64, 1, False), (1024, batch, True), (1024, batch + 1, False)
    ):  # fmt: skip
        other = fitcalc.fit("sdxl-base", gpu="rtx-3060", quant="fp16", resolution=resolution, batch=count)
        assert (other.verdict in ("fits", "tight")) is fits


def test_what_makes_it_fit_fits() -> None:
    report = fitcalc.fit("sdxl-base", gpu="rtx-3060-8gb", quant="fp16", batch=4)
    assert report.verdict == "does_not_fit"
    assert report.recommendation
    words = " ".join(other.summary for other in report.recommendation.alternatives)
    assert "1 picture at once" in words or "enable_model_cpu_offload" in words
    assert all(other.verdict == "fits" for other in report.recommendation.alternatives)


def test_the_program_loads_what_the_ledger_counts() -> None:
    report = fitcalc.fit("flux1-dev", gpu="rtx-4090", quant="bnb-nf4", resolution="1024x768", batch=2)
    assert report.recommendation
    program = report.recommendation.command
    for word in ("FLUX.1-dev", "load_in_4bit", '"transformer", "text_encoder_2"', "width=1024, height=768", "=2"):
        assert word in program
    compile(program.removeprefix("python -c '").removesuffix("'"), "program", "exec")


@pytest.mark.parametrize("quant", ["fp16", "fp8", "bnb-nf4", "q4_0"])
@pytest.mark.parametrize("name", catalog.ids("pipelines"))
def test_every_pipeline_gets_an_answer_and_a_program(name: str, quant: str) -> None:
    report = fitcalc.fit(name, gpu="a100-80", quant=quant)
    assert report.verdict == "fits"
    assert report.recommendation
    compile(report.recommendation.command.removeprefix("python -c '").removesuffix("'"), "program", "exec")


_sides = st.integers(8, 256).map(lambda step: 8 * step)


@given(width=_sides, height=_sides, side=st.sampled_from([8, 16, 32]))
def test_positions_cover_the_picture_and_do_not_depend_on_its_direction(width: int, height: int, side: int) -> None:
    count = diffusion.positions(width_px=width, height_px=height, side_px=side)
    assert count * side * side >= width * height
    assert count == diffusion.positions(width_px=height, height_px=width, side_px=side)


@given(width=_sides, height=_sides, tile=st.integers(64, 2048))
def test_a_tile_is_never_larger_than_the_picture_or_itself(width: int, height: int, tile: int) -> None:
    found = diffusion.tile_pixels(width_px=width, height_px=height, tile_px=tile)
    assert found <= min(width * height, tile * tile)


def test_a_pipeline_keeps_each_component_under_its_role() -> None:
    spec = pipeline_model("sdxl-base-refiner")
    roles = {tensor.name.partition(".")[0] for tensor in spec.tensors}
    assert roles == {"unet", "refiner_unet", "vae", "text_encoder", "text_encoder_2"}


def test_on_apple_nothing_is_quantized_while_loading() -> None:
    report = fitcalc.fit("flux1-dev", gpu="m3-max-64gb")
    assert report.recommendation
    assert 'pipe.to("mps")' in report.recommendation.command
    assert all(row.quant in ("bf16", "fp16") for row in report.choices)
    with pytest.raises(FitcalcError, match="does not run on"):
        fitcalc.fit("flux1-dev", gpu="m3-max-64gb", quant="bnb-nf4")


def test_the_refiner_shares_what_it_can_with_the_base() -> None:
    report = fitcalc.fit("sdxl-base-refiner", gpu="rtx-4090")
    assert report.recommendation
    program = report.recommendation.command
    assert "stable-diffusion-xl-refiner-1.0" in program
    assert "text_encoder_2=pipe.text_encoder_2, vae=pipe.vae" in program
