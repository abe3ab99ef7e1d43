"""recommend: seed questions with the answers experts give, and laws: `fit` agrees, nothing better was left out, money
never hurts, order does not matter."""

from __future__ import annotations

import csv
import json
import random
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import fitcalc
from fitcalc import catalog
from fitcalc.cli import run
from fitcalc.errors import FitcalcError, ProfileError, RequestError, UnsupportedModelError
from fitcalc.render.recommend_text import recommend_csv, recommend_text
from fitcalc.render.style import Style
from fitcalc.selection import recommend
from fitcalc.spec.selection import Plan, RecommendReport

GOLDEN = Path(__file__).parent / "golden" / "recommendations.csv"
QUESTIONS = list(csv.DictReader(GOLDEN.read_text(encoding="utf-8").splitlines()))
CARDS = ["rtx-3060:2", "rtx-4090:2", "a100-80:2", "apple-m4-max-40-64gb", "rx-7900-xtx"]


def _arguments(text: str) -> dict[str, Any]:
    pairs = dict(part.split("=", 1) for part in text.split(";"))
    return {name: float(value) if name in ("budget",) else value for name, value in pairs.items()} | (
        {"offline": True} if "offline" in pairs else {}
    )


def _key(plan: Plan) -> tuple[float, float, float]:
    """Loss, cost and speed, each smaller is better; what nobody knows is worst."""
    loss = plan.perplexity_rise.estimate if plan.perplexity_rise else float("inf")
    cost = float("inf") if plan.cost_usd_per_h is None else plan.cost_usd_per_h
    return loss, cost, -(plan.tokens_per_s.estimate if plan.tokens_per_s else 0.0)


def _beats(key: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """No worse in anything and clearly better in one."""
    return all(a <= b * (1 + 1e-9) if b >= 0 else a <= b * (1 - 1e-9) for a, b in zip(key, other, strict=True)) and any(
        a < b - 1e-6 * abs(b) for a, b in zip(key, other, strict=True)
    )


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row["question"])
def test_seed_questions_have_the_answers_of_experts(row: dict[str, str]) -> None:
    arguments, wanted = _arguments(row["argument"]), row["expected"].split("|")
    if row["command"] == "which":
        names = {one.model for one in fitcalc.which(**arguments).models if one.runs_well}
        assert set(wanted) <= names
        return
    found = recommend(arguments.pop("model"), **arguments).recommended
    assert found is not None
    assert found.verdict == "fits"
    if row["expected_key"] == "slower_than":
        assert found.tokens_per_s is not None
        assert found.tokens_per_s.estimate < float(row["expected"])
    else:
        assert getattr(found, row["expected_key"]) in wanted


@pytest.mark.parametrize(
    ("model", "limits"),
    [
        ("llama-3.1-8b", {"gpu": CARDS}),
        ("qwen3-30b-a3b", {"gpu": CARDS, "concurrency": 8, "context": 16384}),
        ("llama-3.1-70b", {"quality": "high", "max_price": 6.0}),
        ("gemma-2-9b", {"cpu": "raspberry-pi-5-8gb", "gpu": "24GB"}),
    ],
)
def test_fit_says_of_every_plan_what_was_recommended(
    model: str, limits: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = recommend(model, **limits)
    assert report.choices
    for plan in report.choices:
        code = run([*shlex.split(plan.ask)[1:], "--json"])
        said = json.loads(capsys.readouterr().out)
        assert (code, said["verdict"]) == (0, "fits")
        assert (said["inputs"]["quant"], said["inputs"]["engine"]) == (plan.quant, plan.engine)
        assert said["inputs"]["tensor_parallel"] == plan.tensor_parallel
        assert max(device["total_bytes"] for device in said["devices"]) == plan.total_bytes
        assert said["limits"]["max_context_tokens"] == plan.max_context_tokens
        if plan.ask == report.choices[0].ask:
            assert said["recommendation"]["command"] == report.command


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_no_plan_that_fit_accepts_beats_the_recommended_one(model: str) -> None:
    """Every combination by `fit` itself, without the search: none is better than what stands on the front."""
    cards = ["rtx-4090", "rtx-4090:2", "rtx-3060", "a100-80"]
    report = recommend(model, gpu=["rtx-4090:2", "rtx-3060", "a100-80"])
    prices = {plan.devices_name: plan.cost_usd_per_h for plan in report.front}
    fronts = [_key(plan) for plan in report.front]
    for card, engine, quant in product(cards, ("vllm", "llama.cpp"), ("bf16", "fp8", "awq", "q8_0", "q4_k_m")):
        try:
            found = fitcalc.fit(model, gpu=card, quant=quant, engine=engine)
        except FitcalcError:
            continue
        cost = prices.get(found.inputs["devices_name"])
        rise, speed = found.quality and found.quality.perplexity_rise, found.speed.decode_tokens_per_s
        if found.verdict != "fits" or cost is None or rise is None or speed is None:
            continue
        key = (rise.estimate, cost, -speed.estimate)
        assert not any(_beats(key, other) for other in fronts), (card, engine, quant)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b"])
def test_bounds_leave_nothing_out(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front is the same when every plan is evaluated in full."""
    names = ["rtx-3060:4", "rtx-4090:8", "h100-sxm:8", "rx-7900-xtx:4", "apple-m3-ultra-256gb", "mi300x:2", "l4:8"]
    limits: dict[str, Any] = {"gpu": names, "concurrency": 4}
    quick = recommend(model, **limits)
    monkeypatch.setattr("fitcalc.selection.search.most_tokens_per_s", lambda *_: float("inf"))
    assert recommend(model, **limits).front == quick.front


def test_nothing_on_the_front_beats_another() -> None:
    keys = [_key(plan) for plan in recommend("llama-3.1-8b", gpu=CARDS).front]
    assert len(keys) > 5
    assert not any(_beats(one, other) for one in keys for other in keys)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(150, 60_000), min_size=2, max_size=2).map(sorted), st.sampled_from(["usd", "usd_per_h"]))
def test_more_money_never_gives_a_worse_front(budgets: list[int], kind: str) -> None:
    small, large = (
        recommend("mistral-7b-v0.3", gpu=CARDS, **{"budget": money} if kind == "usd" else {"max_price": money / 5000})
        for money in budgets
    )
    for plan in small.front:
        assert any(all(a <= b for a, b in zip(_key(other), _key(plan), strict=True)) for other in large.front)
    if small.recommended:
        assert large.recommended is not None
        assert _key(large.recommended)[0] <= _key(small.recommended)[0]


def test_the_order_of_profiles_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    first = recommend("llama-3.2-3b", quality="high", budget=800)
    listed = catalog.ids

    def shuffled(kind: str) -> tuple[str, ...]:
        names = list(listed(kind))
        random.Random(7).shuffle(names)
        return tuple(names)

    monkeypatch.setattr(catalog, "ids", shuffled)
    again = recommend("llama-3.2-3b", quality="high", budget=800)
    assert (again.front, again.recommended, again.rejected) == (first.front, first.recommended, first.rejected)


def test_offline_leaves_only_local_engines_and_bought_machines() -> None:
    report = recommend("llama-3.1-8b", offline=True, quality="medium")
    assert {plan.engine for plan in report.front} <= {"llama.cpp", "mlx"}
    assert all(plan.usd is not None or plan.cost_usd_per_h is None for plan in report.front)
    with pytest.raises(RequestError):
        recommend("llama-3.1-8b", gpu="a100-80", engine="vllm", offline=True)


def test_limits_hold_for_every_plan() -> None:
    report = recommend("llama-3.1-8b", max_price=2.0, min_speed=40, max_ttft="1s", quality="high", concurrency=4)
    assert report.front
    for plan in report.front:
        assert plan.usd_per_h is not None
        assert plan.usd_per_h <= 2
        assert plan.tokens_per_s is not None
        assert plan.tokens_per_s.estimate >= 40
        assert plan.time_to_first_token_s is not None
        assert plan.time_to_first_token_s.estimate <= 1
        assert plan.quality in ("high", "lossless")


def test_the_cache_shrinks_only_where_nothing_else_fits() -> None:
    """At 98,304 tokens the cache takes 12 GiB in 16 bit and 6.4 in 8: beside 4.6 of weights only that fits 15.6."""
    report = recommend("llama-3.1-8b", gpu="rtx-4080", context=98304, quant="q4_k_m")
    assert report.recommended is not None
    assert report.recommended.kv_dtype == "q8_0"
    assert recommend("llama-3.1-8b", gpu="rtx-4090", context=8192, quant="q4_k_m").choices[0].kv_dtype == "fp16"


def test_own_prices_win(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[[devices]]\nid = "rtx-3090"\ncount = 2\nusd = 650\n\n[[devices]]\nid = "raspberry-pi-5-8gb"\n')
    report = recommend("llama-3.1-8b", gpus_from=mine)
    prices = {plan.devices_name: plan.usd for plan in report.front if "3090" in plan.devices_name}
    assert set(prices.values()) <= {650.0, 1300.0}
    assert prices
    for wrong in (
        "x = 1\n",
        "[[devices]]\nid = 3\n",
        '[[devices]]\nid = "rtx-3090"\nusd = -1\n',
        "[[devices]]\nname=''\n",
    ):
        mine.write_text(wrong)
        with pytest.raises(ProfileError):
            recommend("llama-3.1-8b", gpus_from=mine)


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"budget": -1}, {"quality": "best"}, {"concurrency": 0}, {"min_speed": float("nan")}, {"gpu": 3}):
        with pytest.raises(RequestError):
            recommend("llama-3.1-8b", **wrong)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError):
        recommend("sdxl-base", gpu="rtx-4090")


def test_the_views_of_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = recommend("llama-3.1-70b", gpu=["a100-80:4", "rtx-3090:8"])
    assert all(len(line) <= 80 for line in recommend_text(report, Style(80)).splitlines())
    rows = list(csv.DictReader(recommend_csv(report).splitlines()))
    assert [row["ask"] for row in rows] == [plan.ask for plan in report.front]
    assert sum(int(row["recommended"]) for row in rows) == 1
    assert TypeAdapter(RecommendReport).validate_json(report.to_json()).to_dict() == report.to_dict()
    assert run(["recommend", "llama-3.1-70b", "--gpu", "rtx-3060", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["recommended"] is None
    assert run(["recommend", "llama-3.1-8b", "--quality", "none"]) == 2
