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
_PROMPT = "a lighthouse at dawn"
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
    first, *others = _repositories(prepared)
    quantized, extra = _quantization(prepared, first)
    yield f"import torch; from diffusers import DiffusionPipeline{extra}"
    words = [json.dumps(first), _dtype(prepared), *quantized]
    yield f"pipe = DiffusionPipeline.from_pretrained({', '.join(words)})"
    if not (options["enable_model_cpu_offload"] or options["enable_sequential_cpu_offload"]):
        yield f'pipe.to("{_device(prepared)}")'
    yield from (f"pipe.{name}()" for name in _METHODS if options[name])
    if options["enable_attention_slicing"]:
        yield "pipe.enable_attention_slicing()"
    width, height = prepared.workload.media.picture_px
    many = f", num_images_per_prompt={pictures}" if pictures > 1 else ""
    size = f"width={width}, height={height}{many}"
    if others:
        yield from _refined(prepared, others[0], size)
    else:
        yield f'pipe("{_PROMPT}", {size}).images[0].save("picture.png")'


def _refined(prepared: Prepared, repo: str, size: str) -> Iterator[str]:
    """A second pipeline that shares what it can with the first, and works on its latents."""
    shared = "text_encoder_2=pipe.text_encoder_2, vae=pipe.vae"
    words = [json.dumps(repo), shared, _dtype(prepared), *_quantization(prepared, repo)[0]]
    yield f"refiner = DiffusionPipeline.from_pretrained({', '.join(words)})"
    offloads = [name for name in _METHODS if prepared.workload.options[name] and name.endswith("offload")]
    yield from (f"refiner.{name}()" for name in offloads)
    if not offloads:
        yield f'refiner.to("{_device(prepared)}")'
    yield f'latents = pipe("{_PROMPT}", {size}, output_type="latent").images'
    yield f'refiner("{_PROMPT}", image=latents).images[0].save("picture.png")'


def _repositories(prepared: Prepared) -> list[str]:
    """The repositories of the denoisers, each once."""
    parts = prepared.model.run.components if prepared.model.run else ()
    denoisers = (spec for _, spec in parts if spec.image and spec.image.kind != "autoencoder")
    return list(dict.fromkeys(spec.hf_repo for spec in denoisers if spec.hf_repo))


def _device(prepared: Prepared) -> str:
    """PyTorch's word for the device."""
    words: dict[str, str] = prepared.profile.constants["torch_devices"]
    cards = prepared.machine.gpus
    return words.get(cards[0].vendor, "cuda") if cards else "cpu"


def _quantization(prepared: Prepared, repo: str) -> tuple[list[str], str]:
    """(arguments of from_pretrained, further imports) that quantize the components of one repository while loading; a
    GGUF file is loaded by itself."""
    known, scheme, run = prepared.profile.constants, prepared.scheme, prepared.model.run
    parts = {role: spec for role, spec in run.components if spec.hf_repo == repo} if run else {}
    # A repository calls its own denoiser unet, whatever it is beside another.
    parts = {role.rpartition("_")[2] if spec.image else role: spec for role, spec in parts.items()}
    roles = [role for role in parts if run and any(name.endswith(role) for name in run.quantized)]
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


def _dtype(prepared: Prepared) -> str:
    scheme = prepared.scheme
    return f"torch_dtype={_TYPES.get(scheme.weight.id if scheme.kind == 'float' else 'bf16', 'torch.bfloat16')}"


def _folder(model_type: str) -> str:
    return {"AutoencoderKL": "vae", "UNet2DConditionModel": "unet"}.get(model_type, "transformer")
