"""fitcalc profiles check: one line for each thing that is wrong with a user's own profiles, of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fitcalc
from fitcalc import catalog
from fitcalc.catalog.files import packaged_folder
from fitcalc.checking import check_profiles
from fitcalc.cli import run
from fitcalc.errors import ProfileError

PACKAGED = Path(packaged_folder())
GOOD = {"models": "llama-3.1-8b", "gpus": "rtx-4090", "cpus": "epyc-9654", "nodes": "dgx-h100", "quants": "awq",
        "engines": "vllm", "pipelines": "sdxl-base"}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("FITCALC_PROFILES", raising=False)
    yield
    catalog.use_folders([])


def put(folder: Path, kind: str, *changes: tuple[str, str], stem: str = "own") -> Path:
    """A packaged profile under another name, with lines that begin like a change's first word replaced."""
    path = folder / kind / f"{stem}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (PACKAGED / kind / f"{GOOD[kind]}.toml").read_text(encoding="utf-8").splitlines()
    for start, text in changes:
        place = next(number for number, line in enumerate(lines) if line.startswith(start))
        lines[place] = text
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_everything_that_is_packaged_passes(tmp_path: Path) -> None:
    for kind in catalog.KINDS:
        (tmp_path / kind).symlink_to(PACKAGED / kind)
    checked, problems = check_profiles(str(tmp_path))
    assert problems == ()
    assert checked == sum(len(catalog.ids(kind)) for kind in catalog.KINDS)


CASES = [
    ("gpus", "memory", 'memory = "24564 GiB"', "memory: no device has 24,564.00 GiB", "unit"),
    ("gpus", "memory", 'memory = "0 GiB"', "memory: no device has 0.00 GiB", "unit"),
    ("gpus", "usable", 'usable = "48 GiB"', "usable: 48.00 GiB are more than its memory", "driver"),
    ("gpus", "bandwidth", 'bandwidth = "1008 B/s"', "bandwidth: no device has", "GB/s"),
    ("gpus", "kind", 'kind = "cpu"', "kind: 'cpu' does not belong into gpus/", "cpus/"),
    ("cpus", "kind", 'kind = "gpu"', "kind: 'gpu' does not belong into cpus/", "gpus/"),
    ("nodes", "device", 'device = "h100-sxmm"', "device: unknown device 'h100-sxmm'", "h100-sxm"),
    ("nodes", "ram", 'ram = "2048 B"', "ram: no host has", "unit"),
    ("nodes", "cards", "cards = 0", "cards: 0 are not divided evenly", "start at 1"),
    ("quants", "engines", 'engines = ["vlm"]', "engines: 'vlm' is no engine", "vllm"),
    ("quants", "block_bytes", "block_bytes = 0", "weight: a block has elements and bytes", "block_bytes = 18"),
    ("engines", "module", 'module = "vlm"', "module: 'vlm' is none of fitcalc's", "vllm"),
    ("engines", "device_kinds", 'device_kinds = ["gppu"]', "device_kinds: 'gppu' is not known", "gpu"),
    ("engines", "quant_kinds", 'quant_kinds = ["lineare"]', "quant_kinds: 'lineare' is not known", "linear"),
    ("engines", "vocab_step", "", "constants.vocab_step is missing", "copy it"),
    ("engines", "block_size", "", "options.block_size is missing", "copy it"),
    ("engines", "version", 'version = "1"\nstarts = "nosuch"', "starts: unknown engine 'nosuch'", "fitcalc engines"),
    ("pipelines", "model", 'model = "nosuch"', "components.0.model: unknown model 'nosuch'", "fitcalc models"),
    ("pipelines", "model", 'model = "sdxl-base-unet"\ncount = 0', "components.0.count: 0", "1 or more"),
    ("models", "params", "params = 8", "params: 8, but the tensors of [config] count 8,030,", "params_published"),
    ("models", "num_hidden_layers", "num_hidden_layer = 32", "num_hidden_layer looks like num_hidden", "not read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "start", "text", "said", "hint"), CASES, ids=[f"{case[0]} {case[3][:30]}" for case in CASES]
)
def test_a_flaw_is_one_line_with_file_field_and_hint(
    tmp_path: Path, kind: str, start: str, text: str, said: str, hint: str
) -> None:
    path = put(tmp_path, kind, (start, text))
    _, problems = check_profiles(str(tmp_path))
    lines = [line for line in problems if said in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{path}: ")
    assert hint in lines[0].partition(said)[2]
    assert "\n" not in lines[0]


def test_an_engine_that_lacks_a_constant_is_refused_when_it_is_used(tmp_path: Path) -> None:
    put(tmp_path, "engines", ("vocab_step", ""))
    catalog.use_folders([str(tmp_path)])
    with pytest.raises(ProfileError, match=r"own\.toml: constants\.vocab_step is missing"):
        fitcalc.fit("llama-3.1-8b", gpu="h100-80", engine="own")


def test_profiles_of_a_folder_may_name_one_another(tmp_path: Path) -> None:
    put(tmp_path, "gpus", ("aliases", "aliases = []"), stem="my-card")
    put(tmp_path, "nodes", ("device", 'device = "my-card"'), stem="my-node")
    put(tmp_path, "models", ("aliases", "aliases = ["), stem="my-model")
    put(tmp_path, "pipelines", ("model", 'model = "my-model"'), stem="my-pipeline")
    put(tmp_path, "cpus", stem="my-cpu")
    put(tmp_path, "quants", stem="my-quant")
    put(tmp_path, "engines", stem="my-engine")
    assert run(["profiles", "check", str(tmp_path)]) == 0
    assert fitcalc.fit("my-model", gpu="my-node", engine="my-engine", quant="my-quant").inputs["engine"] == "my-engine"


def test_two_profiles_with_one_name(tmp_path: Path) -> None:
    put(tmp_path, "gpus", stem="a")
    path = put(tmp_path, "gpus", stem="b")
    _, problems = check_profiles(str(tmp_path))
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: aliases: '4090'")
    assert "also of a" in problems[0]


def test_files_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "gpus", stem="My Card")
    put(tmp_path, "gpus", stem="UPPER")
    (tmp_path / "gpus" / "README.md").write_text("mine")
    (tmp_path / "gpus" / ".hidden.toml").write_text("")
    put(tmp_path, "gpus", stem="fine")
    (tmp_path / "gpuz").mkdir()
    (tmp_path / "gpuz" / "x.toml").write_text("")
    (tmp_path / "schema").mkdir()
    (tmp_path / "loose.toml").write_text("")
    assert run(["profiles", "check", str(tmp_path)]) == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert [line.partition(": not read")[0].rpartition("/")[2] for line in lines] == [
        "My Card.toml",
        "UPPER.toml",
        "gpuz",
        "loose.toml",
    ]
    assert "did you mean gpus/?" in told.err
    assert told.out == "1 profile checked, 4 problems\n"
