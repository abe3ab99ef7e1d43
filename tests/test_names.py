"""Names as people type them: ids, aliases, repositories, ambiguous short names, and the closest ids on a miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitcalc import catalog
from fitcalc.catalog.names import canonical, canonical_device
from fitcalc.errors import ProfileError, UnknownNameError

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


@pytest.mark.parametrize(
    ("spelling", "quant"),
    [
        *((name, "q4_k_m") for name in ("Q4_K_M", "q4km", "4_k_m", "q4-k-m", "Q4_K", "gguf-q4_k_m", "i1-Q4_K_M")),
        *((name, "q8_0") for name in ("Q8_0", "Q80", "q8", "8_0")),
        *((name, "fp16") for name in ("f16", "gguf-f16", "fp16-gguf")),
        *((name, "iq4_xs") for name in ("IQ4XS", "iq4-xs")),
        *((name, "q2_k_l") for name in ("Q2_K_L", "q2kl")),
        *((name, "q5_k_s") for name in ("5_k_s", "Q5KS")),
        *((name, "q6_k") for name in ("Q6K", "q6", "6_k")),
    ],
)
def test_spellings_of_gguf_types(spelling: str, quant: str) -> None:
    found = catalog.resolve("quant", spelling)
    assert (found.id, found.note) == (quant, "")


@pytest.mark.parametrize(
    ("spelling", "quant"),
    [("q4", "q4_k_m"), ("Q5", "q5_k_m"), ("q3", "q3_k_m"), ("q2", "q2_k"), ("IQ4", "iq4_xs"), ("4bit", "int4")],
)
def test_spellings_that_could_mean_several_say_so(spelling: str, quant: str) -> None:
    found = catalog.resolve("quant", spelling)
    assert found.id == quant
    assert "taken as" in found.note


@pytest.mark.parametrize("spelling", ["UD-Q4_K_XL", "Q4_K_XL", "bpw4", "q7", "q4_0_4_4"])
def test_spellings_without_a_recipe_are_refused(spelling: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        catalog.resolve("quant", spelling)
    assert caught.value.suggestions
