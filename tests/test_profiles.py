"""The packaged profiles: forms, names, sources, generated files, and figures held against published ones."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fitcalc import catalog
from fitcalc.catalog import building, files, generated
from fitcalc.catalog.files import packaged_folder, read_toml
from fitcalc.catalog.index import build_index, texts
from fitcalc.catalog.validation import SCHEMA_NAMES, hold_to_form
from fitcalc.errors import ProfileError
from fitcalc.spec.hardware import Device
from fitcalc.units import GIB, MIB

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path(packaged_folder())


def _contents(kind: str) -> dict[str, dict[str, Any]]:
    return {stem: read_toml(str(FOLDER / kind / f"{stem}.toml")) for stem in catalog.ids(kind)}


def _devices(kind: str) -> dict[str, Device]:
    return {stem: building.device_of(content, stem) for stem, content in _contents(kind).items()}


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_every_profile_has_the_form_of_its_kind(kind: str) -> None:
    contents = _contents(kind)
    assert contents
    for stem, content in contents.items():
        hold_to_form(kind, content, stem)
        listed = content["sources"].values() if kind == "prices" else [{"text": content["source"]}]
        assert all(source["text"].strip() for source in listed), f"{kind}/{stem} has no source"
        assert content["name"].strip()


def test_generated_files_are_up_to_date() -> None:
    wanted = texts(str(FOLDER))
    stale = [path for path, text in wanted.items() if (FOLDER / path).read_text(encoding="utf-8") != text]
    assert not stale, f"run python -m fitcalc.catalog: {stale} no longer follow from the profiles and their forms"


def test_packaged_files_are_read_as_toml_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their contents are at hand in a generated file; what was edited since then counts as it stands."""
    for path in FOLDER.rglob("*.toml"):
        assert read_toml(str(path)) == tomllib.loads(path.read_text(encoding="utf-8")), path
    copied = tmp_path / "profiles"
    shutil.copytree(FOLDER, copied)
    for module in (generated, files):
        monkeypatch.setattr(module, "packaged_folder", lambda: str(copied))
    edited = copied / "gpus" / "a10.toml"
    edited.write_text(
        edited.read_text(encoding="utf-8").replace('vendor = "nvidia"', 'vendor = "edited"'), encoding="utf-8"
    )
    assert read_toml(str(edited))["vendor"] == "edited"
    (copied / "parsed.json").unlink()
    assert read_toml(str(copied / "gpus" / "a100-80-sxm.toml"))["vendor"] == "nvidia"


def test_schemas_hold_for_the_profiles() -> None:
    """A second validator: jsonschema against the published schema files."""
    jsonschema = pytest.importorskip("jsonschema")
    for kind, name in SCHEMA_NAMES.items():
        validator = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema" / f"{name}.json").read_text()))
        contents = _contents(kind)
        for stem in list(contents)[:: max(1, len(contents) // 25)]:
            assert validator.is_valid(contents[stem]), f"{kind}/{stem}"
        assert not validator.is_valid({**next(iter(contents.values())), "colour": "red"})


def test_two_profiles_cannot_claim_one_name(tmp_path: Path) -> None:
    for kind in catalog.KINDS:
        (tmp_path / kind).mkdir()
    text = 'name = "x"\nvendor = "v"\nkind = "gpu"\naliases = ["Card-1 GB"]\n'
    (tmp_path / "gpus" / "a.toml").write_text(text)
    (tmp_path / "cpus" / "b.toml").write_text(text.replace("Card-1 GB", "nvidia card1"))
    with pytest.raises(ProfileError, match="both answer to"):
        build_index(str(tmp_path))


def test_files_are_readable_toml_in_unix_lines() -> None:
    for path in FOLDER.rglob("*.toml"):
        raw = path.read_bytes()
        assert b"\r" not in raw
        assert raw.endswith(b"\n")
        assert max(len(line) for line in raw.decode().splitlines()) < 700


# --- models -----------------------------------------------------------------------------------------------------------


def test_configs_equal_the_published_ones_on_every_kept_key() -> None:
    """The digests were taken of the original files' kept keys, not of the profiles."""
    with (GOLDEN / "config_digests.csv").open(encoding="utf-8", newline="") as file:
        digests = {row["slug"]: row["sha256"] for row in csv.DictReader(file)}
    assert len(digests) == 336
    for stem, wanted in digests.items():
        content = read_toml(str(FOLDER / "models" / f"{stem}.toml"))
        text = json.dumps(building.config_of(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == wanted, stem


def test_models_say_how_they_were_counted() -> None:
    for stem, content in _contents("models").items():
        assert "config " in content["source"], stem
        assert "count" in content["source"], stem
        assert "license" not in content, f"{stem}: licences are shipped only where checked"
        assert "released" not in content, f"{stem}: release dates are shipped only where checked"
        active, total = content.get("params_active"), content.get("params")
        assert active is None or 0 < active < total, stem
        assert not ("params" in content and "params_published" in content), stem


def test_published_counts() -> None:
    """Totals that the makers' repositories publish (safetensors metadata)."""
    published = {
        "llama-3.1-70b": 70_553_706_496,
        "llama-3.1-8b": 8_030_261_248,
        "mixtral-8x7b": 46_702_792_704,
        "gpt-oss-20b": 20_914_757_184,
        "qwen2.5-7b": 7_615_616_512,
        "qwen3-30b-a3b": 30_532_122_624,
        "phi-3-mini-4k": 3_821_079_552,
        "gemma-3-27b": 27_432_406_640,
        "deepseek-r1-distill-qwen-32b": 32_763_876_352,
        "codellama-34b": 33_743_970_304,
        "mistral-7b-instruct-v0.2": 7_241_732_096,
    }
    counts = {stem: content.get("params") for stem, content in _contents("models").items()}
    assert {stem: counts[stem] for stem in published} == published


def test_stored_copies_of_tied_heads_are_flagged() -> None:
    flagged = {stem for stem, content in _contents("models").items() if content.get("stores_tied_head")}
    assert {"falcon-7b", "falcon-40b", "falcon-180b", "starcoder-15b", "starcoder2-15b", "qwen3-0.6b"} <= flagged
    assert not flagged & {"gpt2", "gemma-2b", "llama-3.2-1b", "bloom-560m", "qwen3-4b"}


def test_quantized_repositories_are_of_known_quantizations() -> None:
    known = {*catalog.ids("quants"), "gguf"}
    for stem, content in _contents("models").items():
        for quant, repository in content.get("quantized_repos", {}).items():
            assert quant in known, f"{stem}: {quant}"
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", repository), f"{stem}: {repository}"


def test_pipelines_name_known_models() -> None:
    models = set(catalog.ids("models"))
    for stem, content in _contents("pipelines").items():
        assert {part["model"] for part in content["components"]} <= models, stem


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpus", "cpus"])
def test_usable_memory_is_no_more_than_the_total(kind: str) -> None:
    for stem, device in _devices(kind).items():
        assert (device.memory_bytes is None) == (device.usable_bytes is None), stem
        if device.memory_bytes is not None and device.usable_bytes is not None:
            assert 0 < device.usable_bytes <= device.memory_bytes, stem
            assert device.usable_bytes >= 0.3 * device.memory_bytes, stem


def test_sizes_agree_with_the_number_in_the_name() -> None:
    """A card sold as N GB reports 0.93 to 1.01 × N GiB (inline ECC takes 1/16): GB written for GiB shows up here."""
    for stem, device in _devices("gpus").items():
        match = re.search(r"(\d+) ?GB", device.name)
        if match and device.memory_bytes and device.kind == "gpu":
            assert 0.86 <= device.memory_bytes / GIB / int(match[1]) <= 1.01, stem


def test_rates_lie_in_the_range_of_their_kind() -> None:
    for stem, device in _devices("gpus").items():
        assert device.bandwidth_bytes_per_s is not None, stem
        assert 20e9 <= device.bandwidth_bytes_per_s <= 8e12, stem
        assert device.pcie_bytes_per_s is None or 1e9 <= device.pcie_bytes_per_s <= 130e9, stem
        assert device.nvlink_bytes_per_s is None or 20e9 <= device.nvlink_bytes_per_s <= 1.9e12, stem
        for rate in (device.fp32_flop_per_s, device.bf16_flop_per_s, device.fp8_flop_per_s, device.int8_op_per_s):
            assert rate is None or 0.2e12 <= rate <= 6e15, stem
        if device.fp16_fast_flop_per_s:
            assert device.fp16_flop_per_s, stem
            assert 1.9 < device.fp16_fast_flop_per_s / device.fp16_flop_per_s < 2.1, stem
    for stem, device in _devices("cpus").items():
        assert device.bandwidth_bytes_per_s is not None, stem
        assert 2e9 <= device.bandwidth_bytes_per_s <= 1e12, stem
        assert device.read_bandwidth_bytes_per_s is None or (
            device.read_bandwidth_bytes_per_s <= device.bandwidth_bytes_per_s
        ), stem


DATA_SHEETS = [
    # id, driver's MiB, GB/s, dense tensor TFLOP/s with fp32 accumulation, NVLink GB/s in one direction
    ("a100-80-sxm", 81920, 2039, 312, 300),
    ("a100-40-pcie", 40960, 1555, 312, 300),
    ("h100-sxm", 81559, 3350, 989, 450),
    ("h200-sxm", 143771, 4800, 989, 450),
    ("l40s", 46068, 864, 362, None),
    ("l4", 23034, 300, 121, None),
    ("t4", 15360, 320, 65, None),
    ("a10", 23028, 600, 125, None),
    ("v100-32-sxm2", 32768, 900, 125, 150),
    ("rtx-4090", 24564, 1008, 165.2, None),
    ("rtx-3090", 24576, 936, 71, 56.25),
    ("rtx-5090", 32607, 1792, 209.5, None),
    ("rtx-3060-12gb", 12288, 360, 25.5, None),
    ("rtx-6000-ada", 49140, 960, 364.2, None),
    ("mi300x", 196592, 5300, 1307, 448),
    ("rx-7900-xtx", 24560, 960, 122.8, None),
    ("apple-m2-ultra-192gb", 196608, 800, 27.2, None),
    ("apple-m3-max-40-128gb", 131072, 400, 16.4, None),
]


@pytest.mark.parametrize(("name", "memory_mib", "gb_per_s", "tflops", "nvlink"), DATA_SHEETS)
def test_vendor_figures(name: str, memory_mib: int, gb_per_s: float, tflops: float, nvlink: float | None) -> None:
    device = catalog.load_device(name)
    assert device.memory_bytes == memory_mib * MIB
    assert device.bandwidth_bytes_per_s == pytest.approx(gb_per_s * 1e9)
    assert device.fp16_flop_per_s == pytest.approx(tflops * 1e12, rel=0.005)
    assert device.nvlink_bytes_per_s == (None if nvlink is None else pytest.approx(nvlink * 1e9))


LOGGED_TOTALS_GIB = [
    # Lowest and highest total that processes printed under Linux (torch, vLLM, llama.cpp)
    ("a100-80-sxm", 79.14, 79.33),
    ("a100-80-pcie", 79.14, 79.33),
    ("a100-40-sxm", 39.38, 39.49),
    ("h100-sxm", 79.10, 79.33),
    ("h200-sxm", 139.72, 139.81),
    ("b200-sxm", 178.34, 178.36),
    ("a10g", 21.99, 22.19),
    ("a10", 21.99, 22.19),
    ("l4", 21.95, 22.17),
    ("l40s", 44.32, 44.55),
    ("t4", 14.56, 14.76),
    ("v100-16-sxm2", 15.77, 15.78),
    ("v100-32-sxm2", 31.74, 31.75),
    ("rtx-3090", 23.55, 23.69),
    ("rtx-4090", 23.64, 23.65),
    ("rtx-5090", 31.36, 31.37),
    ("rtx-3060-12gb", 11.65, 11.76),
    ("rtx-5060-ti-16gb", 15.46, 15.48),
    ("rtx-4070-laptop", 7.62, 7.65),
    ("rtx-a6000", 47.54, 47.54),
    ("rx-7900-xtx", 23.98, 23.99),
    ("mi300x", 191.45, 191.98),
    ("dgx-spark", 121.63, 121.69),
    ("apple-m1-16gb", 10.66, 10.67),
    ("apple-m2-ultra-192gb", 161.27, 161.29),
]


@pytest.mark.parametrize(("name", "lowest", "highest"), LOGGED_TOTALS_GIB)
def test_usable_memory_is_what_processes_saw(name: str, lowest: float, highest: float) -> None:
    device = catalog.load_device(name)
    assert device.usable_bytes is not None
    assert device.usable_bytes <= (lowest + 0.01) * GIB
    assert device.usable_bytes >= 0.97 * highest * GIB
    assert device.usable_basis == "observed"


def test_derived_memory_says_so() -> None:
    for kind in ("gpus", "cpus"):
        for stem, content in _contents(kind).items():
            if content.get("usable_basis") == "derived" and content["memory_basis"] != "stated":
                assert content.get("notes"), f"{kind}/{stem} does not say how its usable memory was derived"


def test_consumer_cards_plan_with_fp32_accumulation() -> None:
    """GeForce cards since Turing halve the tensor rate with fp32 accumulation; workstation cards do not."""
    for stem, device in _devices("gpus").items():
        if device.vendor == "nvidia" and stem.startswith("rtx-") and device.segment in ("consumer", "laptop"):
            assert device.fp16_fast_flop_per_s, stem
        elif device.vendor == "nvidia" and device.segment in ("datacenter", "workstation"):
            assert device.fp16_fast_flop_per_s is None, stem


def test_devices_of_every_class_are_there() -> None:
    kinds = {device.kind for device in _devices("gpus").values()}
    assert kinds == {"gpu", "unified", "accelerator"}
    segments = {device.segment for device in _devices("cpus").values()}
    assert {"sbc", "mini", "laptop", "desktop", "workstation", "server", "cloud"} <= segments
    assert len(catalog.ids("gpus")) >= 227


def test_servers_leave_their_memory_open() -> None:
    for stem in ("epyc-9554", "xeon-8480-spr", "threadripper-7980x"):
        assert catalog.load_device(stem).memory_bytes is None


def test_packaged_folder_is_the_checkouts() -> None:
    assert os.path.samefile(FOLDER, Path(__file__).parents[1] / "profiles")
