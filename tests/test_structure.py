"""Who may import whom, and what a start may load. Module names are checked, never milliseconds."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fitcalc"

BASE = {"errors", "units", "frozen", "same", "ledger"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "frozen": set(),
    "same": set(),
    "ledger": {"frozen"},
    "spec": BASE | {"spec"},
    "formulas": {"units", "formulas"},
    "architectures": BASE | {"spec", "architectures"},
    "quantization": BASE | {"spec", "formulas", "quantization"},
    "readers": BASE | {"spec", "architectures", "quantization", "catalog", "readers"},
    "catalog": BASE | {"spec", "architectures", "quantization", "catalog"},
    "engines": BASE | {"spec", "formulas", "quantization", "engines"},
    "detection": BASE | {"spec", "catalog", "machine", "detection"},
    "emission": BASE | {"spec", "catalog", "engines", "render", "emission"},
    "training": BASE
    | {"spec", "formulas", "quantization", "catalog", "engines", "machine", "verdict"}
    | {"arguments", "prices", "api", "reporting", "sources", "training"},
    "render": {"errors", "frozen", "units", "ledger", "spec", "render"},
}


def _owner(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imported(path: Path) -> set[str]:
    owners: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "fitcalc":
            names = [f"fitcalc.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        owners |= {name.split(".")[1] for name in names if name.startswith("fitcalc.")}
    return owners


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_import_direction(path: Path) -> None:
    owner = _owner(path)
    imported = _imported(path)
    if owner in MAY_IMPORT:
        assert imported <= MAY_IMPORT[owner], f"{path.name} imports {sorted(imported - MAY_IMPORT[owner])}"
    if owner not in ("cli", "__main__"):
        assert "cli" not in imported


def _modules_after(code: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ).stdout
    return {line.split(".")[0] for line in listing.splitlines()}


HEAVY = {"numpy", "pydantic", "pydantic_core", "tabulate"}


def test_help_loads_click_alone() -> None:
    code = (
        "from fitcalc.cli import run; import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()): run(['--help'])"
    )
    loaded = _modules_after(code)
    assert "click" in loaded
    assert not loaded & (HEAVY | {"tomllib"})


def test_one_fit_and_its_text_load_neither_numpy_nor_pydantic_nor_tabulate() -> None:
    code = (
        "from fitcalc.cli import run; import io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    run(['llama-3.1-70b', '--gpu', 'a100-80', '--quant', 'awq'])"
    )
    assert not _modules_after(code) & HEAVY


def test_completion_of_names_loads_click_alone() -> None:
    code = (
        "from fitcalc.cli.options import names_completion; import click\n"
        "assert [item.value for item in names_completion('models')(None, None, 'llama-3.1-7')]"
    )
    assert not _modules_after(code) & HEAVY


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    listing = subprocess.run(
        [sys.executable, "-c", "import fitcalc, sys; print([m for m in sys.modules if m.startswith('fitcalc.')])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listing.strip() == "[]"
