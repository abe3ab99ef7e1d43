"""Finding profiles by the names people type, user folders, and files that are not what they should be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc import catalog
from fitcalc.catalog import files, forms
from fitcalc.catalog.names import canonical, canonical_device
from fitcalc.errors import FitcalcError, ProfileError, UnitError, UnknownNameError
from fitcalc.units import GIB, MIB

TYPED_MODELS = {
    # repositories
    "meta-llama/Llama-3.1-70B-Instruct": "llama-3.1-70b-instruct",
    "meta-llama/Meta-Llama-3.1-70B-Instruct": "llama-3.1-70b-instruct",
    "meta-llama/Meta-Llama-3.1-70B": "llama-3.1-70b",
    "meta-llama/Llama-3.1-8B": "llama-3.1-8b",
    "meta-llama/Meta-Llama-3-8B-Instruct": "llama-3-8b",
    "meta-llama/Llama-2-7b-chat-hf": "llama-2-7b",
    "meta-llama/Llama-3.2-3B-Instruct": "llama-3.2-3b",
    "meta-llama/Llama-3.3-70B-Instruct": "llama-3.3-70b",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    "Qwen/Qwen2.5-72B-Instruct": "qwen2.5-72b",
    "Qwen/Qwen2.5-Coder-32B-Instruct": "qwen2.5-32b",
    "Qwen/Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b",
    "mistralai/Mistral-7B-Instruct-v0.1": "mistral-7b-v0.1",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral-7b-instruct-v0.2",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-7b-v0.3",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mixtral-8x7b",
    "google/gemma-2-9b-it": "gemma-2-9b",
    "google/gemma-3-27b-it": "gemma-3-27b",
    "microsoft/Phi-3-mini-4k-instruct": "phi-3-mini-4k",
    "microsoft/phi-4": "phi-4",
    "openai/gpt-oss-20b": "gpt-oss-20b",
    "deepseek-ai/DeepSeek-R1": "deepseek-r1",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": "deepseek-r1-distill-qwen-32b",
    "deepseek-ai/DeepSeek-V3-0324": "deepseek-v3",
    "tiiuae/falcon-7b-instruct": "falcon-7b",
    "codellama/CodeLlama-13b-Instruct-hf": "codellama-13b",
    "huggyllama/llama-7b": "llama-1-7b",
    "openai/whisper-large-v3": "whisper-large-v3",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "tinyllama-1.1b",
    "google-bert/bert-base-uncased": "bert-base",
    # Ollama
    "llama3.1:70b": "llama-3.1-70b",
    "llama3.1:8b": "llama-3.1-8b",
    "llama3.2:1b": "llama-3.2-1b",
    "llama3:8b": "llama-3-8b",
    "llama2:13b": "llama-2-13b",
    "qwen2.5:7b": "qwen2.5-7b",
    "qwen2.5-coder:7b": "qwen2.5-7b",
    "qwen3:30b": "qwen3-30b-a3b",
    "gemma3:27b": "gemma-3-27b",
    "gemma2:2b": "gemma-2-2b",
    "gemma:2b": "gemma-2b",
    "mixtral:8x7b": "mixtral-8x7b",
    "deepseek-r1:671b": "deepseek-r1",
    "deepseek-r1:32b": "deepseek-r1-distill-qwen-32b",
    "gpt-oss:120b": "gpt-oss-120b",
    "phi3:mini": "phi-3-mini-4k",
    "codellama:13b": "codellama-13b",
    "mistral-nemo": "mistral-nemo-12b",
    "falcon:40b": "falcon-40b",
    # short forms
    "llama3.1-70b": "llama-3.1-70b",
    "llama-3-1-70b": "llama-3.1-70b",
    "Llama 3.1 70B": "llama-3.1-70b",
    "LLAMA_3.1_70B": "llama-3.1-70b",
    "phi-3-mini": "phi-3-mini-4k",
    "mistral-7b": "mistral-7b-v0.3",
    "mixtral": "mixtral-8x7b",
    "falcon-180b": "falcon-180b",
    "gemma-2b": "gemma-2b",
    "gpt2": "gpt2",
    "llama-65b": "llama-1-65b",
    "qwen2-5-7b": "qwen2.5-7b",
    "vicuna-13b": "vicuna-13b-v1.5",
    "whisper": "whisper-large-v3",
    "code-llama-34b": "codellama-34b",
    "gpt-j": "gpt-j-6b",
    "llama-4-scout": "llama-4-scout",
    "llava-1.5-7b": "llava-1.5-7b-hf",
}

TYPED_DEVICES = {
    "a100": "a100-80-sxm",
    "a100-80": "a100-80-sxm",
    "a100-80gb": "a100-80-sxm",
    "A100 80GB": "a100-80-sxm",
    "NVIDIA A100-SXM4-80GB": "a100-80-sxm",
    "NVIDIA A100 80GB PCIe": "a100-80-pcie",
    "NVIDIA A100-PCIE-40GB": "a100-40-pcie",
    "a100-40": "a100-40-sxm",
    "a100-40gb": "a100-40-sxm",
    "h100": "h100-sxm",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "h200": "h200-sxm",
    "b200": "b200-sxm",
    "Tesla T4": "t4",
    "NVIDIA A10G": "a10g",
    "NVIDIA L40S": "l40s",
    "Tesla V100-SXM2-16GB": "v100-16-sxm2",
    "rtx3060": "rtx-3060-12gb",
    "rtx-3060": "rtx-3060-12gb",
    "RTX 3060 12GB": "rtx-3060-12gb",
    "rtx-4060-ti": "rtx-4060-ti-8gb",
    "RTX 4060 Ti 16GB": "rtx-4060-ti-16gb",
    "RTX 4090": "rtx-4090",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA GeForce RTX 4090 Laptop GPU": "rtx-4090-laptop",
    "GeForce GTX 1080 Ti": "gtx-1080-ti",
    "4090": "rtx-4090",
    "3090": "rtx-3090",
    "rtx_3090": "rtx-3090",
    "NVIDIA RTX A6000": "rtx-a6000",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
    "AMD Radeon RX 7900 XTX": "rx-7900-xtx",
    "7900xtx": "rx-7900-xtx",
    "AMD Instinct MI300X": "mi300x",
    "m2-ultra-192gb": "apple-m2-ultra-192gb",
    "Apple M2 Ultra 192GB": "apple-m2-ultra-192gb",
    "m3-max-128gb": "apple-m3-max-40-128gb",
    "m1-16gb": "apple-m1-16gb",
    "dgx-spark": "dgx-spark",
    "NVIDIA GB10": "dgx-spark",
    "strix-halo": "ryzen-ai-max-395-128",
    "AMD Ryzen AI Max+ 395": "ryzen-ai-max-395-128",
    "Arc A770": "arc-a770-16gb",
    "jetson-orin-nano": "jetson-orin-nano-8",
    "rpi5-8gb": "raspberry-pi-5-8gb",
    "rpi-5-8gb": "raspberry-pi-5-8gb",
    "pi5-8gb": "raspberry-pi-5-8gb",
    "raspberry pi 5 8gb": "raspberry-pi-5-8gb",
    "Raspberry Pi 4 4GB": "raspberry-pi-4-4gb",
    "raspberry-pi-5": "raspberry-pi-5-8gb",
    "raspberry-pi-zero-2w": "raspberry-pi-zero-2w",
    "Raspberry Pi 3B+": "raspberry-pi-3b-plus",
    "orange-pi-5-16gb": "orange-pi-5-16gb",
    "intel n100 16gb": "intel-n100-16gb",
    "laptop-16gb": "laptop-ddr4-3200-dc-16gb",
    "AMD EPYC 9554": "epyc-9554",
}

AMBIGUOUS = [
    ("model", "mistral-7b", "v0.2"),
    ("model", "mixtral", "8x22B"),
    ("model", "whisper", "large-v3"),
    ("model", "phi-3-mini", "128k"),
    ("model", "llama3.1", "405B"),
    ("model", "deepseek-r1:8b", "Qwen3"),
    ("model", "llama-3-1-70b", "llama-3.1-70b"),
    ("model", "Qwen/Qwen2.5-14B-Instruct", "context limit"),
    ("model", "unsloth/Llama-3.1-8B-Instruct", "not in the catalogue"),
    ("device", "a100", "40 or 80 GB"),
    ("device", "rtx-3060", "8 GB"),
    ("device", "rtx 4060 ti", "16 GB"),
    ("device", "rtx-6000", "Ada"),
    ("device", "m3-max", "128 GB"),
    ("device", "raspberry-pi-5", "16 GB"),
]


@pytest.fixture(autouse=True)
def _no_user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FITCALC_PROFILES", raising=False)
    yield
    catalog.use_folders([])


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "wanted"), TYPED_MODELS.items())
def test_models_by_the_names_people_type(typed: str, wanted: str) -> None:
    assert catalog.resolve("model", typed).id == wanted


@pytest.mark.parametrize(("typed", "wanted"), TYPED_DEVICES.items())
def test_devices_by_the_names_people_type(typed: str, wanted: str) -> None:
    assert catalog.resolve("device", typed).id == wanted


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("Q4_K_M", "q4_k_m"), ("q4-k-m", "q4_k_m"), ("AWQ", "awq"), ("nf4", "bnb-nf4"), ("gptq-g32", "gptq-g32")],
)
def test_quantizations_by_the_names_people_type(typed: str, wanted: str) -> None:
    assert catalog.load_scheme(typed).id == wanted


@pytest.mark.parametrize(("kind", "typed", "said"), AMBIGUOUS)
def test_ambiguous_names_say_how_they_were_taken(kind: str, typed: str, said: str) -> None:
    assert said in catalog.resolve(kind, typed).note


@pytest.mark.parametrize(
    ("kind", "typed"),
    [("model", "llama-3.1-70b"), ("model", "llama3.1:70b"), ("device", "a100-80"), ("device", "RTX 4090")],
)
def test_plain_names_carry_no_note(kind: str, typed: str) -> None:
    assert catalog.resolve(kind, typed).note == ""


def test_notes_travel_with_the_spec() -> None:
    assert "40 or 80 GB" in catalog.load_device("a100").notes[0]
    assert any("v0.2" in note for note in catalog.load_model("mistral-7b").notes)


@pytest.mark.parametrize(
    ("kind", "typed", "first"),
    [
        ("model", "lama-3.1-70b", "llama-3.1-70b"),
        ("model", "llama-3.1-70", "llama-3.1-70b"),
        ("model", "mixtrel-8x7b", "mixtral-8x7b"),
        ("model", "TheBloke/Llama-2-7B-GGUF", "llama-2-7b"),
        ("device", "a100-81", "a100-80-sxm"),
        ("device", "rtx-4091", "rtx-4090"),
        ("device", "rasberry-pi-5-8gb", "raspberry-pi-5-8gb"),
        ("quant", "q9", "q8_0"),
        ("quant", "q4_k_x", "q4_k_m"),
        ("engine", "vlm", "vllm"),
    ],
)
def test_unknown_names_suggest_the_closest(kind: str, typed: str, first: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalog.resolve(kind, typed)
    assert first in caught.value.suggestions
    assert len(caught.value.suggestions) <= 3
    assert first in caught.value.hint
    if kind != "quant":
        assert caught.value.suggestions[0] == first


@pytest.mark.parametrize("typed", ["", " ", "/", "..", "../gpus/a100", "a" * 10_000, "\x00", "модель", "🦙", "-", "0"])
def test_odd_names_are_unknown(typed: str) -> None:
    for kind in ("model", "device", "quant", "engine"):
        with pytest.raises(UnknownNameError):
            catalog.resolve(kind, typed)


@given(st.text(max_size=60))
def test_a_name_is_found_or_unknown(typed: str) -> None:
    if typed.strip().lower().endswith(".toml"):
        return
    for kind in ("model", "device", "quant"):
        try:
            found = catalog.resolve(kind, typed)
        except UnknownNameError:
            continue
        assert found.id in catalog.ids(found.kind)


@given(st.text(max_size=40))
def test_canonical_spellings_are_stable(text: str) -> None:
    for spell in (canonical, canonical_device):
        once = spell(text)
        assert spell(once) == once or "/" in once
        assert spell(text.lower().replace("_", " ").strip()) == once


def test_versions_and_sizes_stay_apart() -> None:
    assert canonical("qwen2.5-7b") == canonical("Qwen2.5:7B") != canonical("qwen2-57b")
    assert canonical("gemma-2-2b") != canonical("gemma-22b")
    assert canonical_device("a10g") != canonical_device("a10")
    assert canonical_device("a100-80gb") == canonical_device("NVIDIA A100 80 GB")


def test_every_id_resolves_to_itself() -> None:
    for kind in catalog.KINDS:
        for profile in catalog.ids(kind):
            assert catalog.resolve(kind, profile).id == profile
            assert catalog.resolve(kind, profile.upper()).id == profile


def test_unknown_kind() -> None:
    with pytest.raises(ProfileError, match="no such kind"):
        catalog.resolve("planets", "mars")


# --- loading ----------------------------------------------------------------------------------------------------------


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
    form = forms.form_of("models", content)
    assert "sliding_window" not in form.config
    assert forms.config_of(form)["sliding_window"] is None
    assert "sliding_window" not in form.config
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
    form = forms.form_of(
        "engines",
        {
            "name": "x", "module": "x", "version": "1", "device_kinds": [], "vendors": [], "quant_kinds": [],
            "constants": {"base": "1.5 GiB", "steps": {"low": "512 MiB"}, "count": 3, "word": "rows"},
            "kv_types": {"q8_0": [32, 34]},
        },
    )  # fmt: skip
    engine = forms.engine_of(form, "x")
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
    sizes = [catalog.load_device(name).usable_bytes or 0 for name in names]
    assert sizes == sorted(sizes)
    assert {"a100-80-sxm", "h100-sxm"} <= set(names)
    assert not {"rtx-4090", "mi300x", "t4"} & set(names)


def test_smaller_models_shrink() -> None:
    model = catalog.load_model("llama-3.1-70b")
    names = catalog.smaller_models(model)
    assert 3 <= len(names) <= 40
    assert all(catalog.load_model(name).params_total <= 0.75 * model.params_total for name in names)
    assert catalog.load_model(names[0]).family == "llama"


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
        "builtins.open = spy\ncatalog.load_device('a100-80-sxm'); print(len(names))\n"
        "names.clear(); catalog.load_model('llama-3.1-70b'); print(len(names))\n"
        "names.clear(); catalog.load_device('a100-80'); print(len(names))"
    ).split()
    assert opened == ["1", "1", "2"]


# --- user folders -----------------------------------------------------------------------------------------------------

CARD = """
name = "Modified RTX 4090"
vendor = "nvidia"
kind = "gpu"
memory = "49140 MiB"
usable = "47.37 GiB"
aliases = ["rtx-4090-48gb", "big card"]
"""


def _write(folder: Path, kind: str, stem: str, text: str | bytes) -> Path:
    place = folder / kind
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{stem}.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_later_folders_win_by_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings, named, given_folder = tmp_path / "config" / "fitcalc" / "profiles", tmp_path / "named", tmp_path / "given"
    for folder, total in ((settings, 40), (named, 44), (given_folder, 48)):
        _write(folder, "gpus", "rtx-4090", f'name = "x"\nvendor = "nvidia"\nkind = "gpu"\nmemory = "{total} GiB"\n')
    assert catalog.load_device("RTX 4090").memory_bytes == 40 * GIB
    monkeypatch.setenv("FITCALC_PROFILES", str(named))
    assert catalog.load_device("rtx-4090").memory_bytes == 44 * GIB
    catalog.use_folders([str(given_folder)])
    found = catalog.resolve("device", "rtx-4090")
    assert catalog.load_device("rtx-4090").memory_bytes == 48 * GIB
    assert found.path.startswith(str(given_folder))
    assert "not from fitcalc's own" in found.note
    assert found.note in catalog.load_device("rtx-4090").notes


def test_own_names_and_aliases(tmp_path: Path) -> None:
    _write(tmp_path, "gpus", "my-card", CARD)
    catalog.use_folders([str(tmp_path)])
    assert catalog.load_device("my-card").usable_bytes == round(47.37 * GIB)
    assert catalog.resolve("gpu", "Big-Card").id == "my-card"
    assert catalog.resolve("gpu", "big card").note == ""
    assert "my-card" in catalog.ids("gpus")
    assert "my-card" in [row["id"] for row in catalog.summaries("gpus")]
    with pytest.raises(UnknownNameError) as caught:
        catalog.resolve("gpu", "my-crd")
    assert caught.value.suggestions[0] == "my-card"


def test_an_own_alias_that_hides_a_packaged_one_says_so(tmp_path: Path) -> None:
    _write(tmp_path, "gpus", "my-card", CARD.replace("big card", "a100"))
    catalog.use_folders([str(tmp_path)])
    found = catalog.resolve("gpu", "a100")
    assert found.id == "my-card"
    assert "a100-80-sxm" in found.note


def test_a_profile_by_its_path(tmp_path: Path) -> None:
    path = _write(tmp_path, "gpus", "elsewhere", CARD)
    assert catalog.load_device(str(path)).memory_bytes == 49140 * MIB


def test_an_own_model(tmp_path: Path) -> None:
    packaged = Path(catalog.resolve("models", "llama-3.1-8b").path).read_text()
    _write(tmp_path, "models", "my-llama", packaged.replace("num_hidden_layers = 32", "num_hidden_layers = 16"))
    catalog.use_folders([str(tmp_path)])
    model = catalog.load_model("my-llama")
    assert model.layers == 16
    assert any("the profile says" in note for note in model.notes)


def test_bom_and_crlf_are_fine(tmp_path: Path) -> None:
    _write(tmp_path, "gpus", "dos", b"\xef\xbb\xbf" + CARD.replace("\n", "\r\n").encode())
    catalog.use_folders([str(tmp_path)])
    assert catalog.load_device("dos").memory_bytes == 49140 * MIB


BROKEN: list[tuple[str, str | bytes, str]] = [
    ("bad TOML", 'name = "x"\nvendor = \n', "line 2"),
    ("not UTF-8", b'name = "\xff"\n', "not UTF-8"),
    ("empty", "", "name is missing"),
    ("unknown key", CARD + 'memry = "24 GiB"\n', "unknown key 'memry'"),
    ("bare number", CARD.replace('"49140 MiB"', "49140"), "memory is the bare number 49140"),
    ("no unit", CARD.replace('"49140 MiB"', '"49140"'), "memory: '49140' has no known unit"),
    ("not a rate", CARD + 'bandwidth = "1008 GB"\n', "bandwidth: '1008 GB' is not a rate"),
    ("unknown kind", CARD.replace('"gpu"', '"toaster"'), "kind"),
    ("wrong type", CARD.replace('["rtx-4090-48gb", "big card"]', '"big card"'), "aliases"),
    ("a date", CARD + "cores = 2024-01-01\n", "cores"),
    ("a boolean", CARD + "cores = true\n", "cores"),
    ("deep", "x = " + "[" * 5000 + "]" * 5000, "nested"),
    ("long number", "cores = " + "9" * 5000, "digit"),
    ("too large", "#" * 1_000_001, "1,000,001 bytes"),
    ("control", b'name = "\x00"\n', "line 1"),
]


@pytest.mark.parametrize(("text", "said"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_file_gives_one_clear_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = _write(tmp_path, "gpus", "broken", text)
    catalog.use_folders([str(tmp_path)])
    assert catalog.load_device("rtx-3090").id == "rtx-3090"
    with pytest.raises(ProfileError) as caught:
        catalog.load_device("broken")
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200
    assert caught.value.hint


def test_an_unknown_key_suggests_the_known_one(tmp_path: Path) -> None:
    _write(tmp_path, "gpus", "broken", CARD + 'bandwith = "1 GB/s"\n')
    catalog.use_folders([str(tmp_path)])
    with pytest.raises(ProfileError) as caught:
        catalog.load_device("broken")
    assert "bandwidth" in caught.value.hint


def test_a_directory_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "gpus" / "folder.toml").mkdir(parents=True)
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(tmp_path / "gpus" / "pipe.toml")
    catalog.use_folders([str(tmp_path)])
    for name in ("folder", "pipe"):
        with pytest.raises(ProfileError, match="not a regular file"):
            catalog.load_device(name)
    with pytest.raises(ProfileError, match="No such file"):
        catalog.load_device(str(tmp_path / "missing.toml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\n', "config is missing"),
        ('name = "x"\nnull_keys = ["a.b"]\n[config]\nmodel_type = "llama"\n', "null_keys"),
        ('name = "x"\nparams = "7B"\n[config]\n', "params"),
        ('name = "x"\n[config]\nmodel_type = "llama"\n', "hidden_size"),
    ],
)
def test_a_broken_model(tmp_path: Path, text: str, said: str) -> None:
    _write(tmp_path, "models", "broken", text)
    catalog.use_folders([str(tmp_path)])
    with pytest.raises(FitcalcError) as caught:
        catalog.load_model("broken")
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["quants", "engines", "pipelines"])
def test_broken_files_of_other_kinds(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, kind, "broken", 'name = "x"\ncolour = "red"\n')
    catalog.use_folders([str(tmp_path)])
    load: dict[str, Any] = {
        "quants": catalog.load_scheme,
        "engines": catalog.load_engine,
        "pipelines": catalog.load_pipeline,
    }
    with pytest.raises(ProfileError):
        load[kind]("broken")


def test_a_folder_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="not a folder"):
        catalog.use_folders([str(tmp_path / "missing")])
    monkeypatch.setenv("FITCALC_PROFILES", str(tmp_path / "missing"))
    with pytest.raises(ProfileError, match="FITCALC_PROFILES"):
        catalog.load_device("a100-80")


def test_check_tells_every_wrong_file(tmp_path: Path) -> None:
    _write(tmp_path, "gpus", "good", CARD)
    _write(tmp_path, "gpus", "bad", CARD + 'colour = "red"\n')
    _write(tmp_path, "cpus", "unit", CARD.replace("GiB", "GiX"))
    _write(tmp_path, "models", "odd", 'name = "x"\n[config]\nmodel_type = "no-such-type"\n')
    checked, problems = catalog.check(str(tmp_path))
    assert checked == 4
    assert [line.split(".toml")[0].rpartition("/")[2] for line in problems] == ["odd", "bad", "unit"]
    assert all(line.startswith(str(tmp_path)) and "\n" not in line for line in problems)
    assert catalog.check() == (0, ())
    catalog.use_folders([str(tmp_path)])
    assert catalog.check() == (checked, problems)


def test_check_passes_the_packaged_devices_and_quantizations(tmp_path: Path) -> None:
    for kind in ("gpus", "cpus", "quants", "pipelines"):
        (tmp_path / kind).symlink_to(Path(files.packaged_folder()) / kind)
    checked, problems = catalog.check(str(tmp_path))
    assert checked >= 300
    assert problems == ()
