"""Encoders and encoder-decoders in Transformers: passes, caches, and the published figures of such models.

golden/other_models.csv: counts and peaks of the classes themselves, and published memory (see its `source`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fitcalc
from fitcalc.formulas import media

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "accuracy"))

import other_models as records

_ROWS = records.rows()


def _term(report: Any, name: str) -> Any:
    return next(term for term in report.devices[0].terms if term.name == name)


@pytest.mark.parametrize(
    "row", [row for row in _ROWS if row["kind"] == "params" and records.is_scored(row)], ids=lambda row: row["item"]
)
def test_parameters_are_exact(row: dict[str, str]) -> None:
    assert records.estimate(row) == int(row["value"])


@pytest.mark.parametrize(
    "row", [row for row in _ROWS if row["model"] == "whisper.encoder"], ids=lambda row: row["config"]
)
def test_whisper_hears_a_window_in_as_much_as_its_class_does(row: dict[str, str]) -> None:
    assert records.estimate(row) == pytest.approx(records.truth(row), rel=0.005)


def test_published_memory_has_a_median_error_of_ten_percent_at_most() -> None:
    errors = [abs(error) for error in records.errors("published")]
    assert len(errors) >= 20
    assert median(errors) <= 0.10
    assert max(errors) <= 0.20


def test_what_is_called_a_lower_bound_is_one_and_an_upper_bound_holds() -> None:
    for row, error in records.scored():
        if row["bound"] and not row["apart"]:
            assert error <= 0, row["item"]


# Peaks of the classes of transformers 5.23.0 on fake tensors in fp16: (shape, bytes), a mask given.
@pytest.mark.parametrize(
    ("hidden", "batch", "tokens", "counted"),
    [(768, 8, 512, 71303168), (768, 8, 128, 17432576), (1024, 8, 512, 94371840), (1024, 8, 128, 23199744)],
)
def test_bert_and_roberta(hidden: int, batch: int, tokens: int, counted: int) -> None:
    model = {768: "bge-base-en-v1.5", 1024: "bge-m3"}[hidden]
    report = fitcalc.fit(model, gpu="rtx-3060", quant="fp16", batch=batch, context=tokens)
    assert _term(report, "activations").bytes == counted


@pytest.mark.parametrize(("batch", "tokens", "counted"), [(1, 512, 63176704), (4, 512, 202375168)])
def test_t5_keeps_its_scores(batch: int, tokens: int, counted: int) -> None:
    """d_model 2048, 32 heads of 64, gated: the shape of Flan-T5 XL."""
    report = fitcalc.fit("flan-t5-xl", gpu="rtx-4090", quant="fp16", batch=batch, context=tokens)
    assert _term(report, "activations").bytes == pytest.approx(counted, rel=0.006)


def test_bge_m3_as_a_user_asks_for_it() -> None:
    report = fitcalc.fit("bge-m3", gpu="rtx-3060", concurrency=32, context=512)
    assert report.verdict == "fits"
    assert report.kv_cache.bytes == 0
    assert report.weights_bytes == 4 * 567_754_752
    # Two MLP and three hidden widths in 32 bit per token, and a mask of one byte per pair of tokens.
    assert _term(report, "activations").bytes == 32 * 512 * (4 * (2 * 4096 + 3 * 1024) + 512)


def test_whisper_caches_its_window_and_its_answer_once_per_beam() -> None:
    one = fitcalc.fit("whisper-large-v3", gpu="gtx-1060-6gb")
    five = fitcalc.fit("whisper-large-v3", gpu="gtx-1060-6gb", engine_options={"num_beams": 5})
    assert one.kv_cache.bytes == (1500 + 448) * 2 * 1280 * 32 * 2
    assert five.kv_cache.bytes == 5 * one.kv_cache.bytes
    assert _term(five, "activations").bytes == _term(one, "activations").bytes
    assert one.verdict == "fits"


def test_t5_caches_the_prompt_beside_the_answer() -> None:
    report = fitcalc.fit("flan-t5-xl", gpu="rtx-4090", quant="bf16", context=512, batch=3)
    assert report.kv_cache.bytes == 3 * (512 + 512) * 2 * 2048 * 24 * 2


@given(
    requests=st.integers(1, 64), tokens=st.integers(1, 8192), width=st.integers(1, 9000), hidden=st.integers(1, 4096)
)
def test_a_pass_grows_with_the_batch_in_step(requests: int, tokens: int, width: int, hidden: int) -> None:
    shape = {
        "elem_bytes": 2, "tokens": tokens, "mlp_states": 2, "width": width, "block_states": 3, "hidden": hidden,
        "input_elems": 0, "mask_bytes": 1,
    }  # fmt: skip
    one = media.encoder_bytes(requests=1, **shape)
    assert media.encoder_bytes(requests=requests, **shape) == requests * one
