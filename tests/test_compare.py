"""compare: each column is what `fit` answers, and the names must be of one kind."""

from __future__ import annotations

import csv
import json

import pytest
from pydantic import TypeAdapter

import fitcalc
from fitcalc.cli import run
from fitcalc.errors import RequestError, UnknownNameError
from fitcalc.render.compare_text import compare_csv, compare_text
from fitcalc.render.style import Style
from fitcalc.selection import compare
from fitcalc.spec.selection import CompareReport


def test_models_side_by_side_are_the_answers_of_fit() -> None:
    report = compare("llama-3.1-8b", "gemma-2-9b", gpu="rtx-3060", context=4096)
    assert report.kind == "model"
    for one in report.columns:
        alone = fitcalc.fit(one.name, gpu="rtx-3060", context=4096)
        assert (one.verdict, one.quant, one.weights_bytes) == (
            alone.verdict,
            alone.inputs["quant"],
            alone.weights_bytes,
        )
        assert one.max_context_tokens == alone.limits.max_context_tokens
        assert one.tokens_per_s == alone.speed.decode_tokens_per_s


def test_devices_and_quantizations_need_a_model() -> None:
    report = compare("a100-80:2", "h100-sxm", "raspberry-pi-5-8gb", model="llama-3.1-8b")
    assert report.kind == "device"
    assert [one.devices_name[:3] for one in report.columns] == ["2 ×", "1 ×", "Ras"]
    report = compare("q4_k_m", "q8_0", model="llama-3.1-8b", gpu="rtx-3060")
    assert report.kind == "quantization"
    # Published sizes of these GGUF files: 4.58 and 7.95 GiB.
    assert [round(one.weights_bytes / 2**30, 2) for one in report.columns] == [4.58, 7.95]
    with pytest.raises(RequestError):
        compare("q4_k_m", "q8_0")
    with pytest.raises(RequestError):
        compare("q4_k_m", "q8_0", model="llama-3.1-8b", gpu="rtx-3060", quant="q6_k")


def test_names_of_two_kinds_and_unknown_names_are_refused() -> None:
    with pytest.raises(RequestError, match="one kind"):
        compare("llama-3.1-8b", "rtx-3060")
    with pytest.raises(RequestError):
        compare("llama-3.1-8b", gpu="rtx-3060")
    with pytest.raises(UnknownNameError):
        compare("llama-3.1-8b", "lama-31-8b-nosuch", gpu="rtx-3060")


def test_the_views_of_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = compare("rtx-3060", "rtx-3090", "rtx-4090", "a100-80", "h100-sxm", model="llama-3.1-8b")
    assert all(len(line) <= 80 for line in compare_text(report, Style(80)).splitlines())
    assert [row["name"] for row in csv.DictReader(compare_csv(report).splitlines())] == list(report.inputs["names"])
    assert TypeAdapter(CompareReport).validate_json(report.to_json()).to_dict() == report.to_dict()
    assert run(["compare", "fp16", "bf16", "-m", "llama-3.1-70b", "--gpu", "rtx-3060", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "quantization"
