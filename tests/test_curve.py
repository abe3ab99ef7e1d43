"""Curves: laws along an axis, limits against a search by hand, and what each form of output prints."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc.api import settle
from fitcalc.cli import run
from fitcalc.errors import RequestError, UnsupportedModelError
from fitcalc.render.curve_text import curve_csv, curve_markdown, curve_text
from fitcalc.render.plot import require_plot, save_plot
from fitcalc.render.style import Style
from fitcalc.speeds.answer import speed_of
from fitcalc.speeds.figures import figures, is_fixed, ready
from fitcalc.speeds.within import Bounds, most_within, speeds_along

ROOT = Path(__file__).parents[1]
SERVED: dict[str, Any] = {"gpu": "a100-80", "quant": "awq", "context": 4096}
LOCAL: dict[str, Any] = {"gpu": "rtx-4090", "quant": "q4_k_m"}


@pytest.fixture(scope="module")
def served() -> Any:
    return fitcalc.curve("llama-3.1-8b", max_ttft="1s", max_tpot=0.04, **SERVED)


def test_a_curve_starts_alone_doubles_and_ends_where_memory_does(served: Any) -> None:
    counts = [point.concurrency for point in served.points]
    assert counts[:5] == [1, 2, 4, 8, 16]
    most = fitcalc.fit("llama-3.1-8b", **SERVED).limits.max_concurrency
    assert counts[-1] == most
    assert counts == sorted(set(counts))


def test_more_requests_give_more_in_total_and_less_to_each(served: Any) -> None:
    for few, more in zip(served.points, served.points[1:], strict=False):
        assert more.total_tokens_per_s.estimate >= few.total_tokens_per_s.estimate
        assert more.request_tokens_per_s.estimate <= few.request_tokens_per_s.estimate
        assert more.time_to_first_token_s.estimate >= few.time_to_first_token_s.estimate


def test_every_figure_lies_in_its_range_and_rates_are_inverse_times(served: Any) -> None:
    for point in served.points:
        for name in ("request_tokens_per_s", "total_tokens_per_s", "time_to_first_token_s", "time_per_token_s"):
            figure = getattr(point, name)
            assert 0 < figure.low <= figure.estimate <= figure.high, name
        assert point.request_tokens_per_s.estimate * point.time_per_token_s.estimate == pytest.approx(1)


def test_the_first_point_is_what_fit_says(served: Any) -> None:
    speed = fitcalc.fit("llama-3.1-8b", **SERVED).speed
    first = served.points[0]
    assert first.time_to_first_token_s == speed.time_to_first_token_s
    assert first.total_tokens_per_s == speed.total_tokens_per_s
    assert first.request_tokens_per_s.estimate == pytest.approx(speed.decode_tokens_per_s.estimate)


def test_the_most_within_limits_holds_and_one_more_does_not(served: Any) -> None:
    case = settle("llama-3.1-8b", **SERVED).case
    most = served.points[-1].concurrency
    held = []
    for count in range(1, most + 1):
        speed = speed_of(case, 4096, count)
        held.append(speed.time_to_first_token_s.estimate <= 1 and speed.time_per_token_s.estimate <= 0.04)
    assert served.within.concurrency == sum(held)
    assert held == sorted(held, reverse=True)
    assert 0 < served.within.sure_concurrency < served.within.concurrency < most


def test_points_say_whether_they_hold(served: Any) -> None:
    for point in served.points:
        if point.holds == "yes":
            assert point.concurrency <= served.within.sure_concurrency
        assert (point.holds != "no") == (point.concurrency <= served.within.concurrency)


def test_limits_that_nothing_holds_give_none() -> None:
    found = fitcalc.curve("llama-3.1-8b", max_tpot=1e-5, **SERVED)
    assert found.within.concurrency == 0
    assert found.within.total_tokens_per_s is None


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 10), st.floats(1, 3))
def test_a_looser_limit_never_holds_fewer(seconds: float, looser: float) -> None:
    case = settle("llama-3.1-8b", **SERVED).case
    few, more = (most_within(case, 4096, 60, Bounds(seconds * factor)).concurrency for factor in (1, looser))
    assert few <= more


def test_a_longer_context_is_slower() -> None:
    found = fitcalc.curve("llama-3.1-8b", over="context", **LOCAL)
    assert [point.context_tokens for point in found.points][-1] == fitcalc.fit(
        "llama-3.1-8b", **LOCAL
    ).limits.max_context_tokens
    for short, long in zip(found.points, found.points[1:], strict=False):
        assert short.prompt_tokens + short.generated_tokens == short.context_tokens
        assert long.request_tokens_per_s.estimate < short.request_tokens_per_s.estimate
        assert long.time_to_first_token_s.estimate > short.time_to_first_token_s.estimate


@pytest.mark.parametrize(
    ("model", "plan"),
    [
        ("llama-3.1-8b", LOCAL),
        ("gemma-3-27b", LOCAL),
        ("llama-3.1-70b", {"gpu": "a100-80:2", "quant": "awq"}),
        ("deepseek-v3", {"gpu": "h200:8", "quant": "fp8"}),
        ("qwen3-30b-a3b", {"gpu": "h100-sxm", "quant": "fp8"}),
    ],
)
def test_arrays_give_what_single_numbers_give(model: str, plan: dict[str, Any]) -> None:
    case = settle(model, **plan).case
    contexts, requests = np.meshgrid(np.array([600, 8192, 30_000]), np.array([1, 5, 64]))
    grid = figures(ready(case, contexts, requests), contexts, requests)
    assert is_fixed(case)
    for place in np.ndindex(contexts.shape):
        context, count = int(contexts[place]), int(requests[place])
        one = figures(ready(case, context, count), context, count)
        for name in ("decode_tokens_per_s", "prefill_tokens_per_s", "first_s", "token_s", "total_tokens_per_s"):
            assert np.broadcast_to(getattr(grid, name), contexts.shape)[place] == pytest.approx(getattr(one, name))


def test_layers_that_move_are_looked_up_at_every_number_of_requests() -> None:
    case = settle("llama-3.1-70b", gpu="rtx-4090", quant="q4_k_m", ram="64GB").case
    assert not is_fixed(case)
    speeds = speeds_along(case, 8192)
    assert speeds(8) == speed_of(case, 8192, 8)


def test_lengths_are_those_asked_for() -> None:
    point = fitcalc.curve("llama-3.1-8b", prompt_tokens=3000, generated_tokens=1000, **SERVED).points[0]
    assert (point.prompt_tokens, point.generated_tokens) == (3000, 1000)
    point = fitcalc.curve("llama-3.1-8b", generated_tokens=4000, **SERVED).points[0]
    assert (point.prompt_tokens, point.generated_tokens) == (96, 4000)
    point = fitcalc.curve("llama-3.1-8b", prompt_tokens=4000, **SERVED).points[0]
    assert (point.prompt_tokens, point.generated_tokens) == (4000, 96)


@pytest.mark.parametrize(
    "options",
    [
        {"over": "layers"}, {"max_ttft": "2"}, {"max_ttft": 0}, {"max_tpot": "fast"}, {"max_tpot": math.inf},
        {"prompt_tokens": 4096}, {"prompt_tokens": 0}, {"over": "context", "prompt_tokens": 100}, {"max_ttft": True},
    ],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        fitcalc.curve("llama-3.1-8b", **SERVED, **options)
    assert caught.value.hint


def test_what_has_no_speed_has_no_curve() -> None:
    with pytest.raises(UnsupportedModelError, match="no estimate of speed"):
        fitcalc.curve("bert-base", gpu="rtx-4090")


def test_a_plan_that_does_not_fit_has_no_points() -> None:
    found = fitcalc.curve("llama-3.1-70b", gpu="rtx-4090", quant="bf16")
    assert (found.verdict, found.points) == ("does_not_fit", ())
    assert "nothing fits" in curve_text(found, Style())
    assert curve_csv(found).count("\n") == 1
    assert "nothing fits" in curve_markdown(found)


@pytest.mark.parametrize("width", [40, 60, 80, 110])
@pytest.mark.parametrize("over", ["concurrency", "context"])
def test_text_stays_within_its_width_and_in_ascii_where_asked(served: Any, over: str, width: int) -> None:
    found = served if over == "concurrency" else fitcalc.curve("llama-3.1-8b", over=over, **LOCAL)
    for blocks in (True, False):
        text = curve_text(found, Style(width, color=False, blocks=blocks))
        assert max(map(len, text.splitlines())) <= width
        assert blocks or text.isascii()


def test_csv_has_a_row_for_every_point(served: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(curve_csv(served))))
    assert [int(row["concurrency"]) for row in rows] == [point.concurrency for point in served.points]
    assert [float(row["total_tokens_per_s_high"]) for row in rows] == [p.total_tokens_per_s.high for p in served.points]
    assert rows[0]["quant"] == "awq"


def test_markdown_has_a_row_for_every_point(served: Any) -> None:
    lines = [line for line in curve_markdown(served).splitlines() if line.startswith("|")]
    assert len(lines) == len(served.points) + 2


def test_json_follows_the_published_schema(served: Any) -> None:
    schema = json.loads((ROOT / "profiles" / "schema" / "curve.json").read_text(encoding="utf-8"))
    jsonschema.validate(served.to_dict(), schema)
    assert json.loads(served.to_json()) == served.to_dict()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--curve"], 0),
        (["--curve", "context", "--csv"], 0),
        (["--curve", "--max-tpot", "10us"], 2),
        (["--curve", "--max-tpot", "0.001ms"], 1),
        (["--max-tpot", "10ms"], 2),
        (["--plot", "a.png"], 2),
        (["--curve", "sideways"], 2),
        (["--curve", "--plot", "a.pdf"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["llama-3.1-8b", "--gpu", "a100-80", "--quant", "awq", *arguments]) == code
    assert bool(capsys.readouterr().out) == (code < 2)


def test_a_plot_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RequestError) as caught:
        require_plot("curve.png")
    assert "fitcalc[plot]" in caught.value.hint


@pytest.mark.extras
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_same_curve_gives_the_same_picture(served: Any, ending: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for path in paths:
        save_plot(served, str(path))
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    with pytest.raises(RequestError, match="cannot write"):
        save_plot(served, str(tmp_path / "missing" / f"a.{ending}"))
