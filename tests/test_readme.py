"""Everything the README shows is run: console blocks give exactly the output printed there, Python blocks run.

`python tests/test_readme.py` writes the console output anew.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
CONSOLE = re.compile(r"(```console\n\$ fitcalc )(?P<arguments>[^\n]*)\n(?P<output>.*?)(```)", re.DOTALL)


def _blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _printed(arguments: str) -> str:
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "fitcalc", *shlex.split(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def _shown() -> list[tuple[str, str]]:
    return [(match["arguments"], match["output"]) for match in CONSOLE.finditer(README.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("arguments", "output"), _shown(), ids=lambda value: value.split("\n")[0][:60])
def test_console_blocks_show_what_is_printed(arguments: str, output: str) -> None:
    assert _printed(arguments) == output


def _in_sentences() -> list[str]:
    """Commands within the text, but for those that change this machine, want a file, or leave a part out."""
    found = re.findall(r"(?<!`)`fitcalc\s([^`]*)`(?!`)", README.read_text(encoding="utf-8"))
    kept_out = re.compile(r"…|--save|my-model|FILE")
    return sorted({" ".join(words.split()) for words in found if not kept_out.search(words)})


@pytest.mark.parametrize("arguments", _in_sentences())
def test_commands_within_sentences_answer(arguments: str) -> None:
    assert _printed(arguments).strip()


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_blocks_run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("profile", _blocks("toml"))
def test_profiles_shown_are_valid(profile: str, tmp_path: Path) -> None:
    relative = profile.splitlines()[0].removeprefix("# ")
    path = tmp_path / relative
    path.parent.mkdir(parents=True)
    path.write_text(profile, encoding="utf-8")
    name = path.stem
    done = subprocess.run(
        [sys.executable, "-m", "fitcalc", "llama-3.1-8b", "--gpu", name, "--profiles", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_two_commands_install_and_test_this_project() -> None:
    setup, tests = _blocks("sh")
    assert "pip install . &&" in setup
    assert _printed(setup.strip().rpartition("fitcalc ")[2]).strip()
    assert "pip install '.[test]' &&" in tests
    assert tests.strip().endswith("python -m pytest")


def test_the_accuracy_table_is_the_one_the_benchmark_prints() -> None:
    sys.path.insert(0, str(README.parent / "benchmarks" / "accuracy"))
    import table

    text = README.read_text(encoding="utf-8")
    assert table.written(text) == text


def rewrite() -> None:
    """Put the present output into the console blocks."""
    text = README.read_text(encoding="utf-8")
    fresh = CONSOLE.sub(lambda m: f"{m[1]}{m['arguments']}\n{_printed(m['arguments'])}{m[4]}", text)
    README.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    rewrite()
