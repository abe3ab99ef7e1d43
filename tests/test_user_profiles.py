"""The user's own profile folders: who wins, and one clear line for every way in which a file can be wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fitcalc import catalog
from fitcalc.catalog import QuantRow, files
from fitcalc.errors import FitcalcError, ProfileError, UnknownNameError
from fitcalc.units import GIB, MIB


@pytest.fixture(autouse=True)
def _no_user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FITCALC_PROFILES", raising=False)
    yield
    catalog.use_folders([])


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


def test_own_quantizations_stand_among_the_rows(tmp_path: Path) -> None:
    text = (
        'name = "Mine"\nkind = "linear"\nbits = 5\nquality_rank = 7\nsource = "x"\nengines = ["vllm"]\nvariant = true\n'
    )
    _write(tmp_path, "quants", "mine", text + "[weight]\nblock_elems = 1\nblock_bytes = 1\n")
    _write(tmp_path, "quants", "broken", "name = 1\n")
    packaged = catalog.quant_rows()
    catalog.use_folders([str(tmp_path)])
    rows = catalog.quant_rows()
    assert rows.keys() - packaged.keys() == {"mine"}
    assert rows["mine"] == QuantRow("mine", "linear", 5, 7, True, False, "")


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
        ('name = "x"\nnull_keys = ["hidden_size"]\n[config]\nmodel_type = "llama"\n', "hidden_size"),
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
