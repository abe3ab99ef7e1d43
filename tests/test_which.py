"""which: what is listed fits by `fit`, uses mean what their rules say, and the order is by size."""

from __future__ import annotations

import csv
import json
import shlex

import pytest
from pydantic import TypeAdapter

from fitcalc import catalog
from fitcalc.cli import run
from fitcalc.errors import RequestError
from fitcalc.render.style import Style
from fitcalc.render.which_text import which_csv, which_text
from fitcalc.selection import which
from fitcalc.spec.selection import WhichReport


def test_fit_says_of_every_model_what_was_listed(capsys: pytest.CaptureFixture[str]) -> None:
    report = which(gpu="rtx-3060", use="code")
    assert len(report.models) > 8
    for one in report.models[:8]:
        assert run([*shlex.split(one.ask)[1:], "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["verdict"] == "fits"
        assert said["limits"]["max_context_tokens"] == one.max_context_tokens
        assert said["speed"]["decode_tokens_per_s"]["estimate"] == pytest.approx(one.tokens_per_s.estimate)  # type: ignore[union-attr]


def test_models_that_run_well_come_first_and_large_ones_before_small_ones() -> None:
    report = which(gpu="rtx-3060", use="edge")
    well = [one.params_total for one in report.models if one.runs_well]
    assert well == sorted(well, reverse=True)
    assert [one.runs_well for one in report.models] == sorted((one.runs_well for one in report.models), reverse=True)
    assert all(one.tokens_per_s and one.tokens_per_s.estimate >= 3 for one in report.models if one.runs_well)
    assert report.looked_at == len(report.models) + report.too_large


def test_uses_mean_what_their_rules_say() -> None:
    long = which(gpu="a100-80", use="long-context").models
    assert all((catalog.load_model(one.model).max_context_tokens or 2**30) >= 131072 for one in long)
    edge = which(cpu="raspberry-pi-5-8gb", use="edge").models
    assert max(one.params_total for one in edge) <= 4_500_000_000
    assert {"codellama-7b", "starcoder2-7b"} <= {one.model for one in which(gpu="rtx-3060", use="code").models}
    with pytest.raises(RequestError):
        which(gpu="rtx-3060", use="cooking")


def test_a_larger_card_runs_whatever_a_smaller_one_does() -> None:
    small = {one.model for one in which(gpu="rtx-3060", use="code").models}
    large = {one.model for one in which(gpu="rtx-3090", use="code").models}
    assert small < large


def test_the_views_of_a_report() -> None:
    report = which(gpu="rtx-4060", use="edge")
    assert all(len(line) <= 80 for line in which_text(report, Style(80), 30).splitlines())
    assert len(list(csv.DictReader(which_csv(report).splitlines()))) == len(report.models)
    assert TypeAdapter(WhichReport).validate_json(report.to_json()).to_dict() == report.to_dict()
    assert run(["which", "--gpu", "rtx-4060", "--use", "nothing"]) == 2
