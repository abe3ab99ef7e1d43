"""Profiles turned into specs, cards known by size only, alternatives, lists, and what a plain start may load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fitcalc import catalog
from fitcalc.catalog import building, files
from fitcalc.errors import UnitError
from fitcalc.frozen import asdict
from fitcalc.units import GIB, MIB


@pytest.fixture(autouse=True)
def _no_user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FITCALC_PROFILES", raising=False)
    yield
    catalog.use_folders([])


def test_a_model_is_its_config_under_its_own_name() -> None:
    model = catalog.load_model("llama3.1:70b")
    assert (model.id, model.name, model.layers, model.kv_heads) == ("llama-3.1-70b", "Llama 3.1 70B", 80, 8)
    assert model.params_total == 70_553_706_496
    assert model.hf_repo == "meta-llama/Meta-Llama-3.1-70B"
    assert dict(model.quantized_repos)["awq"].endswith("AWQ-INT4")


def test_a_repository_keeps_its_own_name() -> None:
    model = catalog.load_model("Qwen/Qwen2.5-14B-Instruct")
    assert model.id == "qwen2.5-14b"
    assert model.hf_repo == "Qwen/Qwen2.5-14B-Instruct"
    assert model.quantized_repos == ()


def test_nulls_of_a_config_come_back() -> None:
    content = files.read_toml(catalog.resolve("models", "mistral-7b-instruct-v0.2").path)
    assert "sliding_window" not in content["config"]
    assert building.config_of(content)["sliding_window"] is None
    assert "sliding_window" not in content["config"]
    assert catalog.load_model("mistral-7b-instruct-v0.2").cache_layers[0].kind == "full"
    assert catalog.load_model("mistral-7b-v0.1").cache_layers[0].kind == "sliding"


def test_a_device_in_bytes_and_rates() -> None:
    device = catalog.load_device("a100-80")
    assert device.memory_bytes == 81920 * MIB
    assert device.bandwidth_bytes_per_s == 2039e9
    assert device.fp16_flop_per_s == 312e12
    assert device.compute_capability == "8.0"


def test_a_pipeline_lists_its_components() -> None:
    pipeline = catalog.load_pipeline("stable-diffusion-1.5")
    assert {part.role for part in pipeline.components} >= {"unet", "vae", "text_encoder"}
    assert catalog.resolve("model", "stable-diffusion-1.5").kind == "pipelines"


def test_an_engine_has_its_constants_in_bytes() -> None:
    engine = building.engine_of(
        {
            "name": "x", "module": "x", "version": "1", "device_kinds": [], "vendors": [], "quant_kinds": [],
            "constants": {"base": "1.5 GiB", "steps": {"low": "512 MiB"}, "count": 3, "word": "rows"},
            "kv_types": {"q8_0": [32, 34]},
        },
        "x",
    )  # fmt: skip
    assert engine.constants == {"base": 3 * GIB // 2, "steps": {"low": 512 * MIB}, "count": 3, "word": "rows"}
    assert engine.kv_types == {"q8_0": (32, 34)}


@pytest.mark.parametrize(
    ("text", "total", "kept_mib"),
    [
        ("24GB", 24 * GIB, 660),
        ("24 gib", 24 * GIB, 500),
        ("24564MiB", 24564 * MIB, 500),
        ("80GB", 80 * GIB, 930),
        ("600 MB", 600 * MIB, 100),
    ],
)
def test_a_card_known_by_its_size(text: str, total: int, kept_mib: int) -> None:
    device = catalog.load_device(text)
    assert device.memory_bytes == total
    assert device.usable_bytes == total - kept_mib * MIB
    assert device.id.startswith("custom-")
    assert device.bandwidth_bytes_per_s is None
    assert "no process gets" in device.notes[0]


INLINE_ECC = {"a10", "a10g", "a16", "a2", "a40", "l20", "l4", "l40", "l40s", "p40", "t4"}


def test_a_bare_size_never_promises_more_than_a_card_of_that_size() -> None:
    """Every NVIDIA card in the catalogue, by the size in its name, but for those whose ECC takes a sixteenth."""
    for name in catalog.ids("gpus"):
        card = catalog.load_device(name)
        size = re.search(r"(\d+) ?GB", card.name)
        if card.vendor == "nvidia" and card.kind == "gpu" and size and card.usable_bytes and name not in INLINE_ECC:
            sized = catalog.device_from_size(f"{size[1]}GB")
            assert sized.usable_bytes is not None
            margin = 400 * MIB if name in ("h800-sxm", "rtx-pro-6000-max-q") else 0  # derived, not observed
            assert sized.usable_bytes <= card.usable_bytes + margin, name
            assert sized.usable_bytes >= 0.9 * card.usable_bytes, name
    for name, sold in (("rtx-3090", "24GB"), ("rtx-4090", "24GB"), ("rtx-5090", "32GB"), ("rtx-a6000", "48GB")):
        assert (catalog.device_from_size(sold).usable_bytes or 0) <= (catalog.load_device(name).usable_bytes or 0)


@pytest.mark.parametrize("text", ["24", "GB", "24 XB", "-1GB", ""])
def test_no_card_without_a_unit(text: str) -> None:
    with pytest.raises(UnitError):
        catalog.device_from_size(text)


def test_larger_devices_are_siblings_in_order() -> None:
    names = catalog.larger_devices(catalog.load_device("a10"))
    cards = [catalog.load_device(name) for name in names]
    order = [(round((card.usable_bytes or 0) / GIB), card.list_price_usd or 10**9) for card in cards]
    assert order == sorted(order)
    assert {"a100-80-sxm", "h100-sxm"} <= set(names)
    assert not {"rtx-4090", "mi300x", "t4"} & set(names)


def test_smaller_models_shrink() -> None:
    model = catalog.load_model("llama-3.1-70b")
    names = catalog.smaller_models(model)
    assert 3 <= len(names) <= 40
    assert all(catalog.load_model(name).params_total <= 0.75 * model.params_total for name in names)
    assert names[0] == "llama-3.1-8b"
    assert catalog.smaller_models(catalog.load_model("gemma-3-27b"))[0] == "gemma-3-12b"


def test_rows_of_quantizations_say_what_their_schemes_say() -> None:
    rows = catalog.quant_rows()
    assert tuple(rows) == catalog.ids("quants")
    for name, row in rows.items():
        scheme = catalog.load_scheme(name)
        assert asdict(row) == {field: getattr(scheme, field) for field in asdict(row)}


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_summaries_have_one_row_per_profile(kind: str) -> None:
    rows = catalog.summaries(kind)
    assert [row["id"] for row in rows] == list(catalog.ids(kind))
    assert all(row["name"] for row in rows)


# --- the short path ---------------------------------------------------------------------------------------------------


def _run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONUTF8": "1"}
    ).stdout


def test_packaged_profiles_load_without_pydantic() -> None:
    loaded = _run(
        "import sys\nfrom fitcalc import catalog\ncatalog.load_model('llama3.1:70b'); catalog.load_device('a100')\n"
        "catalog.load_scheme('awq'); catalog.load_engine('vllm')\nprint(*sys.modules)"
    ).split()
    assert not {"pydantic", "pydantic_core", "numpy", "tabulate", "difflib", "click"} & set(loaded)


def test_an_exact_id_opens_one_file() -> None:
    opened = _run(
        "import builtins, sys\nfrom fitcalc import catalog\nimport tomllib, json, fitcalc.architectures.llama\n"
        "real, names = open, []\ndef spy(name, *a, **k):\n    names.append(str(name)); return real(name, *a, **k)\n"
        "builtins.open = spy\ndef told():\n    print(*[name.rpartition('/')[2] for name in names]); names.clear()\n"
        "catalog.load_device('a100-80-sxm'); told()\ncatalog.load_model('llama-3.1-70b'); told()\n"
        "catalog.load_device('a100-40'); told()"
    ).splitlines()
    assert opened == [
        "a100-80-sxm.toml parsed.json",
        "llama-3.1-70b.toml parsed.json",
        "index.json a100-40-sxm.toml parsed.json",
    ]
