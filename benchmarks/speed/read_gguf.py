"""What reading a GGUF file costs: CPU time for vocabularies of three sizes, and the ratio to the gguf package.

    python benchmarks/speed/read_gguf.py [rounds]

The vocabulary (tokens, types, merges) is most of a header; it is stepped over, not decoded. Best of several rounds on
this machine; the gguf package reads each file once, where it is installed.
"""

from __future__ import annotations

import random
import struct
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fitcalc.readers.gguf import model_from_gguf

VOCABULARIES = (32_000, 152_064, 262_144)
LAYERS, HIDDEN = 32, 4096
_U32, _STRING, _ARRAY, _I32 = 4, 8, 9, 5
_Q4_K, _F32 = 12, 0


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def numbers(name: str, value: int) -> bytes:
    return string(name.encode()) + struct.pack("<II", _U32, value)


def strings(name: str, words: list[bytes]) -> bytes:
    return string(name.encode()) + struct.pack("<IIQ", _ARRAY, _STRING, len(words)) + b"".join(map(string, words))


def header(tokens: int) -> bytes:
    """A Llama of 32 layers with a byte-pair vocabulary, words as long as real ones."""
    draw = random.Random(7)
    words = [bytes(draw.choices(range(97, 123), k=draw.randint(1, 13))) for _ in range(tokens)]
    pairs = [
        string(b"general.architecture") + struct.pack("<I", _STRING) + string(b"llama"),
        numbers("llama.block_count", LAYERS),
        numbers("llama.context_length", 131_072),
        numbers("llama.embedding_length", HIDDEN),
        numbers("llama.attention.head_count", 32),
        numbers("llama.attention.head_count_kv", 8),
        strings("tokenizer.ggml.tokens", words),
        string(b"tokenizer.ggml.token_type") + struct.pack("<IIQ", _ARRAY, _I32, tokens) + bytes(4 * tokens),
        strings("tokenizer.ggml.merges", [word[:1] + b" " + word for word in words]),
    ]
    tensors, offset = [], 0
    for name, rows in names():
        rank, kind = (2, _Q4_K) if rows else (1, _F32)
        dimensions = (HIDDEN, rows)[:rank]
        tensors.append(string(name.encode()) + struct.pack(f"<I{rank}QIQ", rank, *dimensions, kind, offset))
        offset += HIDDEN // 256 * 144 * rows if rows else HIDDEN * 4
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    whole = start + b"".join(pairs) + b"".join(tensors)
    return whole + bytes(-len(whole) % 32 + offset)


def names() -> list[tuple[str, int]]:
    """(name, rows; 0 for a vector) of the tensors; matrices of the layers are one row, so that files stay small."""
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    layers = [(f"blk.{n}.{name}.weight", 1) for n in range(LAYERS) for name in matrices]
    return [("token_embd.weight", 1), ("output_norm.weight", 0), *layers]


def cpu_ms(read: object, path: str) -> float:
    begun = time.process_time()
    read(path)  # type: ignore[operator]
    return (time.process_time() - begun) * 1000


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    try:
        from gguf import GGUFReader
    except ImportError:
        GGUFReader = None  # noqa: N806
    print(f"{'vocabulary':>10}  {'header':>9}  {'fitcalc':>9}  gguf package")
    with TemporaryDirectory() as folder:
        for tokens in VOCABULARIES:
            content = header(tokens)
            path = str(Path(folder) / "model.gguf")
            Path(path).write_bytes(content)
            mine = min(cpu_ms(model_from_gguf, path) for _ in range(rounds))
            other = "not installed"
            if GGUFReader is not None:
                theirs = cpu_ms(GGUFReader, path)
                other = f"{theirs:,.0f} ms, {theirs / mine:,.0f} x"
            print(f"{tokens:>10,}  {len(content) / 1e6:>6.1f} MB  {mine:>6.1f} ms  {other}")


if __name__ == "__main__":
    main()
