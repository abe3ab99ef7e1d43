"""Start files read back: the arguments of a command as options of `fit`, the second reading of what emission writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Given = dict[str, Any]
"""Keyword arguments of `fit`."""
_FLAGS_ALONE = {
    "--enforce-eager", "--enable-expert-parallel", "--enable-lora", "--fully-sharded-loras", "--language-model-only",
    "--skip-mm-profiling", "--headless", "--disable-cuda-graph", "--disable-radix-cache", "--enable-dp-attention",
    "--kv-unified", "--no-kv-unified", "--swa-full", "-nkvo", "--no-mmap", "--no-repack", "--no-mmproj",
    "--no-mmproj-offload",
}  # fmt: skip


def arguments(words: Sequence[str]) -> dict[str, str | bool]:
    """{argument: value} of the words behind a program; a word without an argument before it is ''."""
    found: dict[str, str | bool] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            found[""] = word
        elif word in _FLAGS_ALONE or (word == "-fa" and (not rest or rest[0] not in ("on", "off"))):
            found[word] = True
        else:
            found[word] = rest.pop(0)
    return found


def _options(given: Mapping[str, str | bool], names: Mapping[str, str]) -> dict[str, str]:
    return {option: str(given[name]).lower() if given[name] is True else str(given[name])
            for name, option in names.items() if name in given}  # fmt: skip


def _degree(given: Mapping[str, str | bool], *names: str) -> int:
    return next((int(given[name]) for name in names if name in given), 1)


def vllm(given: Mapping[str, str | bool]) -> Given:
    names = ("max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "enforce-eager", "block-size",
             "speculative-config", "enable-lora", "max-loras", "max-lora-rank")  # fmt: skip
    return {
        "context": int(given["--max-model-len"]),
        "kv_dtype": given.get("--kv-cache-dtype"),
        "tensor_parallel": _degree(given, "--tensor-parallel-size"),
        "pipeline_parallel": _degree(given, "--pipeline-parallel-size"),
        "data_parallel": _degree(given, "--data-parallel-size"),
        "expert_parallel": "--enable-expert-parallel" in given,
        "engine_options": _options(given, {f"--{name}": name.replace("-", "_") for name in names}),
    }


def sglang(given: Mapping[str, str | bool]) -> Given:
    names = ("max-running-requests", "mem-fraction-static", "chunked-prefill-size", "cuda-graph-max-bs", "page-size",
             "disable-cuda-graph", "max-total-tokens", "swa-full-tokens-ratio", "mamba-full-memory-ratio",
             "disable-radix-cache")  # fmt: skip
    copies = _degree(given, "--dp-size")
    inside = copies if "--enable-dp-attention" in given else 1
    return {
        "context": int(given["--context-length"]),
        "kv_dtype": given.get("--kv-cache-dtype"),
        "tensor_parallel": _degree(given, "--tp-size") // inside,
        "pipeline_parallel": _degree(given, "--pp-size"),
        "data_parallel": copies,
        "expert_parallel": "--ep-size" in given,
        "engine_options": _options(
            given,
            {f"--{name}": name.replace("-", "_") for name in names}
            | {"--cuda-graph-max-bs-decode": "cuda_graph_max_bs"},
        ),
    }


def tgi(given: Mapping[str, str | bool]) -> Given:
    names = ("max-batch-prefill-tokens", "cuda-memory-fraction", "cuda-graphs")
    return {
        "context": int(given["--max-total-tokens"]),
        "kv_dtype": given.get("--kv-cache-dtype"),
        "tensor_parallel": _degree(given, "--num-shard"),
        "engine_options": _options(given, {f"--{name}": name.replace("-", "_") for name in names}),
    }


def tensorrt_llm(given: Mapping[str, str | bool], file: Mapping[str, Any]) -> Given:
    names = {"--max_batch_size": "max_batch_size", "--max_num_tokens": "max_num_tokens",
             "--kv_cache_free_gpu_memory_fraction": "free_gpu_memory_fraction"}  # fmt: skip
    cache = file.get("kv_cache_config", {})
    ranks, copies = _degree(given, "--tp_size"), bool(file.get("enable_attention_dp"))
    options = _options(given, names)
    options |= {"tokens_per_block": str(cache["tokens_per_block"])} if "tokens_per_block" in cache else {}
    options |= {"cuda_graph_disabled": "true"} if "cuda_graph_config" in file else {}
    return {
        "context": int(given["--max_seq_len"]),
        "kv_dtype": cache.get("dtype"),
        "tensor_parallel": 1 if copies else ranks,
        "data_parallel": ranks if copies else 1,
        "pipeline_parallel": _degree(given, "--pp_size"),
        "expert_parallel": "--ep_size" in given,
        "engine_options": options,
    }


_LLAMA = {
    "-ngl": "n_gpu_layers", "--n-cpu-moe": "n_cpu_moe", "-b": "n_batch", "-ub": "n_ubatch", "-ctk": "type_k",
    "-ctv": "type_v", "-ot": "override_tensor", "-sm": "split_mode", "-ts": "tensor_split", "-mg": "main_gpu",
}  # fmt: skip
_SWITCHES = {
    "--kv-unified": ("kv_unified", "true"), "--swa-full": ("swa_full", "true"), "-nkvo": ("no_kv_offload", "true"),
    "--no-mmap": ("mmap", "false"), "--load-mode": ("mmap", "false"), "--no-repack": ("repack", "false"),
    "--no-mmproj-offload": ("mmproj_offload", "false"),
}  # fmt: skip


_EXPERTS = r"blk\\.\(([\d|]+)\)\\.ffn_\.\*_exps\.\*=CPU"


def llama_cpp(given: Mapping[str, str | bool]) -> Given:
    requests = int(given["-np"])
    if experts := re.fullmatch(_EXPERTS, str(given.get("-ot", ""))):
        # Versions before --n-cpu-moe name the layers whose experts are in RAM.
        count = str(len(experts[1].split("|")))
        given = {name: value for name, value in given.items() if name != "-ot"} | {"--n-cpu-moe": count}
    options = _options(given, _LLAMA) | dict(pair for name, pair in _SWITCHES.items() if name in given)
    options["flash_attn"] = "on" if given.get("-fa") in (True, "on") else "off"
    cells = int(given["-c"])
    context = cells if "--kv-unified" in given else cells // requests
    return {"context": context, "concurrency": requests, "engine_options": options}


def ollama(environment: Mapping[str, str], modelfile: str, engine: str) -> Given:
    lines = [line.split(" ", 2) for line in modelfile.splitlines() if line.startswith("PARAMETER ")]
    parameters = {name: value for _, name, value in lines}
    context = parameters.pop("num_ctx", environment.get("OLLAMA_CONTEXT_LENGTH"))
    kept = ("OLLAMA_FLASH_ATTENTION", "OLLAMA_KV_CACHE_TYPE")
    if engine == "ollama-2025":
        kv_type = environment["OLLAMA_KV_CACHE_TYPE"]
        flash = "on" if environment["OLLAMA_FLASH_ATTENTION"] == "1" else "off"
        environment = {**environment, "type_k": kv_type, "type_v": kv_type, "flash_attn": flash}
        kept = ("type_k", "type_v", "flash_attn")
    return {
        "context": int(context or 0),
        "concurrency": int(environment["OLLAMA_NUM_PARALLEL"]),
        "engine_options": parameters | {name: environment[name] for name in kept if name in environment},
    }


READERS: dict[str, Callable[[Mapping[str, str | bool]], Given]] = {
    "vllm": vllm, "sglang": sglang, "tgi": tgi, "llama.cpp": llama_cpp,
}  # fmt: skip
