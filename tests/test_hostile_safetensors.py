"""safetensors files that lie: one line for each way to be wrong, and time and memory in proportion to the file."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors_files import awq, gptq, header_of, write, write_raw

import fitcalc
from fitcalc.errors import FitcalcError, ModelFileError
from fitcalc.readers.safetensors_header import LARGEST_HEADER_BYTES, read_header

GOOD: dict[str, Any] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def refusal(path: str) -> str:
    """What a user reads: one line, with the path in it."""
    with pytest.raises(ModelFileError) as caught:
        fitcalc.load_model(path)
    text = str(caught.value)
    assert path in text
    assert "\n" not in text
    assert len(text) < 600
    return f"{text} | {caught.value.hint}"


def tensor(**change: Any) -> bytes:
    return json.dumps({"a": GOOD | change}).encode()


def _nested(depth: int) -> bytes:
    return b'{"a": ' + b"[" * depth + b"]" * depth + b"}"


RAW: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "seven bytes": (b"\x10\0\0\0\0\0\0", "7 bytes, too short"),
    "length beyond the file": (struct.pack("<Q", 1000) + b'{"a": 1}', "992 bytes are missing"),
    "length beyond the format": (struct.pack("<Q", LARGEST_HEADER_BYTES + 1) + b"{}", "the format allows 100,000,000"),
    "largest length": (b"\xff" * 8 + b"{}", "the format allows"),
    "no header": (struct.pack("<Q", 0) + b"{}", "the header is empty"),
}
HEADERS: dict[str, tuple[bytes, str]] = {
    "not UTF-8": (b'{"\xff": 1}', "not UTF-8 at byte 2"),
    "not JSON": (b"{a}", "not valid JSON"),
    "NUL padding": (tensor() + b"\0\0", "not valid JSON"),
    "a list": (b"[1]", "list"),
    "a tensor twice": (tensor()[:-1] + b", " + tensor()[1:], "'a' appears twice"),
    "a key twice": (b'{"a": {"dtype": "F32", "dtype": "F16"}}', "'dtype' appears twice"),
    "NaN": (b'{"a": NaN}', "NaN"),
    "infinity": (b'{"a": Infinity}', "Infinity"),
    "5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "depth": (_nested(200_000), "nested too deeply"),
    "unknown type": (tensor(dtype="F5"), "dtype 'F5'"),
    "type is a number": (tensor(dtype=7), "dtype 7"),
    "no entry": (b'{"a": 3}', "lacks dtype"),
    "no shape": (b'{"a": {"dtype": "F32", "data_offsets": [0, 24]}}', "lacks dtype"),
    "shape is a text": (tensor(shape="2"), "not a list of sizes"),
    "shape of floats": (tensor(shape=[2.0, 3.0]), "not a list of sizes"),
    "shape of truths": (tensor(shape=[True, 6]), "not a list of sizes"),
    "negative shape": (tensor(shape=[-2, -3]), "not a list of sizes"),
    "shape overflows": (tensor(shape=[2**62, 2**62, 2**62]), "more than 2^63"),
    "shape beyond 2^63": (tensor(shape=[2**64]), "not a list of sizes"),
    "three offsets": (tensor(data_offsets=[0, 1, 24]), "not [begin, end]"),
    "offsets backwards": (tensor(data_offsets=[24, 0]), "not [begin, end]"),
    "offsets too short": (tensor(data_offsets=[0, 20]), "takes 24 bytes, its offsets span 20"),
    "hole at the start": (tensor(data_offsets=[8, 32]), "leaves 8 bytes unused"),
    "half a byte": (tensor(dtype="F4", shape=[3], data_offsets=[0, 2]), "whole byte"),
    "metadata of numbers": (b'{"__metadata__": {"a": 1}}', "__metadata__"),
    "metadata is a list": (b'{"__metadata__": []}', "__metadata__"),
    "no tensors": (b"{}", "no tensors"),
}


@pytest.mark.parametrize("name", RAW)
def test_a_broken_start(name: str, tmp_path: Path) -> None:
    content, words = RAW[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert words in refusal(str(path))


@pytest.mark.parametrize("name", HEADERS)
def test_a_broken_header(name: str, tmp_path: Path) -> None:
    header, words = HEADERS[name]
    assert words in refusal(
        write_raw(tmp_path / "model.safetensors", header, b"\0" * (0 if name == "no tensors" else 24))
    )


def test_data_that_is_cut_off_overlaps_or_belongs_to_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert "cut off: 20 of 24 bytes of data are missing" in refusal(write_raw(path, tensor(), b"\0" * 4))
    assert "6 bytes behind the last tensor" in refusal(write_raw(path, tensor(), b"\0" * 30))
    two = json.dumps({"a": GOOD, "b": GOOD | {"data_offsets": [12, 36]}}).encode()
    assert "overlaps" in refusal(write_raw(path, two, b"\0" * 36))
    apart = json.dumps({"a": GOOD, "b": GOOD | {"data_offsets": [28, 52]}}).encode()
    assert "leaves 4 bytes unused" in refusal(write_raw(path, apart, b"\0" * 52))


def test_what_the_format_allows_is_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "U8", "shape": [0, 5], "data_offsets": [24, 24], "more": 1},
        "a": GOOD,
        "c": {"dtype": "F64", "shape": [], "data_offsets": [24, 32]},
    }
    path = write_raw(tmp_path / "model.safetensors", json.dumps(header).encode() + b"   ", b"\0" * 32)
    found = read_header(path)
    assert [(entry.name, entry.shape, entry.bytes) for entry in found.entries] == [
        ("b", (0, 5), 0), ("a", (2, 3), 24), ("c", (), 8),
    ]  # fmt: skip
    assert found.metadata == {"format": "pt"}
    assert fitcalc.load_model(path).params_total == 7


def test_other_files_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")
    assert "git lfs pull" in refusal(str(path))
    path.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    assert "pickled" in refusal(str(path))
    path.write_bytes(b"<!DOCTYPE html><html>" + b" " * 100)
    refusal(str(path))


# --- in proportion ----------------------------------------------------------------------------------------------------


def _many(count: int, name: str = "model.layers.{}.mlp.experts.{}.w1.weight") -> bytes:
    entries = {
        name.format(n % 64, n // 64): {"dtype": "U8", "shape": [1, 1], "data_offsets": [n, n + 1]} for n in range(count)
    }
    return json.dumps(entries).encode()


def test_memory_and_time_stay_in_proportion_to_the_header(tmp_path: Path) -> None:
    header = _many(8_000)
    path = write_raw(tmp_path / "model.safetensors", header, b"\0" * 8_000)
    started = time.process_time()
    tracemalloc.start()
    try:
        spec = fitcalc.load_model(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spec.params_total == 8_000
    assert peak < 30 * len(header)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "header",
    [
        json.dumps({"quant_state." * 40_000 + "x": GOOD}).encode(),
        json.dumps({".weight" * 40_000: GOOD}).encode(),
        json.dumps({".".join("1" * 200_000): GOOD}).encode(),
        json.dumps({f"k{n}": GOOD for n in range(20_000)}).encode()[:-1] + b', "k0": 1}',
        b'{"a": [' + b"[]," * 300_000 + b"[]]}",
    ],
    ids=["long part", "long suffix", "many words", "late duplicate", "many lists"],
)
def test_no_header_takes_more_than_its_share_of_time(header: bytes, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, b"\0" * 24)
    started = time.process_time()
    assert len(_answer(path)) < 600
    assert time.process_time() - started < 5


# --- mutations --------------------------------------------------------------------------------------------------------

_VALID = {
    "model.embed_tokens.weight": ("BF16", (64, 256)),
    "model.layers.0.self_attn.q_norm.weight": ("F32", (64,)),
    **gptq("model.layers.0.self_attn.k_proj", 64, 256),
    **awq("model.layers.1.self_attn.k_proj", 64, 256),
    "model.layers.0.mlp.experts.0.w1.weight": ("F8_E4M3", (32, 256)),
    "model.layers.0.mlp.experts.0.w1.weight_scale_inv": ("F32", (1, 2)),
    "model.layers.0.mlp.experts.gate_up_proj_blocks": ("U8", (2, 64, 8, 16)),
    "model.layers.0.mlp.experts.gate_up_proj_scales": ("U8", (2, 64, 8)),
    "model.layers.1.mlp.down_proj.weight": ("U8", (8192, 1)),
    "model.layers.1.mlp.down_proj.weight.absmax": ("F32", (256,)),
}
_START, _DATA = header_of(_VALID)
_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _answer(path: str) -> str:
    """What the file is refused with; '' for one that is read."""
    try:
        fitcalc.load_model(path)
    except FitcalcError as error:
        return str(error)
    return ""


def _answers(path: Path, content: bytes) -> None:
    """A spec with sane numbers, or one line."""
    path.write_bytes(content)
    said = _answer(str(path))
    assert "\n" not in said
    assert len(said) < 600
    if not said:
        assert fitcalc.load_model(str(path)).file_bytes == len(content)


@given(edits=st.lists(st.tuples(st.integers(0, len(_START) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@_SETTINGS
def test_flipped_bytes(edits: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(_START + bytes(_DATA))
    for place, value in edits:
        content[place] = value
    _answers(tmp_path / "model.safetensors", bytes(content))


@given(cut=st.integers(0, len(_START) + _DATA), tail=st.binary(max_size=16))
@_SETTINGS
def test_truncations(cut: int, tail: bytes, tmp_path: Path) -> None:
    _answers(tmp_path / "model.safetensors", (_START + bytes(_DATA))[:cut] + tail)


_EXTREMES = st.sampled_from([0, 1, 2, 7, 255, 256, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, -1, 1.5, "8", None, True])
_SHAPES = st.lists(st.one_of(st.integers(0, 300), _EXTREMES), max_size=5)


@given(
    name=st.sampled_from(sorted(_VALID)),
    dtype=st.sampled_from(["BF16", "F32", "U8", "I32", "F8_E4M3", "F4", "F6_E2M3", "I64", "BOOL", "X"]),
    shape=_SHAPES,
)
@_SETTINGS
def test_any_type_and_shape_in_place_of_one(name: str, dtype: str, shape: list[Any], tmp_path: Path) -> None:
    """Offsets are made to agree where they can, so that what is odd reaches the unpacking."""
    entries: dict[str, Any] = {}
    end = 0
    bits = {"BF16": 16, "F32": 32, "I32": 32, "F4": 4, "F6_E2M3": 6, "I64": 64}.get(dtype, 8)
    for key, (stored, sides) in _VALID.items():
        chosen, width = (
            (shape, bits)
            if key == name
            else (list(sides), {"BF16": 16, "F16": 16, "F32": 32, "I32": 32}.get(stored, 8))
        )
        size = width
        for side in chosen:
            size = size * side if isinstance(side, int) else size
        size = min(max(size // 8, 0), 2**20)
        entries[key] = {"dtype": dtype if key == name else stored, "shape": chosen, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    _answers(tmp_path / "model.safetensors", struct.pack("<Q", len(header)) + header + bytes(end))


@given(data=st.data())
@_SETTINGS
def test_parts_of_packed_weights_that_are_missing_or_swapped(data: st.DataObject, tmp_path: Path) -> None:
    kept = data.draw(st.lists(st.sampled_from(sorted(_VALID)), min_size=1, unique=True))
    shapes = data.draw(st.permutations([_VALID[name] for name in kept]))
    path = tmp_path / "model.safetensors"
    size = write(path, dict(zip(kept, shapes, strict=True)))
    spec = fitcalc.load_model(str(path))
    assert spec.file_bytes == size
