"""Folders as people have them: a model's own, and one clear line for everything else."""

from __future__ import annotations

import ast
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors_files import names_of, shards, write

import fitcalc
from fitcalc import catalog
from fitcalc.architectures import from_config
from fitcalc.errors import FitcalcError, ModelFileError, UnknownNameError, UnsupportedModelError
from fitcalc.readers.folder_typos import misspelled, similar_type

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
SPEC = from_config(LLAMA)


def model(folder: Path, config: dict[str, Any] | None = LLAMA, parts: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if parts > 1:
        shards(folder, names_of(SPEC), parts)
    else:
        write(folder / "model.safetensors", names_of(SPEC))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def line(path: Path | str) -> str:
    """The one line, and the hint, that a folder is refused with."""
    with pytest.raises(FitcalcError) as caught:
        fitcalc.load_model(str(path))
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.hint
    return f"{caught.value} | {caught.value.hint}"


def test_a_models_own_folder(tmp_path: Path) -> None:
    spec = fitcalc.load_model(model(tmp_path / "my-model", parts=2))
    assert (spec.id, spec.name) == ("my-model", "my-model")
    assert (spec.params_total, spec.cache_layers) == (SPEC.params_total, SPEC.cache_layers)


def test_the_command_names_the_folder_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    report = fitcalc.fit("./my-model", gpu="h100-80", engine="vllm", quant="bf16")
    assert report.recommendation.command.startswith("vllm serve ./my-model --max-model-len")


def test_a_folder_that_a_shell_would_misread_is_quoted(tmp_path: Path) -> None:
    folder = model(tmp_path / "my model; echo 'x' $(id)")
    for engine in ("vllm", "sglang", "tgi", "tensorrt-llm"):
        command = fitcalc.fit(folder, gpu="h100-80", engine=engine, quant="bf16").recommendation.command
        assert str(folder) in shlex.split(command)
    program = fitcalc.fit(folder, gpu="h100-80", engine="transformers", quant="bf16").recommendation.command
    python, switch, code = shlex.split(program)
    assert (python, switch) == ("python", "-c")
    names = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert str(folder) in names


def test_a_name_without_a_slash_that_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        fitcalc.load_model("my-model")
    assert "./my-model" in caught.value.hint


def test_half_the_shards(tmp_path: Path) -> None:
    model(tmp_path, parts=4)
    for number in (2, 4):
        (tmp_path / f"model-{number:05d}-of-00004.safetensors").unlink()
    said = line(tmp_path)
    assert "2 of 4" in said
    assert "model-00002-of-00004.safetensors, model-00004-of-00004.safetensors" in said


def test_shards_without_an_index(tmp_path: Path) -> None:
    model(tmp_path, parts=4)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert fitcalc.load_model(tmp_path).params_total == SPEC.params_total
    (tmp_path / "model-00003-of-00004.safetensors").unlink()
    assert "1 of 4" in line(tmp_path)


def test_a_shard_that_was_cut_off(tmp_path: Path) -> None:
    model(tmp_path, parts=2)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 1000)
    assert "1,000 of" in line(tmp_path)
    assert "model-00002-of-00002.safetensors" in line(tmp_path)


ADAPTER = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": "meta-llama/Llama-3.1-8B",
           "target_modules": ["q_proj", "v_proj"]}  # fmt: skip


def test_an_adapter_says_what_it_is_and_which_base_it_needs(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    names = {f"base.layers.0.q_proj.lora_{side}.weight": ("F32", shape) for side, shape in
             (("A", (16, 4096)), ("B", (4096, 16)))}  # fmt: skip
    write(tmp_path / "adapter_model.safetensors", names)
    said = line(tmp_path)
    for words in ("a LoRA adapter", "rank 16", "q_proj, v_proj", "base meta-llama/Llama-3.1-8B", "adds"):
        assert words in said
    assert "LoRA adapter (rank 16" in line(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "does not name it" in line(tmp_path)


def test_a_diffusers_folder_names_its_components(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionXLPipeline", "_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
             "scheduler": ["diffusers", "EulerDiscreteScheduler"], "force_zeros": True}  # fmt: skip
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "diffusion_pytorch_model.safetensors", {"w": ("F16", (1024, 1024, 64))})
    said = line(tmp_path)
    for words in ("StableDiffusionXLPipeline", "unet 0.13 GiB, vae 0.13 GiB", "stable-diffusion-xl-base-1.0", "unet"):
        assert words in said
    with pytest.raises(UnsupportedModelError):
        fitcalc.load_model(tmp_path)


def test_several_ggufs_are_listed(tmp_path: Path) -> None:
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m.gguf"):
        (tmp_path / name).write_bytes(b"GGUF" + b"\0" * 60)
    said = line(tmp_path)
    assert "several models: m-Q4_K_M.gguf, m-Q8_0.gguf" in said
    assert "mmproj" not in said


def test_several_safetensors_are_listed(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write(tmp_path / name, names_of(SPEC))
    assert "several models: a.safetensors, b.safetensors" in line(tmp_path)


def test_a_gguf_under_another_name_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"GGUF" + b"\xff" * 60)
    said = line(tmp_path)
    assert "pytorch_model.bin" in said
    assert "pickle" not in said


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    assert "only pytorch_model.bin" in line(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    spec = fitcalc.load_model(tmp_path)
    assert spec.params_total == SPEC.params_total
    assert any("never opened" in note for note in spec.notes)


def test_a_config_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert fitcalc.load_model(tmp_path).params_total == SPEC.params_total


def test_an_empty_folder_and_one_with_other_things(tmp_path: Path) -> None:
    assert "an empty folder" in line(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert "no config.json, *.safetensors or *.gguf" in line(tmp_path)


def test_a_model_one_folder_deeper(tmp_path: Path) -> None:
    model(tmp_path / "inner")
    said = line(tmp_path)
    assert "one folder deeper, in inner" in said
    assert str(tmp_path / "inner") in said


def test_no_such_folder(tmp_path: Path) -> None:
    assert "No such file" in line(tmp_path / "none")


def test_links_that_loop_or_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(tmp_path / "config.json")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    (tmp_path / "up").symlink_to(tmp_path)
    assert "no config.json" in line(tmp_path)
    (tmp_path / "up").unlink()
    assert "only links to files that are not there" in line(tmp_path)


def test_a_huge_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitcalc.readers.folder._MOST_ENTRIES", 20)
    for number in range(30):
        (tmp_path / f"{number}").touch()
    assert "more than 20 entries" in line(tmp_path)


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    assert "ermission" in line(folder)


# --- typos ------------------------------------------------------------------------------------------------------------


def test_a_misspelled_key_that_is_needed(tmp_path: Path) -> None:
    config = {("num_hiden_layers" if key == "num_hidden_layers" else key): value for key, value in LLAMA.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError) as caught:
        fitcalc.load_model(tmp_path)
    assert "num_hidden_layers is missing" in str(caught.value)
    assert "num_hiden_layers looks like num_hidden_layers" in caught.value.hint


def test_a_misspelled_key_that_has_a_default_is_said(tmp_path: Path) -> None:
    config = {("num_key_value_head" if key == "num_key_value_heads" else key): value for key, value in LLAMA.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    notes = fitcalc.load_model(tmp_path).notes
    assert any("num_key_value_head looks like num_key_value_heads and is not read" in note for note in notes)


def test_a_misspelled_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"model_type": "llamma"}))
    assert "did you mean llama?" in line(tmp_path)
    spec = fitcalc.load_model(model(tmp_path, LLAMA | {"model_type": "llamma"}))
    assert spec.params_total == SPEC.params_total
    assert any("did you mean llama?" in note for note in spec.notes)
    assert similar_type("", ["llama"]) == ""


def test_no_key_of_the_catalogue_is_taken_for_a_typo() -> None:
    import tomllib

    for path in (Path(__file__).parents[1] / "profiles" / "models").glob("*.toml"):
        config = tomllib.loads(path.read_text(encoding="utf-8"))["config"]
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            assert misspelled(part) == "", path.name
    assert catalog.ids("model")
