"""The built wheel and sdist: installed in a clean environment they hold the same profiles as the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.distribution

LIST_IDS = (
    "import json, fitcalc.catalog as c; "
    "print(json.dumps({k: list(c.ids(k)) for k in ('models', 'pipelines', 'gpus', 'cpus', 'quants', 'engines')}))"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, capture_output=True)
    return out


def _ids(python: str, folder: Path) -> dict[str, list[str]]:
    listed = subprocess.run([python, "-c", LIST_IDS], check=True, capture_output=True, text=True, cwd=folder).stdout
    ids: dict[str, list[str]] = json.loads(listed)
    return ids


def test_the_wheel_holds_the_package_and_its_profiles_only(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "fitcalc",
        next(n for n in names if "dist-info" in n).split("/")[0],
    }
    assert "fitcalc/py.typed" in names
    shipped = {name for name in names if name.startswith("fitcalc/profiles/")}
    here = {f"fitcalc/{path.relative_to(ROOT)}" for path in (ROOT / "profiles").rglob("*") if path.is_file()}
    assert shipped == here


def test_the_sdist_holds_tests_and_benchmarks_too(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"fitcalc", "profiles", "tests", "benchmarks", "README.md", "LICENSE", "pyproject.toml"} <= tops


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_installed_ids_equal_those_of_the_checkout(built: Path, kind: str, tmp_path: Path) -> None:
    (package,) = built.glob(kind)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", str(package)], check=True)
    assert _ids(python, tmp_path) == _ids(sys.executable, ROOT)
