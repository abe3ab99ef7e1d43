"""How Ollama is started as a ledger assumes it: a tag of its library, or a Modelfile that a shell writes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from fitcalc.engines.llama_cpp_command import file_name, gguf_file, hub_file, kv_name
from fitcalc.quantization.mmproj import has_towers


def start(prepared: Any, plan: Any, context_tokens: int, concurrency: int) -> str:
    """The lines of a shell: the server with its environment, then the model.

    `prepared` is Ollama's plan, `plan` llama.cpp's as it was placed for the context and concurrency.
    """
    parameters = tuple(_parameters(prepared, plan))
    environment = tuple(_environment(plan, concurrency))
    tag = prepared.profile.constants["library"].get(prepared.model.id, {}).get(prepared.scheme.id, "")
    if tag and not parameters:
        environment = (f"OLLAMA_CONTEXT_LENGTH={context_tokens}", *environment)
        return f"{_served(environment)}\nollama run {tag}"
    named = f"{prepared.model.id}-{prepared.scheme.id}"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", prepared.model.id if prepared.scheme.kind == "file" else named)
    lines = (*_sources(prepared, plan, tag), f"PARAMETER num_ctx {context_tokens}", *parameters)
    # Not a here-document: its end is not found where a report indents the lines.
    written = " \\\n".join(("printf '%s\\n' > Modelfile", *(f"  {shlex.quote(line)}" for line in lines)))
    return f"{_served(environment)}\n{written}\nollama create {name}\nollama run {name}"


def _served(environment: tuple[str, ...]) -> str:
    """The server with its environment, on two lines."""
    return f"{' '.join(environment[:2])} \\\n  {' '.join(environment[2:])} ollama serve &"


def _environment(plan: Any, concurrency: int) -> Iterator[str]:
    yield f"OLLAMA_NUM_PARALLEL={concurrency}"
    yield f"OLLAMA_FLASH_ATTENTION={1 if plan.settings.flash else 0}"
    yield f"OLLAMA_KV_CACHE_TYPE={kv_name(plan.settings.type_k)}"


def _parameters(prepared: Any, plan: Any) -> Iterator[str]:
    """Lines of the Modelfile beside the context: what was asked for, and how many layers are on the cards."""
    options = prepared.workload.options
    if options["num_batch"]:
        yield f"PARAMETER num_batch {options['num_batch']}"
    if not options["use_mmap"]:
        yield "PARAMETER use_mmap false"
    on_cards = sum(share.layers + share.has_output for share in plan.cards)
    if plan.cards and (on_cards <= prepared.model.layers or not prepared.leaves_placing):
        yield f"PARAMETER num_gpu {on_cards}"


def _sources(prepared: Any, plan: Any, tag: str) -> Iterator[str]:
    model, scheme = prepared.model, prepared.scheme
    published = gguf_file(model, scheme, plan.profile)
    if tag:
        yield f"FROM {tag}"
    elif published and (plan.settings.towers or not has_towers(model)):
        # A repository's mmproj file is loaded with the model.
        yield f"FROM hf.co/{published}"
    elif file := hub_file(model, scheme):
        yield f"FROM hf.co/{model.hf_repo}:{file}"
    else:
        file = file_name(model, scheme)
        yield f"FROM {file}" if file.startswith(("/", ".")) else f"FROM ./{file}"
        if plan.settings.towers:
            yield f"FROM ./<mmproj-{model.id}.gguf>"
