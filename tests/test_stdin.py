"""fitcalc -: a config.json on standard input, in real processes as a user pipes it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest

import fitcalc
from fitcalc.architectures import from_config
from fitcalc.errors import ModelFileError
from fitcalc.readers.hf_config import LARGEST_CONFIG_BYTES

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
}  # fmt: skip


def piped(content: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "fitcalc", *(arguments or ("-", "--gpu", "rtx-3060", "--json"))]
    return subprocess.run(command, input=content, capture_output=True, timeout=60, check=False)


def test_a_config_that_is_piped_in() -> None:
    done = piped(json.dumps({**LLAMA, "_name_or_path": "me/my-tune"}).encode())
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["model"]
    assert (facts["params_total"], facts["id"]) == (from_config(LLAMA).params_total, "my-tune")
    assert facts["source"] == "standard input"


def test_options_may_stand_before_it_and_a_byte_order_mark_in_it() -> None:
    done = piped(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode(), "--gpu", "rtx-3060", "-", "--json")
    assert json.loads(done.stdout)["model"]["id"] == "llama"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "standard input is empty"),
        (b" \n", "standard input is empty"),
        (b"not json", "standard input: Expecting value"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "holds a list"),
        (b'{"model_type": "llama", "hidden_size": "x"}', "standard input: "),
        (b'{"a": 1, "a": 2}', "appears twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"GGUF" + bytes(40), "weights, not a config.json"),
        (b"\x10" + bytes(7) + b'{"__metadata__"', "weights, not a config.json"),
        (b"{" + b" " * LARGEST_CONFIG_BYTES, "more than 16 MiB"),
    ],
)
def test_anything_else_is_one_line(content: bytes, said: str) -> None:
    done = piped(content, "-", "--gpu", "rtx-3060")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert len(lines) == 2
    assert said in lines[0]
    assert done.stdout == b""


def test_an_endless_pipe_is_not_read_to_its_end() -> None:
    if not os.path.exists("/dev/zero"):
        pytest.skip("no endless file here")
    with open("/dev/zero", "rb") as endless:
        command = [sys.executable, "-m", "fitcalc", "-", "--gpu", "rtx-3060"]
        done = subprocess.run(command, stdin=endless, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"more than 16 MiB" in done.stderr


def test_a_terminal_and_a_closed_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("{}"))
    with pytest.raises(ModelFileError, match="is a terminal") as caught:
        fitcalc.load_model("-")
    assert "fitcalc - < config.json" in caught.value.hint
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ModelFileError, match="is closed"):
        fitcalc.load_model("-")
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(LLAMA)))
    assert fitcalc.load_model("-").layers == 2
