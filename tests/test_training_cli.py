"""`fitcalc finetune` as a user meets it: exit codes, text within the terminal, JSON, starter configurations."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fitcalc
from fitcalc.cli import run

ROOT = Path(__file__).parents[1]
COMMANDS = [
    (["llama-3.1-8b", "--method", "qlora", "--gpu", "rtx-3060"], 0),
    (["llama-3.1-8b", "--method", "lora", "--gpu", "rtx-4090", "--seq-len", "4096"], 1),
    (["llama-3.1-70b", "--method", "full", "--gpu", "h100-sxm:16", "--sharding", "zero3"], 0),
    (["llama-3.1-8b", "--method", "lora", "--gpu", "rtx-4090", "--seq-len", "4096", "--loss", "chunked"], 0),
    (["mixtral-8x7b", "-m", "dora", "--gpu", "a100-80:2", "--sharding", "fsdp", "--tokens", "20M"], 0),
    (["bert-base", "--gpu", "rtx-3060"], 3),
    (["llama-3.1-8b", "--gpu", "rtx-3060", "--method", "none"], 2),
    (["llama-3.1-8b", "--gpu", "rtx-3060", "--tokens", "many"], 2),
]


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = run(["finetune", *arguments])
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.mark.parametrize(("arguments", "code"), COMMANDS)
def test_exit_codes(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    found, _, told = _run(arguments, capsys)
    assert found == code, told
    assert "Traceback" not in told


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("arguments", [entry[0] for entry in COMMANDS[:5]], ids=lambda a: " ".join(a))
def test_text_stays_within_the_terminal(
    arguments: list[str], columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    _, shown, told = _run(arguments, capsys)
    wide = [line for line in (shown + told).splitlines() if len(line) > columns]
    assert all(len(line.strip().removesuffix(" \\").split()) <= 2 or columns == 40 for line in wide), wide


@pytest.mark.parametrize("arguments", [entry[0] for entry in COMMANDS[:5]], ids=lambda a: " ".join(a))
def test_json_adds_up_and_follows_its_schema(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    _, shown, told = _run([*arguments, "--json"], capsys)
    assert told == ""
    report: dict[str, Any] = json.loads(shown)
    jsonschema.validate(report, json.loads((ROOT / "profiles" / "schema" / "finetune.json").read_text()))
    assert report["schema_version"] == 1
    assert report["training"]["trainable_params"] > 0
    assert report["limits"]["max_context_tokens"] == report["training"]["max_seq_len"]
    for device in report["devices"]:
        assert device["total_bytes"] == sum(entry["bytes"] for entry in device["terms"])
        assert device["headroom_bytes"] == device["usable_bytes"] - device["total_bytes"]


def test_explain_names_formulas_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    _, shown, _ = _run([*COMMANDS[0][0], "--explain"], capsys)
    for words in ("logits = ", "vocab = 128,256", "profiles/training/trainers/peft.toml", "activations = "):
        assert words in shown


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "dora", "freeze"])
@pytest.mark.parametrize("gpu", ["a100-80", "a100-80:8"])
def test_peft_scripts_are_python_that_says_what_the_plan_says(method: str, gpu: str) -> None:
    sharding = "zero3" if gpu.endswith(":8") else "none"
    report = fitcalc.finetune("llama-3.2-3b", method=method, gpu=gpu, sharding=sharding, emit="peft", seq_len=1024)
    assert report.training is not None
    tree = ast.parse(report.training.starter)
    calls = {
        node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    given = {key.arg: ast.literal_eval(key.value) for key in calls["SFTConfig"].keywords}
    assert given["max_length"] == 1024
    assert given["gradient_checkpointing"] is True
    assert ("LoraConfig" in calls) == (method in ("lora", "qlora", "dora"))
    assert ("BitsAndBytesConfig" in calls) == (method == "qlora")
    assert given.get("deepspeed", {}).get("zero_optimization", {}).get("stage") == (3 if sharding == "zero3" else None)


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["axolotl", "torchtune"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora", "dora"])
def test_other_configurations_are_yaml(form: str, method: str) -> None:
    yaml = pytest.importorskip("yaml")
    report = fitcalc.finetune("llama-3.1-8b", method=method, gpu="h200", emit=form, seq_len=1024)
    assert report.training is not None
    found = yaml.safe_load(report.training.starter)
    if form == "axolotl":
        assert found["sequence_len"] == 1024
        assert found.get("adapter") == {"full": None, "dora": "lora"}.get(method, method)
    else:
        assert found["tokenizer"]["max_seq_len"] == 1024
        assert found["model"]["_component_"].endswith("llama3_1_8b")
        assert found["model"].get("quantize_base", False) == (method == "qlora")


def test_a_configuration_that_does_not_fit_is_replaced_by_one_that_does(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, told = _run([*COMMANDS[1][0], "--emit", "axolotl"], capsys)
    assert code == 1
    assert "chunked_cross_entropy: true" in shown
    assert "loss in pieces" in told


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("falcon-7b", {"method": "lora"}),
        ("llama-3.1-8b", {"method": "freeze"}),
        ("llama-3.1-8b", {"method": "full", "sharding": "zero3", "gpu": "a100-80:8"}),
        ("llama-3.1-8b", {"method": "lora", "optimizer": "adafactor"}),
    ],
)
def test_torchtune_is_refused_what_it_has_not(model: str, values: dict[str, Any]) -> None:
    with pytest.raises(fitcalc.FitcalcError):
        fitcalc.finetune(model, emit="torchtune", **{"gpu": "h200", **values})


def test_a_run_loads_neither_numpy_nor_pydantic() -> None:
    code = (
        "from fitcalc.cli import run; import io, contextlib, sys\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    run(['finetune', 'llama-3.1-8b', '--gpu', 'rtx-3060', '-m', 'qlora'])\n"
        "print([name for name in ('numpy', 'pydantic', 'tabulate') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
