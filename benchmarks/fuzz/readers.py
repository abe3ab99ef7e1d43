"""A coverage-guided run over one reader: `python benchmarks/fuzz/readers.py config|safetensors|gguf [options]`.

Needs atheris, which is no extra of fitcalc (`pip install atheris`); options are libFuzzer's. A bounded run of five
minutes that keeps what it learns in a folder: `python benchmarks/fuzz/readers.py gguf -max_total_time=300 corpus`.
Every input has to give a model or one FitcalcError of one line, soon. Anything else is a finding: the first of each
place in the code is printed, its input is left in a file finding-*, and the run goes on.
"""

from __future__ import annotations

import copy
import json
import os
import random
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

with atheris.instrument_imports(include=["fitcalc"]):
    from fitcalc import catalog
    from fitcalc.architectures import from_config, registry
    from fitcalc.catalog.building import config_of
    from fitcalc.catalog.files import packaged_folder, read_toml
    from fitcalc.errors import FitcalcError
    from fitcalc.readers import folder, gguf, hf_config, safetensors
    from fitcalc.spec.model import ModelSpec

_HOLE_BYTES = 2**24
"""Of nothing behind a mutated GGUF header, so that shapes and not only sizes are judged."""
_SOON_S = 3
_LONGEST_LINE = 2000
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e308, "", "4096", "full_attention", [], [0], [None], {},
    {"model_type": "llama"}, [[1]], ["x"] * 3,
)  # fmt: skip
_PLACE = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def main() -> None:
    """Start libFuzzer on the reader that is named first; the rest of the command line is libFuzzer's."""
    kind, *options = sys.argv[1:]
    read, seeds, mutate = _TARGETS[kind]
    corpus = next((word for word in options if not word.startswith("-")), "")
    if not corpus:
        corpus = str(_PLACE / "corpus")
        options.append(corpus)
    os.makedirs(corpus, exist_ok=True)
    for number, seed in enumerate(seeds()):
        Path(corpus, f"seed-{number}").write_bytes(seed)
    bounds = ["-timeout=20", "-rss_limit_mb=1500", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *bounds, *options], _judged(read), custom_mutator=mutate)
    atheris.Fuzz()


def _judged(read: Callable[[bytes], ModelSpec]) -> Callable[[bytes], None]:
    """What libFuzzer calls: reads an input and keeps the first of each kind of finding."""
    found: set[tuple[str, str, int]] = set()

    def test_one(data: bytes) -> None:
        began = time.process_time()
        try:
            _hold(read, data)
            if time.process_time() - began > _SOON_S:
                raise AssertionError(f"took {time.process_time() - began:.1f} s")
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = (type(error).__name__, last.filename, last.lineno or 0)
            if place not in found:
                found.add(place)
                Path(f"finding-{len(found)}").write_bytes(data)
                print(f"FINDING {len(found)}: {place[0]} at {place[1]}:{place[2]}: {error!s:.200}", flush=True)

    return test_one


def _hold(read: Callable[[bytes], ModelSpec], data: bytes) -> None:
    """The oracle: a model whose sums can be taken, or one error of one line."""
    try:
        spec = read(data)
    except FitcalcError as error:
        if "\n" in str(error) or len(str(error)) > _LONGEST_LINE:
            raise AssertionError(f"not one line: {str(error)[:300]!r}") from error
        return
    counted = spec.params_total
    if not isinstance(counted, int) or counted < 0 or any(tensor.elems < 0 for tensor in spec.tensors):
        raise AssertionError(f"counts {counted!r} parameters")


# --- config.json ------------------------------------------------------------------------------------------------------


def _read_config(data: bytes) -> ModelSpec:
    path = _PLACE / "config.json"
    path.write_bytes(data)
    return hf_config.model_from_config(str(path))


def _configs() -> Iterator[dict[str, Any]]:
    """Real configurations, one of each model type."""
    seen = set()
    for name in catalog.ids("models"):
        config = config_of(read_toml(os.path.join(packaged_folder(), "models", f"{name}.toml")))
        if config.get("model_type") not in seen:
            seen.add(config.get("model_type"))
            yield config


def _mutate_config(data: bytes, max_size: int, seed: int) -> bytes:
    """One value of the object put in place of another, or bytes as libFuzzer changes them."""
    chance = random.Random(seed)
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or len(config) < 2 or chance.random() < 0.1:
        return bytes(atheris.Mutate(data, max_size))
    for _ in range(chance.choice((1, 1, 2, 4))):
        if config:
            _change(config, chance)
    return json.dumps(config).encode()[:max_size]


def _odd(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(_ODD))


def _change(config: dict[str, Any], chance: random.Random) -> None:
    tables = [config, *(value for value in config.values() if isinstance(value, dict) and value)]
    place = chance.choice(tables)
    key = chance.choice(list(place))
    way = chance.random()
    if way < 0.15:
        del place[key]
    elif way < 0.25:
        place["model_type"] = chance.choice(sorted(registry.BUILDERS))
    elif way < 0.4 and isinstance(place[key], list) and place[key]:
        place[key] = [*place[key][: chance.randrange(len(place[key]))], _odd(chance)]
    elif way < 0.5:
        place[chance.choice(list(config))] = copy.deepcopy(place[key])
    elif way < 0.7 and type(place[key]) is int:
        place[key] += chance.choice((-1, 1, 7, place[key]))
    else:
        place[key] = _odd(chance)


# --- safetensors ------------------------------------------------------------------------------------------------------


def _read_safetensors(data: bytes) -> ModelSpec:
    """The header is the input; the data behind it is a hole as long as the header says, if it says so sensibly."""
    path = _PLACE / "model.safetensors"
    length = _data_bytes(data)
    path.write_bytes(struct.pack("<Q", len(data)) + data if length is not None else data)
    if length:
        os.truncate(path, 8 + len(data) + length)
    return safetensors.model_from_safetensors(str(path))


def _data_bytes(header: bytes) -> int | None:
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return max(0, min(max(ends, default=0), 2**40))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None


def _headers() -> Iterator[bytes]:
    from safetensors_files import header_of, names_of

    small = {"num_hidden_layers": 2, "layer_types": None, "num_local_experts": 4, "n_routed_experts": 4}
    for config in _configs():
        try:
            spec = from_config(config | {key: value for key, value in small.items() if key in config})
            header = header_of(names_of(spec))[0][8:]
        except (FitcalcError, KeyError):
            continue
        if len(header) < 60_000:
            yield header


def _mutate_header(data: bytes, max_size: int, seed: int) -> bytes:
    """Names, shapes and types changed with the offsets put right again, or bytes as libFuzzer changes them."""
    chance = random.Random(seed)
    try:
        header = json.loads(data)
        entries = [name for name in header if name != "__metadata__"]
        if not entries or chance.random() < 0.2:
            raise ValueError
        for _ in range(chance.choice((1, 1, 3))):
            _change_entry(header, chance.choice(entries), chance)
        _lay_out(header)
        return json.dumps(header).encode()[:max_size]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))


def _change_entry(header: dict[str, Any], name: str, chance: random.Random) -> None:
    entry = header[name]
    match chance.randrange(5):
        case 0:
            header[name[: chance.randrange(len(name))] + chance.choice((".qweight", ".scales", "", "_scale_inv"))] = (
                entry
            )
        case 1:
            entry["dtype"] = chance.choice(("F32", "BF16", "I32", "U8", "F8_E4M3", "F4", "I64"))
        case 2:
            place = chance.randrange(len(entry["shape"]) + 1)
            entry["shape"] = [*entry["shape"][:place], chance.choice((0, 1, 2, 64, 4096, 2**40))]
        case 3:
            header.pop(name)
        case _:
            header[name.replace("0", str(chance.choice((1, 7, 10**6, 10**20))))] = entry


def _lay_out(header: dict[str, Any]) -> None:
    from safetensors_files import BITS

    end = 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = BITS.get(entry["dtype"], 8) // 8
            for side in entry["shape"]:
                size *= side
            entry["data_offsets"] = [end, end + size]
            end += size


# --- GGUF -------------------------------------------------------------------------------------------------------------


def _read_gguf(data: bytes) -> ModelSpec:
    path = _PLACE / "model.gguf"
    path.write_bytes(data)
    os.truncate(path, len(data) + _HOLE_BYTES)
    return gguf.model_from_gguf(str(path))


def _ggufs() -> Iterator[bytes]:
    from gguf_files import ARRAY, F32, STRING, U32, FileTensor, Gguf

    norms = [f"blk.{layer}.{name}_norm.weight" for layer in range(2) for name in ("attn", "ffn")]
    for architecture in ("llama", "qwen3moe", "gemma3", "deepseek2", "mamba", "nonesuch"):
        names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
        tensors = [FileTensor("token_embd.weight", (64, 320), "q8_0"), FileTensor("output_norm.weight", (64,))]
        tensors += [FileTensor(name, (64,)) for name in norms]
        tensors += [FileTensor(f"blk.{layer}.{name}.weight", (64, 64), "f16") for layer in range(2) for name in names]
        numbers = {"block_count": 2, "embedding_length": 64, "context_length": 4096, "feed_forward_length": 64,
                   "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 16,
                   "attention.sliding_window": 32, "expert_count": 4, "expert_used_count": 2,
                   "ssm.conv_kernel": 4, "ssm.state_size": 8, "ssm.inner_size": 64}  # fmt: skip
        metadata = {"general.architecture": (STRING, architecture), "general.file_type": (U32, 7)}
        metadata |= {f"{architecture}.{key}": (U32, value) for key, value in numbers.items()}
        metadata |= {
            f"{architecture}.rope.freq_base": (F32, 1e4),
            "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a"] * 320)),
        }
        yield Gguf(metadata, tuple(tensors)).header()


_Target = tuple[Callable[[bytes], ModelSpec], Callable[[], Iterator[bytes]], Callable[[bytes, int, int], bytes] | None]
_TARGETS: dict[str, _Target] = {
    "config": (_read_config, lambda: (json.dumps(config).encode() for config in _configs()), _mutate_config),
    "safetensors": (_read_safetensors, _headers, _mutate_header),
    "gguf": (_read_gguf, _ggufs, None),
}

if __name__ == "__main__":
    assert folder  # instrumented with the rest
    main()
