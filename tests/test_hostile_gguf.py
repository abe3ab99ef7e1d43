"""GGUF files that are wrong: one handcrafted file for each way, then mutations of a sound one.

A reader answers with ModelFileError and one line, in time and memory that the file's size bounds, never with its lies.
"""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    FileTensor,
    Gguf,
    Pair,
    small,
    small_tensors,
    split,
    string,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitcalc.errors import ModelFileError
from fitcalc.readers.files import model_from_path
from fitcalc.readers.gguf import model_from_gguf

HUGE = 2**63


def refused(path: str, *words: str) -> str:
    """The one line of a refusal; it names the file and says the words."""
    with pytest.raises(ModelFileError) as caught:
        model_from_gguf(path)
    said = str(caught.value)
    assert said.startswith(path)
    assert "\n" not in said
    assert len(said) - len(path) < 400
    assert caught.value.hint
    for word in words:
        assert word in said, said
    return said


@contextmanager
def bounded(seconds: float = 3.0, memory_bytes: int = 32 * 2**20) -> Iterator[None]:
    tracemalloc.start()
    begun = time.process_time()
    try:
        yield
        spent, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert spent < seconds
    assert peak < memory_bytes


def write(tmp_path: Path, content: Gguf | bytes, name: str = "model.gguf") -> str:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
        return str(path)
    return content.write(path)


def tensor(**changes: object) -> Gguf:
    """The small model with its first tensor changed."""
    whole = small()
    first = replace(whole.tensors[0], **changes)
    return replace(whole, tensors=(first, *whole.tensors[1:]))


def array_of(kind: int, count: int, content: bytes = b"") -> bytes:
    return string("some.array") + struct.pack("<IIQ", ARRAY, kind, count) + content


def with_pair(raw: bytes) -> Gguf:
    whole = small()
    return replace(whole, extra=raw, key_count=len(whole.metadata) + 1)


STARTS = {
    "empty": (b"", "empty"),
    "two bytes": (b"GG", "does not begin"),
    "magic alone": (b"GGUF", "4 bytes"),
    "no counts": (b"GGUF" + struct.pack("<I", 3), "8 bytes"),
    "other magic": (b"GGML" + bytes(60), "does not begin with 'GGUF'"),
    "swapped magic": (b"FUGG" + bytes(60), "big-endian"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(40), "big-endian"),
    "version 0": (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "version 0"),
    "version 1": (b"GGUF" + struct.pack("<III", 1, 0, 0) + bytes(20), "version 1"),
    "version 99": (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
    "nothing behind the counts": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "general.architecture|no tensors"),
}


@pytest.mark.parametrize("name", STARTS)
def test_start_of_a_file(tmp_path: Path, name: str) -> None:
    content, words = STARTS[name]
    said = refused(write(tmp_path, content))
    assert any(word in said for word in words.split("|")), said


COUNTS = {
    "tensors": replace(small(), tensor_count=HUGE),
    "keys": replace(small(), key_count=HUGE),
    "tensors by one": replace(small(), tensor_count=len(small().tensors) + 2**16),
    "keys by one": replace(small(), key_count=len(small().metadata) + 1),
    "strings": with_pair(array_of(STRING, HUGE)),
    "bytes": with_pair(array_of(U8, HUGE)),
    "numbers": with_pair(array_of(U64, 2**61)),
    "more strings than bytes": with_pair(array_of(STRING, 2**21)),
    "long string in an array": with_pair(array_of(STRING, 3, struct.pack("<Q", HUGE + 2**62) + bytes(64))),
    "long string": with_pair(string("text") + struct.pack("<IQ", STRING, HUGE)),
    "long key": with_pair(struct.pack("<Q", HUGE)),
    "short array": with_pair(array_of(U32, 5, bytes(4))),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_held_against_the_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, replace(COUNTS[name], tensors=COUNTS[name].tensors))
    with bounded():
        refused(path)


def test_hang_of_other_readers_is_refused_at_once(tmp_path: Path) -> None:
    """49 bytes: an array of 2^63 bytes, on which readers that allocate or count what they are told never end."""
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", ARRAY, U8, HUGE)
    assert len(content) == 49
    with bounded(0.5, 2**21):
        refused(write(tmp_path, content), "9,223,372,036,854,775,808")


PAIRS = {
    "empty key": (string("") + struct.pack("<II", U32, 1), "empty key"),
    "key of 70,000 bytes": (string("k" * 70_000) + struct.pack("<II", U32, 1), "70,000"),
    "key not UTF-8": (string(b"\xff\xfe") + struct.pack("<II", U32, 1), "not UTF-8"),
    "key twice": (string("llama.block_count") + struct.pack("<II", U32, 1), "appears twice"),
    "unknown value type": (string("k") + struct.pack("<II", 77, 1), "value type 77"),
    "array of arrays": (array_of(ARRAY, 1, bytes(16)), "array of arrays"),
    "array of an unknown type": (array_of(55, 1, bytes(16)), "type 55"),
    "boolean 2": (string("k") + struct.pack("<IB", BOOL, 2), "boolean"),
    "boolean 2 in an array": (array_of(BOOL, 2, b"\x01\x02"), "boolean"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(tmp_path: Path, name: str) -> None:
    raw, words = PAIRS[name]
    refused(write(tmp_path, with_pair(raw)), words)


@pytest.mark.parametrize("value", [0, 3, 48, 2**21, 2**31])
def test_alignment(tmp_path: Path, value: int) -> None:
    refused(write(tmp_path, small(general__alignment=(U32, value))), "general.alignment")


@pytest.mark.parametrize("pair", [(STRING, "32"), (F32, 32.0), (BOOL, 1), (I32, -32)])
def test_alignment_of_another_type(tmp_path: Path, pair: Pair) -> None:
    refused(write(tmp_path, small(general__alignment=pair)), "general.alignment")


TENSORS = {
    "no name": (tensor(name=""), "empty tensor name"),
    "name of 64 bytes": (tensor(name="n" * 64), "64 bytes"),
    "twice": (tensor(name="output.weight"), "appears twice"),
    "no dimensions": (tensor(dimensions=()), "0 dimensions"),
    "five dimensions": (tensor(dimensions=(32, 1, 1, 1, 1)), "5 dimensions"),
    "dimension 0": (tensor(dimensions=(512, 0)), "512 × 0"),
    "negative dimension": (tensor(dimensions=(512, 2**64 - 1)), "shape"),
    "product beyond 2^63": (tensor(dimensions=(4194305, 4194305, 211106198978564), type="f32"), "shape"),
    "unknown type": (tensor(type=199), "unknown type 199"),
    "removed type": (tensor(type=4), "unknown type 4"),
    "row no multiple of a block": (tensor(dimensions=(511, 32000), type="q4_K"), "256 elements"),
    "offset not aligned": (tensor(offset=7), "odd offset 7"),
    "offset beyond the end": (tensor(offset=2**40), "missing"),
    "overlap": (replace(small(), tensors=(*small().tensors[:-1], replace(small().tensors[-1], offset=0))), "overlap"),
    "layer beyond block_count": (tensor(name="blk.2.attn_q.weight"), "2 blocks"),
    "layer beyond every count": (tensor(name="blk.999999.attn_q.weight"), "2 blocks"),
    "no token embedding": (tensor(name="other.weight"), "token_embd"),
    "embedding of another width": (tensor(dimensions=(1024, 32000)), "embedding_length"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(tmp_path: Path, name: str) -> None:
    content, words = TENSORS[name]
    with bounded():
        refused(write(tmp_path, content), words)


METADATA = {
    "no architecture": (small(general__architecture=(U32, 7)), "general.architecture"),
    "architecture with a newline": (small(general__architecture=(STRING, "lla\nma")), "general.architecture"),
    "architecture of another file's keys": (small(general__architecture=(STRING, "gemma2")), "gemma2.block_count"),
    "block_count 0": (small(llama__block_count=(U32, 0)), "block_count is 0"),
    "block_count beyond reason": (small(llama__block_count=(U32, 2**31)), "block_count"),
    "block_count as text": (small(llama__block_count=(STRING, "32")), "block_count is '32'"),
    "block_count as a fraction": (small(llama__block_count=(F32, 2.0)), "block_count is 2.0"),
    "embedding_length negative": (small(llama__embedding_length=(I32, -1)), "embedding_length is -1"),
    "heads per layer, too few": (
        small(llama__attention__head_count_kv=(ARRAY, (U32, [2]))), "lists 1 values for 2 layers"),
    "heads per layer, texts": (
        small(llama__attention__head_count_kv=(ARRAY, (STRING, ["2", "2"]))), "lists 2 values for 2 layers"),
    "heads per layer, negative": (
        small(llama__attention__head_count_kv=(ARRAY, (I32, [2, -2]))), "head_count_kv is -2"),
    "heads that the tensors do not have": (small(llama__attention__head_count_kv=(U32, 4)), "256"),
    "heads beyond reason": (small(llama__attention__head_count=(U64, 2**40)), "head_count"),
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_metadata(tmp_path: Path, name: str) -> None:
    content, words = METADATA[name]
    refused(write(tmp_path, content), words)


KINDS = {
    "projector by type": (small(general__type=(STRING, "mmproj")), "projector"),
    "projector by architecture": (small(general__architecture=(STRING, "clip")), "projector"),
    "adapter": (small(general__type=(STRING, "adapter")), "LoRA adapter"),
    "adapter of old": (small(adapter__type=(STRING, "lora")), "LoRA adapter"),
    "importance matrix": (small(general__type=(STRING, "imatrix")), "importance matrix"),
    "vocabulary": (replace(small(), tensors=()), "no tensors"),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_files_are_recognised(tmp_path: Path, name: str) -> None:
    content, words = KINDS[name]
    refused(write(tmp_path, content), words)


def test_projector_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        model_from_gguf(write(tmp_path, small(general__type=(STRING, "mmproj"))))
    assert "mmproj=true" in caught.value.hint


@pytest.mark.parametrize("missing", [1, 31, 4096, 10**6])
def test_cut_off_data_says_how_many_bytes_are_missing(tmp_path: Path, missing: int) -> None:
    refused(small().write(tmp_path / "cut.gguf", missing=missing), f"{missing:,} of")


def test_every_cut_through_a_header_is_refused(tmp_path: Path) -> None:
    header = small().header()
    for length in (*range(64), *range(64, len(header), 9), len(header) - 1):
        refused(write(tmp_path, header[:length]))


def test_part_of_a_split_file(tmp_path: Path) -> None:
    whole = small()
    paths = split(whole, (3, 8, len(whole.tensors) - 11), tmp_path)
    os.rename(paths[1], tmp_path / "gone")
    for path in (paths[0], paths[2]):
        refused(path, "model-00002-of-00003.gguf missing")
    os.rename(paths[2], paths[1])
    refused(paths[0], "model-00003-of-00003.gguf missing")
    (tmp_path / "model-00003-of-00003.gguf").write_bytes(Path(paths[1]).read_bytes())
    with pytest.raises(ModelFileError, match="part 2 of 3"):
        model_from_gguf(paths[0])


def test_part_under_another_name(tmp_path: Path) -> None:
    paths = split(small(), (5, 16), tmp_path)
    os.rename(paths[1], tmp_path / "second.gguf")
    refused(str(tmp_path / "second.gguf"), "part 2 of 2, under another name")


def test_parts_of_two_downloads(tmp_path: Path) -> None:
    whole = small()
    paths = split(whole, (5, 16), tmp_path)
    other = {"split.no": (U16, 1), "split.count": (U16, 2), "split.tensors.count": (I32, 21)}
    Gguf(other, whole.tensors[4:]).write(paths[1])
    with pytest.raises(ModelFileError, match="in another part too"):
        model_from_gguf(paths[0])
    Gguf(other, whole.tensors[6:]).write(paths[1])
    with pytest.raises(ModelFileError, match="20 tensors, not 21"):
        model_from_gguf(paths[0])


@pytest.mark.parametrize("count", [2, 9999])
def test_split_counts_that_lie(tmp_path: Path, count: int) -> None:
    path = small(split__count=(U16, count), split__no=(U16, 0)).write(tmp_path / f"m-00001-of-{count:05}.gguf")
    with bounded():
        refused(path, "missing")


def test_sparse_files_of_any_size_are_cheap(tmp_path: Path) -> None:
    """A header of zeros behind a lie, in a file of a terabyte that takes no space on disk."""
    path = tmp_path / "sparse.gguf"
    for kind, count in ((STRING, 2**36), (U8, 2**39), (STRING, 2**20)):
        content = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + array_of(kind, count)
        with open(path, "wb") as file:
            file.write(content)
            file.truncate(2**40)
        with bounded(10.0):
            refused(str(path))


@pytest.mark.parametrize("kind", ["folder", "fifo", "nothing"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ModelFileError):
        model_from_path(str(path))


SOUND = small().header()
CHEAP = settings(max_examples=120, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip


def answers(tmp_path: Path, content: bytes) -> None:
    """A mutated header, with room for its data behind it: a model or a refusal, nothing else."""
    path = tmp_path / "mutant.gguf"
    with open(path, "wb") as file:
        file.write(content)
        file.truncate(len(content) + small().data_bytes() + 64)
    try:
        spec = model_from_gguf(str(path))
    except ModelFileError:
        return
    assert spec.params_total > 0
    assert spec.file_bytes == os.path.getsize(path)


@CHEAP
@given(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=12))
def test_overwritten_bytes(tmp_path: Path, place: int, patch: bytes) -> None:
    with bounded():
        answers(tmp_path, SOUND[:place] + patch + SOUND[place + len(patch) :])


@CHEAP
@given(st.integers(0, len(SOUND) - 8), st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]))
def test_spliced_extremes(tmp_path: Path, place: int, value: int) -> None:
    with bounded():
        answers(tmp_path, SOUND[:place] + struct.pack("<Q", value) + SOUND[place + 8 :])


@CHEAP
@given(st.integers(24, len(SOUND)), st.integers(0, 200))
def test_removed_bytes(tmp_path: Path, place: int, count: int) -> None:
    with bounded():
        answers(tmp_path, SOUND[:place] + SOUND[place + count :])


@CHEAP
@given(st.binary(max_size=300))
def test_noise_behind_the_start(tmp_path: Path, noise: bytes) -> None:
    with bounded():
        answers(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 2, 3) + noise)


def test_the_sound_file_is_read(tmp_path: Path) -> None:
    spec = model_from_gguf(small().write(tmp_path / "sound.gguf"))
    assert spec.params_total == 2 * 512 * 32000 + 512 * (1 + 2 * 2) + 2 * (
        2 * 512 * 512 + 2 * 512 * 128 + 3 * 512 * 1024
    )
    assert len(small_tensors()) == len(small().tensors)
    assert FileTensor("x", (256, 2), "q4_K").bytes == 288
