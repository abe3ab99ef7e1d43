"""The Python program that runs a pipeline in Diffusers as the ledger assumes it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fitcalc.engines.base import repository

if TYPE_CHECKING:
    from fitcalc.engines.diffusers import Prepared

_TYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16"}
_METHODS = ("enable_vae_slicing", "enable_vae_tiling", "enable_model_cpu_offload", "enable_sequential_cpu_offload")


def program(prepared: Prepared, pictures: int) -> str:
    """`python -c '…'`: load, move or offload, and make one batch of pictures."""
    return f"python -c {shlex.quote('; '.join(_statements(prepared, pictures)))}"


def _statements(prepared: Prepared, pictures: int) -> Iterator[str]:
    model, options = prepared.model, prepared.workload.options
    if model.run is None:
        repo, kind = repository(model, prepared.scheme), model.model_type
        yield f"import torch; from diffusers import {kind}"
        words = [json.dumps(repo), f'subfolder="{_folder(model.model_type)}"', _dtype(prepared)]
        yield f"model = {kind}.from_pretrained({', '.join(words)})"
        return
    quantized, extra = _quantization(prepared)
    yield f"import torch; from diffusers import DiffusionPipeline{extra}"
    words = [json.dumps(_repository(prepared)), _dtype(prepared), *quantized]
    yield f"pipe = DiffusionPipeline.from_pretrained({', '.join(words)})"
    if not (options["enable_model_cpu_offload"] or options["enable_sequential_cpu_offload"]):
        yield f'pipe.to("{"cuda" if prepared.machine.gpus else "cpu"}")'
    yield from (f"pipe.{name}()" for name in _METHODS if options[name])
    if options["enable_attention_slicing"]:
        yield "pipe.enable_attention_slicing()"
    width, height = prepared.workload.media.picture_px
    many = f", num_images_per_prompt={pictures}" if pictures > 1 else ""
    yield f'pipe("a lighthouse at dawn", width={width}, height={height}{many}).images[0].save("picture.png")'


def _quantization(prepared: Prepared) -> tuple[list[str], str]:
    """(arguments of from_pretrained, further imports) that quantize while loading; a GGUF file is loaded by itself."""
    known, scheme, run = prepared.profile.constants, prepared.scheme, prepared.model.run
    roles, parts = (run.quantized, dict(run.components)) if run else ((), {})
    if scheme.kind == "gguf":
        role = next(role for role in roles if parts[role].image)
        kind = parts[role].model_type
        config = "quantization_config=GGUFQuantizationConfig(compute_dtype=torch.bfloat16), torch_dtype=torch.bfloat16"
        load = f'{kind}.from_single_file("<{scheme.recipe}.gguf>", {config})'
        return [f"{role}={load}"], f", GGUFQuantizationConfig, {kind}"
    config = "quantization_config=PipelineQuantizationConfig"
    if scheme.id in known["mapped"]:
        words = known["mapped"][scheme.id]
        mapping = ", ".join(f'"{role}": {words["image" if parts[role].image else "text"]}' for role in roles)
        return [f"{config}(quant_mapping={{{mapping}}})"], f", PipelineQuantizationConfig; {words['imports']}"
    if scheme.id in known["backends"]:
        named = ", ".join(f'"{role}"' for role in roles)
        backend = known["backends"][scheme.id]
        return [f"{config}(quant_backend={backend}, components_to_quantize=[{named}])"], ", PipelineQuantizationConfig"
    return [], ""


def _repository(prepared: Prepared) -> str:
    run = prepared.model.run
    return next((spec.hf_repo for _, spec in run.components if spec.hf_repo), "") if run else ""


def _dtype(prepared: Prepared) -> str:
    scheme = prepared.scheme
    return f"torch_dtype={_TYPES.get(scheme.weight.id if scheme.kind == 'float' else 'bf16', 'torch.bfloat16')}"


def _folder(model_type: str) -> str:
    return {"AutoencoderKL": "vae", "UNet2DConditionModel": "unet"}.get(model_type, "transformer")
