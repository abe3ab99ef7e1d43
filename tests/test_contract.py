"""The contract of the command line: exit codes, streams, JSON shape. Real processes, as a user runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[1]


def fitcalc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, at 80 columns, without colour."""
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment}
    env.pop("FITCALC_TRACEBACK", None)
    return subprocess.run(
        [sys.executable, "-m", "fitcalc", *arguments], capture_output=True, text=True, env=env, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq"], 0),
        (["llama-3.1-70b", "--gpu", "a100-80", "--quant", "fp16"], 1),
        (["llama-3.1-8b", "--gpu", "tpu-v5e"], 3),
        (["lama-3.1-70b", "--gpu", "a100-80"], 2),
        (["llama-3.1-70b", "--gpu", "a100-81"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80", "--quant", "q9"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80", "--context", "-3"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80", "--concurrency", "0"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80:0"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80:x"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80", "-o", "max_num_seqs"], 2),
        (["llama-3.1-70b", "--gpu", "a100-80", "-o", "max_num_sequences=4"], 2),
        (["./missing/config.json", "--gpu", "a100-80"], 2),
        (["llama-3.1-70b", "--no-such-option"], 2),
        (["llama-3.1-8b", "--cpu", "epyc-9654"], 2),
        (["--help"], 0),
        (["--version"], 0),
        ([], 0),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    done = fitcalc(*arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lama-3.1-70b", "--gpu", "a100-80"], ["lama-3.1-70b", "llama-3.1-70b"]),
        (["llama-3.1-70b", "--gpu", "a100-81"], ["a100-81", "a100-80"]),
        (["llama-3.1-70b", "--gpu", "a100-80", "--quant", "q9"], ["q9"]),
        (["llama-3.1-70b", "--gpu", "a100-80", "--context", "-3"], ["-3", "tokens"]),
        (["./missing/config.json", "--gpu", "a100-80"], ["missing/config.json"]),
    ],
)
def test_bad_input_gets_one_line_and_a_hint(arguments: list[str], words: list[str]) -> None:
    done = fitcalc(*arguments)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in done.stderr


def test_an_error_is_json_with_json() -> None:
    done = fitcalc("lama-3.1-70b", "--gpu", "a100-80", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)
    assert error["schema_version"] == 1
    assert error["error"]["code"] == "unknown_name"
    assert done.stderr == ""


REPORTS = [
    ["falcon-180b", "--gpu", "a100-40:4", "--quant", "gptq"],
    ["llama-3.1-8b", "--gpu", "rtx-3060"],
    ["llama-3.1-8b", "--cpu", "raspberry-pi-4-4gb"],
    ["deepseek-v3", "--gpu", "h200:8", "--quant", "fp8", "--explain"],
]


def _report(arguments: list[str]) -> dict[str, Any]:
    done = fitcalc(*arguments, "--json")
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("arguments", REPORTS, ids=lambda a: " ".join(a))
def test_json_follows_the_published_schema(arguments: list[str]) -> None:
    schema = json.loads((ROOT / "profiles" / "schema" / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(_report(arguments), schema)


@pytest.mark.parametrize("arguments", REPORTS, ids=lambda a: " ".join(a))
def test_json_adds_up(arguments: list[str]) -> None:
    report = _report(arguments)
    assert report["schema_version"] == 1
    for device in report["devices"]:
        terms = device["terms"]
        assert device["total_bytes"] == sum(term["bytes"] for term in terms)
        assert all(isinstance(term["bytes"], int) for term in terms)
        assert all(0 <= term["low_bytes"] <= term["bytes"] <= term["high_bytes"] for term in terms)
        if device["usable_bytes"] is not None:
            assert device["headroom_bytes"] == device["usable_bytes"] - device["total_bytes"]


def test_schema_version_1_only_grows() -> None:
    """The fields promised by schema_version 1, written down once: none may go or change its type."""
    promised = {
        "inputs": dict, "model": dict, "verdict": str, "weights_bytes": int, "checkpoint_bytes": int, "kv_cache": dict,
        "devices": list, "limits": dict, "speed": dict, "recommendation": dict, "notes": list,
        "schema_version": int, "fitcalc_version": str,
    }  # fmt: skip
    report = _report(REPORTS[0])
    for name, kind in promised.items():
        assert isinstance(report[name], kind), name
    assert {"bytes_per_token", "bytes"} <= set(report["kv_cache"])
    assert {"max_context_tokens", "max_concurrency", "kv_cache_tokens"} <= set(report["limits"])
    names = {"decode_tokens_per_s", "prefill_tokens_per_s", "time_to_first_token_s", "total_tokens_per_s"}
    assert names <= set(report["speed"])
    device = {"id", "rank", "capacity_bytes", "usable_bytes", "total_bytes", "headroom_bytes", "terms"}
    assert device <= set(report["devices"][0])
    term = {"name", "bytes", "low_bytes", "high_bytes", "basis", "formula", "inputs"}
    assert term <= set(report["devices"][0]["terms"][0])
    inputs = {"model", "quant", "kv_dtype", "engine", "context_tokens", "concurrency", "devices", "tensor_parallel"}
    assert inputs <= set(report["inputs"])
    facts = {"id", "name", "params_total", "params_active", "layers", "hidden", "heads", "kv_heads", "head_dim"}
    assert facts | {"attention", "max_context_tokens"} <= set(report["model"])


def test_the_result_is_on_stdout_and_notes_on_stderr() -> None:
    done = fitcalc("llama-3.1-8b", "--gpu", "rtx-3060")
    assert "FITS" in done.stdout
    assert all(line.startswith(("note: ", " " * 6)) for line in done.stderr.splitlines())


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_notes_and_the_table_of_quantizations_stay_within_the_terminal(columns: int) -> None:
    done = fitcalc("llama-3.1-8b", "--gpu", "24GB", COLUMNS=str(columns))
    assert done.stderr.startswith("note: ")
    assert all(len(line) <= columns for line in done.stderr.splitlines())
    table = done.stdout.partition("  quantization")[2].partition("\n\n")[0].splitlines()
    assert len(table) > 2
    assert all(len(line) <= columns for line in table[1:])
    assert ("largest context" in table[0]) == (columns >= 60)
    assert " card" in table[0] or columns < 80


def test_words_follow_their_counts() -> None:
    done = fitcalc("qwen2.5-0.5b", "--gpu", "rtx-3060", "--quant", "bf16", "--context", "1", "--concurrency", "1000")
    assert "1 token × 1,000 requests" in done.stdout
    assert "1 tokens" not in done.stdout.partition("  because")[0]


def test_an_estimate_and_its_range_have_one_unit() -> None:
    done = fitcalc("qwen2.5-0.5b", "--cpu", "raspberry-pi-5-8gb", "--quant", "q4_k_m", "--context", "64")
    found = re.findall(r"([\d.]+) MiB +([\d.,]+)–([\d.,]+)(.{4})", done.stdout)
    assert all(unit == " MiB" for *_, unit in found)
    for estimate, low, high, _ in found:
        assert float(low.replace(",", "")) - 1 <= float(estimate) <= float(high.replace(",", "")) + 1


def test_a_card_of_several_shows_its_share_and_not_the_whole_product() -> None:
    several = fitcalc("llama-3.1-70b", "--gpu", "a100-80:8", "--quant", "fp16").stdout
    assert "its share of 320 KiB per token" in several
    assert "KiB per token × " not in several
    alone = fitcalc("llama-3.1-70b", "--gpu", "h200", "--quant", "fp8").stdout
    assert "320 KiB per token × 8,192 × 1" in alone


@pytest.mark.parametrize(
    ("device", "title"),
    [
        (["--gpu", "rtx-3060"], "on card"),
        (["--gpu", "a100-80:2"], "per card"),
        (["--cpu", "raspberry-pi-5-8gb"], "total"),
        (["--gpu", "apple-m1-max-32gb"], "total"),
    ],
)
def test_the_table_says_what_its_total_is_of(device: list[str], title: str) -> None:
    head = fitcalc("llama-3.2-1b", *device).stdout.partition("  quantization")[2].splitlines()[0]
    assert head.split("weights")[1].split("largest")[0].strip() == title


def test_markdown_has_headroom_choices_reasons_and_alternatives() -> None:
    arguments = ["llama-3.1-8b", "--gpu", "rtx-3060"]
    text, report = fitcalc(*arguments, "--markdown").stdout, _report(arguments)
    assert "| headroom " in text
    for reason in report["recommendation"]["reasons"]:
        assert f"- {reason}" in text
    for other in report["recommendation"]["alternatives"]:
        assert f"- {other['summary']}" in text
    for row in report["choices"]:
        assert f"| {row['quant']} " in text


def test_own_profiles_may_be_named_before_the_command(tmp_path: Path) -> None:
    usual = fitcalc("devices", "h200", "--profiles", str(tmp_path))
    for before in (["--profiles", str(tmp_path)], [f"--profiles={tmp_path}"]):
        done = fitcalc(*before, "devices", "h200")
        assert (done.returncode, done.stdout) == (0, usual.stdout)
    assert fitcalc("--profiles", str(tmp_path), "llama-3.1-8b", "--gpu", "h200").returncode == 0


def test_a_check_of_nothing_says_where_it_looked(tmp_path: Path) -> None:
    done = fitcalc("profiles", "check", XDG_CONFIG_HOME=str(tmp_path), FITCALC_PROFILES="")
    assert done.returncode == 0
    assert str(tmp_path / "fitcalc" / "profiles") in done.stderr
    assert str(tmp_path) in fitcalc("profiles", "check", str(tmp_path)).stderr


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("fitcalc llama-3.1-7", "1", "llama-3.1-70b"),
        ("fitcalc dev", "1", "devices"),
        ("fitcalc --quan", "1", "--quant"),
    ],
)
def test_completion_knows_commands_models_and_options(words: str, place: str, expected: str) -> None:
    asked = {"_FITCALC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": place}
    assert f"plain,{expected}" in fitcalc(**asked).stdout.splitlines()


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_text_stays_within_the_terminal(columns: str) -> None:
    done = fitcalc("llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq", COLUMNS=columns)
    limit = max(int(columns), 40)
    shell = [line for line in done.stdout.splitlines() if len(line) > limit]
    # Only a single word that cannot be broken (an option with its value) may be longer.
    assert all(len(line.strip().removesuffix(" \\").split()) <= 2 for line in shell), shell


def test_no_colour_in_a_pipe_and_ascii_where_the_terminal_wants_it() -> None:
    done = fitcalc("llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq")
    assert "\x1b[" not in done.stdout
    done = fitcalc("llama-3.1-70b", "--gpu", "a100-80", "--quant", "awq", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m fitcalc models | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


FIT = "llama-3.1-8b --gpu rtx-3060 --quant q4_k_m"


def _shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of bash, with `fitcalc` in it meaning this one."""
    here = command.replace("fitcalc", f"{sys.executable} -m fitcalc")
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment}
    return subprocess.run(["bash", "-c", here], capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize("form", ["", "--json", "--csv", "--explain"])
def test_a_reader_that_has_gone_is_not_does_not_fit(form: str) -> None:
    done = _shell(f"fitcalc {FIT} {form} 2>/dev/null | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout == "0\n"
    assert "Traceback" not in _shell(f"fitcalc {FIT} {form} | true").stderr


@pytest.mark.parametrize(("quant", "code"), [("q4_k_m", 0), ("fp32", 1)])
def test_a_closed_output_leaves_the_verdict_in_the_exit_code(quant: str, code: int) -> None:
    done = _shell(f"fitcalc llama-3.1-8b --gpu rtx-3060 --quant {quant} >&-")
    assert done.returncode == code
    assert "error" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
@pytest.mark.parametrize("arguments", [FIT, f"{FIT} --json", "models", "no-such-model --json"])
def test_an_output_that_is_full_is_one_line(arguments: str) -> None:
    done = _shell(f"fitcalc {arguments} >/dev/full")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: cannot write: No space left on device"


@pytest.mark.parametrize("listing", ["models", "devices", "quants", "engines"])
def test_listings_as_text_and_json(listing: str) -> None:
    as_json = json.loads(fitcalc(listing, "--json").stdout)
    assert len(as_json[listing]) > 2
    first = as_json[listing][0]["id"]
    text = fitcalc(listing).stdout
    assert first in text


@pytest.mark.parametrize("command", [[], ["fit"], ["models"], ["devices"], ["quants"], ["engines"], ["profiles"]])
def test_every_command_explains_itself(command: list[str]) -> None:
    done = fitcalc(*command, "--help")
    assert done.returncode == 0
    assert "--help" in done.stdout


def test_csv_has_a_row_per_term() -> None:
    import csv
    import io

    rows = list(csv.DictReader(io.StringIO(fitcalc("llama-3.1-8b", "--gpu", "rtx-3060", "--csv").stdout)))
    report = _report(["llama-3.1-8b", "--gpu", "rtx-3060"])
    assert len(rows) == sum(len(device["terms"]) for device in report["devices"])
    assert sum(int(row["bytes"]) for row in rows) == sum(device["total_bytes"] for device in report["devices"])
