"""fitcalc models add: what is written, what reads it back, and everything that is refused."""

from __future__ import annotations

import io
import json
import math
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog
from fitcalc.additions import add_model
from fitcalc.architectures import from_config
from fitcalc.catalog import files
from fitcalc.catalog.building import config_of
from fitcalc.catalog.files import read_toml
from fitcalc.catalog.writing import toml_text, without_nulls
from fitcalc.cli import run
from fitcalc.errors import FitcalcError, ModelFileError, ProfileError, RequestError, UnsupportedModelError

LLAMA: dict[str, Any] = {
    "_name_or_path": "me/my-tune", "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 2048, "torch_dtype": "bfloat16", "tie_word_embeddings": False, "sliding_window": None,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0, "odd key": None}, "eos_token_id": [1, 2],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("FITCALC_PROFILES", raising=False)
    yield
    catalog.use_folders([])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my-tune" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(LLAMA))
    return path


def own(tmp_path: Path, name: str) -> Path:
    return tmp_path / "settings" / "fitcalc" / "profiles" / "models" / f"{name}.toml"


# --- what is written --------------------------------------------------------------------------------------------------


def test_an_added_model_answers_to_its_names_and_passes_the_check(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "add", str(config), "--name", "my-model", "--alias", "Mine"]) == 0
    out = capsys.readouterr().out
    spec = from_config(LLAMA)
    assert f"{spec.params_total:,} parameters" in out
    assert str(own(tmp_path, "my-model")) in out
    for name in ("my-model", "mine", "me/my-tune"):
        assert run([name, "--gpu", "rtx-3060", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)["model"]
        assert (facts["id"], facts["params_total"]) == ("my-model", spec.params_total)
    assert run(["profiles", "check"]) == 0
    assert "1 profile checked, 0 problems" in capsys.readouterr().out
    assert run(["models", "my-model"]) == 0
    assert "me/my-tune" in capsys.readouterr().out


def test_the_configuration_is_kept_verbatim(config: Path, tmp_path: Path) -> None:
    added = add_model(str(config), "my-model")
    content = read_toml(str(own(tmp_path, "my-model")))
    assert config_of(content) == LLAMA
    assert content["null_keys"] == ["sliding_window", "rope_scaling.odd key"]
    assert content["params"] == added.model.params_total
    assert content["source"] == str(config)
    assert [path.name for path in own(tmp_path, "x").parent.iterdir()] == ["my-model.toml"]


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in catalog.ids("models")[::7]])
def test_models_of_the_catalogue_come_back_as_they_are(name: str, tmp_path: Path) -> None:
    """Real configurations through JSON and TOML: the same tensors, caches and quantization."""
    config = config_of(read_toml(os.path.join(files.packaged_folder(), "models", f"{name}.toml")))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    try:
        spec = from_config(config)
    except FitcalcError:
        with pytest.raises(FitcalcError):
            add_model(str(path), "again")
        return
    add_model(str(path), "again")
    again = catalog.load_model("again")
    assert (again.tensors, again.cache_layers, again.quant) == (spec.tensors, spec.cache_layers, spec.quant)
    assert config_of(read_toml(str(own(tmp_path, "again")))) == config
    assert catalog.check() == (1, ())


def test_a_folder_and_another_place_for_it(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["models", "add", str(config.parent), "--name", "a", "--profiles", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "models" / "a.toml").is_file()
    assert run(["a", "--gpu", "rtx-3060", "--profiles", str(tmp_path / "new")]) == 0
    (tmp_path / "weak").mkdir()
    (tmp_path / "strong").mkdir()
    monkeypatch.setenv("FITCALC_PROFILES", f"{tmp_path / 'weak'}{os.pathsep}{tmp_path / 'strong'}")
    assert add_model(str(config), "b").path == str(tmp_path / "strong" / "models" / "b.toml")
    assert fitcalc.load_model("b").layers == 2


def test_standard_input(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(config.read_bytes()))
    monkeypatch.setattr("sys.stdin", piped)
    assert run(["models", "add", "-", "--name", "piped"]) == 0
    assert read_toml(str(own(tmp_path, "piped")))["source"] == "config.json on standard input"


def test_a_count_that_is_given(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "add", str(config), "--name", "a", "--params", "1,234_567"]) == 0
    assert "not 1,234,567" in capsys.readouterr().err
    assert read_toml(str(own(tmp_path, "a")))["params"] == 1234567
    for text in ("8B", "0", "-3", "1e9", "", "²"):
        assert run(["models", "add", str(config), "--name", "b", "--params", text]) == 2
    assert "whole number" in capsys.readouterr().err


def test_an_unknown_count_is_the_makers(config: Path, tmp_path: Path) -> None:
    config.write_text(json.dumps({**LLAMA, "quantization_config": {"quant_method": "no-such-method"}}))
    added = add_model(str(config), "a", params=10**9)
    content = read_toml(str(own(tmp_path, "a")))
    assert bool(added.model.unknowns) == ("params_published" in content)
    assert catalog.load_model("a").unknowns == added.model.unknowns


# --- what is refused --------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(config: Path, tmp_path: Path) -> None:
    add_model(str(config), "a")
    before = own(tmp_path, "a").read_bytes()
    config.write_text(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    with pytest.raises(ProfileError, match="is there already") as caught:
        add_model(str(config), "a")
    assert "--force" in caught.value.hint
    assert own(tmp_path, "a").read_bytes() == before
    assert add_model(str(config), "a", force=True).model.layers == 3
    assert catalog.load_model("a").layers == 3


def test_names_of_the_catalogue_are_taken_by_force_only(config: Path) -> None:
    for name in ("llama-3.1-8b", "llama3.1"):
        with pytest.raises(ProfileError, match="already means"):
            add_model(str(config), name)
    with pytest.raises(ProfileError, match=r"llama3.1:8b already means llama-3\.1-8b"):
        add_model(str(config), "a", aliases=("llama3.1:8b",))
    add_model(str(config), "llama-3.1-8b", force=True)
    assert catalog.load_model("llama-3.1-8b").layers == 2
    assert any("not from fitcalc's own" in note for note in catalog.load_model("llama-3.1-8b").notes)


@pytest.mark.parametrize(
    "name", ["", "My Model", "a/b", "../a", ".a", "a.json", "a.gguf", "a.toml", "-a", "ä", "a" * 101, "a\n", "a\0"]
)
def test_bad_names(config: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="cannot be a profile's name") as caught:
        add_model(str(config), name)
    assert "\n" not in str(caught.value) + caught.value.hint
    assert not own(tmp_path, "a").parent.exists()


def test_bad_aliases_and_commands(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for alias in ("", " ", "./a", "a\nb", "-x", "a" * 200, "a.json"):
        with pytest.raises(RequestError, match="cannot be an alias"):
            add_model(str(config), "a", aliases=(alias,))
    assert run(["models", "add", str(config), "--name", "devices"]) == 2
    assert "is a command" in capsys.readouterr().err
    assert run(["models", "add", str(config)]) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Expecting value"),
        ("[]", "not an object"),
        ("{}", "model_type"),
        ('{"model_type": "llama", "hidden_size": "x"}', "hidden_size"),
    ],
)
def test_a_config_that_describes_nothing(config: Path, tmp_path: Path, content: str, said: str) -> None:
    config.write_text(content)
    with pytest.raises((ModelFileError, UnsupportedModelError), match=said):
        add_model(str(config), "a")
    assert not own(tmp_path, "a").exists()


def test_what_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for source, said in [
        (str(tmp_path / "model.gguf"), "weights"),
        ("me/some", "No such file"),
        (str(tmp_path), "config.json"),
    ]:
        with pytest.raises(ModelFileError, match=said) as caught:
            add_model(source, "a")
        assert caught.value.hint
    with pytest.raises(ModelFileError) as caught:
        add_model("me/some", "a")
    assert "hf:me/some" in caught.value.hint


def test_nothing_is_left_half_written(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(ProfileError, match="No space left"):
        add_model(str(config), "a")
    assert list(own(tmp_path, "a").parent.iterdir()) == []
    (tmp_path / "settings" / "fitcalc" / "profiles" / "models").rmdir()
    (tmp_path / "settings" / "fitcalc" / "profiles" / "models").write_text("a file in its place")
    with pytest.raises(ProfileError):
        add_model(str(config), "a")


def test_keys_that_a_profile_cannot_hold_are_named(config: Path) -> None:
    deep: Any = 1
    for _ in range(60):
        deep = {"a": deep}
    odd = {"forced_decoder_ids": [[1, None]], "half": "\ud800", "deep": deep, "a.b": None, "dotted": {"c.d": None}}
    config.write_text(json.dumps({**LLAMA, **odd}))
    added = add_model(str(config), "a")
    assert "forced_decoder_ids, half, deep, a.b …" in added.notes[0]
    assert config_of(read_toml(added.path)) == LLAMA


# --- TOML -------------------------------------------------------------------------------------------------------------

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_SCALARS = st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | _TEXTS
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_TEXTS, inner, max_size=5), max_leaves=30
)
_NULLS = st.recursive(
    _SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_TEXTS, _VALUES, max_size=8))
def test_tomllib_reads_back_what_was_written(content: dict[str, Any]) -> None:
    text = toml_text(content)
    assert tomllib.loads(text) == content
    assert not any(len(line) > 1000 for line in text.splitlines()) or any(len(repr(v)) > 800 for v in content.values())


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=6), _NULLS, max_size=6))
def test_nulls_are_taken_apart_and_come_back(content: dict[str, Any]) -> None:
    kept, nulls, left = without_nulls(content)
    read = tomllib.loads(toml_text(kept))
    assert config_of({"config": read, "null_keys": nulls}) == {
        key: value for key, value in content.items() if key not in left
    }
    for key in left:
        assert _is_hard(key, content[key])


def _is_hard(key: str, value: Any) -> bool:
    """A null in a list, a null under a key with a dot, or half a surrogate."""
    text = json.dumps({key: value})
    return "null" in text or "\\ud" in text


def test_long_lists_are_broken_into_lines() -> None:
    text = toml_text({"layer_types": ["full_attention", "sliding_attention"] * 40, "x": math.inf, "t": {"u": {"v": 1}}})
    assert max(len(line) for line in text.splitlines()) <= 110
    assert tomllib.loads(text)["x"] == math.inf
    assert "[t]" not in text
    assert "[t.u]" in text
