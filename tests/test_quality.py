"""Expected losses of quality against published points, held-out ones among them, and the laws they obey."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.formulas import quality as formulas
from fitcalc.quality import LEVELS, bits_of, keeps_level, level_of, quality_of
from fitcalc.quantization import checkpoint_bytes
from fitcalc.spec.model import ModelSpec
from fitcalc.spec.quant import CheckpointQuant
from fitcalc.spec.report import Estimate, Quality

POINTS = Path(__file__).parent / "golden" / "quality_points.csv"


@cache
def model(name: str) -> ModelSpec:
    """A model of the points; Salamandra 2B is a Llama of its own makers, told apart by its vocabulary."""
    if name == "salamandra-2b":
        return replace(catalog.load_model("llama-3-8b"), id=name, name="Salamandra 2B", vocab=256000)
    return catalog.load_model(name)


@cache
def points() -> tuple[tuple[str, str, float, float, Quality, bool], ...]:
    """(model, quantization, measured ln ratio, expected ln ratio, the estimate, held out of the fit) of each point."""
    found = []
    with POINTS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scheme = catalog.load_scheme(row["quant"])
            quality = quality_of(model(row["model"]), scheme, imatrix=row["imatrix"] == "yes")
            assert quality.perplexity_rise is not None
            expected = math.log1p(quality.perplexity_rise.estimate)
            found.append((*list(row.values())[:2], float(row["ln_ratio"]), expected, quality, row["held_out"] == "yes"))
    return tuple(found)


def _inside(measured: float, quality: Quality) -> bool:
    rise = quality.perplexity_rise
    assert rise is not None
    return rise.low <= math.expm1(measured) <= rise.high


def test_nine_in_ten_published_points_are_in_their_range() -> None:
    inside = [_inside(measured, quality) for _, _, measured, _, quality, _ in points()]
    assert len(inside) >= 100
    assert sum(inside) / len(inside) >= 0.9


def test_held_out_points_are_in_their_range() -> None:
    held = [point for point in points() if point[5]]
    outside = [(name, quant) for name, quant, measured, _, quality, _ in held if not _inside(measured, quality)]
    assert len(held) >= 19
    assert len(outside) <= 2, outside


def test_the_median_held_out_point_is_not_to_one_side() -> None:
    ratios = sorted(measured / expected for _, _, measured, expected, _, held in points() if held)
    assert 0.85 < ratios[len(ratios) // 2] < 1.2


@pytest.mark.parametrize(
    ("quant", "percent"),
    [("q6_k", 0.35), ("q5_k_m", 0.91), ("q4_k_m", 2.82), ("q4_k_s", 4.32), ("q4_0", 7.52), ("iq2_xs", 72.7)],
)
def test_expected_rise_of_llama_3_8b(quant: str, percent: float) -> None:
    # The scoreboard of llama.cpp's tools/perplexity/README.md.
    rise = quality_of(model("llama-3-8b"), catalog.load_scheme(quant)).perplexity_rise
    assert rise is not None
    assert 100 * rise.estimate == pytest.approx(percent, rel=0.32)


def test_llama_2_loses_about_a_third_of_what_llama_3_loses() -> None:
    losses = []
    for name in ("llama-2-7b", "llama-3-8b"):
        rise = quality_of(model(name), catalog.load_scheme("q4_k_s")).perplexity_rise
        assert rise is not None
        losses.append(math.log1p(rise.estimate))
    # 2.7 to 2.8 times at equal bits: Q4_K_S of both, 0.0151 and 0.0422.
    assert losses[1] / losses[0] == pytest.approx(0.0422 / 0.0151, rel=0.1)


def test_k_quants_lose_less_the_more_bits_they_have() -> None:
    spec = model("llama-3-8b")
    names = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "q8_0")
    schemes = [catalog.load_scheme(name) for name in names]
    found = [(bits_of(spec, scheme)[0], quality_of(spec, scheme).perplexity_rise) for scheme in schemes]
    rises = [rise.estimate for _, rise in sorted(found, key=lambda pair: pair[0]) if rise]
    assert len(rises) == len(found)
    assert rises == sorted(rises, reverse=True)


def test_bits_are_those_of_the_layers() -> None:
    # 16 + 4 bit of scale and offset on every 32 weights; a float file has none below 16 bit.
    assert bits_of(model("llama-3-8b"), catalog.load_scheme("q4_1")) == (5.0, 1.0)
    assert bits_of(model("llama-3-8b"), catalog.load_scheme("bf16")) == (0.0, 0.0)
    # Large groups cost fewer bits, and a head in 16 bit does not count.
    gptq = bits_of(model("llama-3-8b"), catalog.load_scheme("gptq"))[0]
    assert bits_of(model("llama-3-8b"), catalog.load_scheme("gptq-g32"))[0] > gptq
    spec, scheme = model("llama-3-8b"), catalog.load_scheme("gptq")
    assert gptq < 4.2 < 8 * checkpoint_bytes(spec, scheme) / spec.params_total


@given(
    bits=st.floats(1.5, 16), more=st.floats(0.01, 4), share=st.floats(0.1, 1), factor=st.floats(0.3, 8),
    intercept=st.floats(1, 4),
)  # fmt: skip
def test_laws_of_the_line(bits: float, more: float, share: float, factor: float, intercept: float) -> None:
    def error(bits: float, factor: float = factor) -> float:
        return float(
            formulas.weight_error(share=share, factor=factor, intercept=intercept, slope_per_bit=1.327, bits=bits)
        )

    assert error(bits + more) < error(bits)
    assert error(bits, 2 * factor) == pytest.approx(2 * error(bits))
    assert math.log(error(bits) / error(bits + 1)) == pytest.approx(1.327)
    small = min(error(bits), 2.0)
    assert formulas.log_ratio(error=small, saturation=0.5) >= small
    assert formulas.log_ratio(error=small, saturation=0) == small
    assert formulas.rise(ln_ratio=math.log(1 + small)) == pytest.approx(small)


def test_arrays_and_numbers_agree() -> None:
    bits = np.array([2.5, 4.5, 8.5])
    values = formulas.weight_error(share=1, factor=1, intercept=2.9, slope_per_bit=1.327, bits=bits)
    for place, value in enumerate(bits):
        alone = formulas.weight_error(share=1, factor=1, intercept=2.9, slope_per_bit=1.327, bits=float(value))
        assert values[place] == pytest.approx(alone)


def test_levels() -> None:
    assert [level_of(rise) for rise in (0, 0.001, 0.0011, 0.01, 0.011, 0.06, 0.061, 9)] == [
        "lossless", "lossless", "high", "high", "medium", "medium", "low", "low",
    ]  # fmt: skip
    one = Quality(Estimate(0.02, 0.01, 0.03), "medium", "derived", 5.0)
    assert [keeps_level(one, level) for level in LEVELS] == [False, False, True, True]
    assert not keeps_level(Quality(None, None, "unknown", None), "low")


def test_every_scheme_has_a_loss_or_a_reason() -> None:
    for scheme in map(catalog.load_scheme, catalog.ids("quants")):
        quality = quality_of(model("llama-3-8b"), scheme)
        rise = quality.perplexity_rise
        if rise is None:
            assert quality.level is None
            assert quality.basis == "unknown"
            assert quality.note
        else:
            assert 0 <= rise.low <= rise.estimate <= rise.high
            assert quality.level == level_of(rise.estimate)
            assert scheme.kind == "float" or quality.source


def test_every_cache_type_of_every_engine_has_a_loss_or_a_reason() -> None:
    spec, half = model("llama-3-8b"), catalog.load_scheme("bf16")
    plain = quality_of(spec, half).perplexity_rise
    assert plain is not None
    for engine in map(catalog.load_engine, catalog.ids("engines")):
        for name, (elems, size) in engine.kv_types.items():
            quality = quality_of(spec, half, name)
            if quality.perplexity_rise is None:
                assert name in quality.note
            else:
                assert (quality.perplexity_rise.estimate > plain.estimate) == (8 * size / elems < 16)


def test_a_cache_adds_to_the_weights() -> None:
    spec, scheme = model("llama-3-8b"), catalog.load_scheme("q4_k_m")
    alone, both = (quality_of(spec, scheme, kv).perplexity_rise for kv in ("", "q4_0"))
    cache = quality_of(spec, catalog.load_scheme("fp32"), "q4_0").perplexity_rise
    assert alone
    assert both
    assert cache
    assert 1 + both.estimate == pytest.approx((1 + alone.estimate) * (1 + cache.estimate))


def test_what_a_model_is_published_in_is_the_reference() -> None:
    for name, quant in (("gpt-oss-20b", "mxfp4"), ("deepseek-v3", "fp8-block")):
        quality = quality_of(model(name), catalog.load_scheme(quant))
        assert quality.perplexity_rise == Estimate(0, 0, 0)
        assert quality.level == "lossless"
        assert "published" in quality.note
    # A checkpoint that was quantized after training loses what others lose.
    late = replace(model("llama-3-8b"), quant=CheckpointQuant("awq", group_size=128, bits=4))
    usual = quality_of(model("llama-3-8b"), catalog.load_scheme("awq"))
    assert quality_of(late, catalog.load_scheme("awq")).perplexity_rise == usual.perplexity_rise


def test_a_model_without_measurements_of_its_kind_says_so_and_has_a_wider_range() -> None:
    scheme = catalog.load_scheme("q4_k_m")
    known, other = (quality_of(model(name), scheme) for name in ("llama-3-8b", "qwen2.5-7b"))
    assert known.generation == other.generation == "Llama 3"
    assert "Llama 3" in other.note
    assert not known.note
    assert known.perplexity_rise
    assert other.perplexity_rise
    widths = [q.perplexity_rise.high / q.perplexity_rise.low for q in (known, other) if q.perplexity_rise]
    assert widths[1] > widths[0]


def test_encoders_have_no_estimate() -> None:
    quality = quality_of(model("bge-large-en"), catalog.load_scheme("bnb-int8"))
    assert quality.perplexity_rise is None
    assert "encoders" in quality.note
    assert quality_of(model("bge-large-en"), catalog.load_scheme("fp16")).level == "lossless"


def test_the_report_has_the_quality_of_its_plan() -> None:
    report = fitcalc.fit("llama-3.1-8b", gpu="rtx-4090", quant="q4_k_m", kv_dtype="q8_0")
    expected = quality_of(catalog.load_model("llama-3.1-8b"), catalog.load_scheme("q4_k_m"), "q8_0")
    assert report.quality == expected
    assert report.to_dict()["quality"]["level"] == "medium"
