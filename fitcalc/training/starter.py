"""A starting configuration that follows from a plan: a TRL script with PEFT, an axolotl file, a torchtune file.

Names of flags are those of the versions in profiles/training/trainers. Data sets and paths are placeholders in
capitals, because nothing of them is known here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from fitcalc.catalog.files import packaged_folder, read_toml
from fitcalc.errors import RequestError
from fitcalc.training.activations import GROUPS
from fitcalc.training.adapters import ALL_LINEAR, module_name
from fitcalc.training.plan import Plan
from fitcalc.training.profiles import trainers

FORMS = ("peft", "axolotl", "torchtune")
DATA = "YOUR_DATASET"
_ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}
_RATES = {"full": "1e-5", "freeze": "1e-5"}
_ADAPTER_RATE = "2e-4"
_DEEPSPEED = {"zero1": "zero1.json", "zero2": "zero2.json", "zero3": "zero3_bf16.json"}


def starter_text(plan: Plan, form: str) -> str:
    """The configuration in one of FORMS. Raises RequestError where that program cannot do what the plan says."""
    lines = {"peft": _peft, "axolotl": _axolotl, "torchtune": _torchtune}[form](plan)
    return "\n".join(lines) + "\n"


def start_command(plan: Plan, form: str) -> str:
    """How the configuration is started, saved under the name that it gives itself."""
    settings = plan.settings
    cards = settings.cards
    if form == "axolotl":
        return "axolotl train finetune.yaml"
    if form == "torchtune":
        recipe = _recipe(plan)
        many = f" --nproc_per_node {min(cards, plan.machine.fabric_cards)}" if cards > 1 else ""
        return f"tune run{many} {recipe} --config finetune.yaml"
    several = f" --num_processes {cards}" if cards > 1 else ""
    nodes = ""
    if plan.machine.nodes > 1:
        nodes = f" --num_machines {plan.machine.nodes} --machine_rank RANK --main_process_ip ADDRESS"
    return f"accelerate launch{several}{nodes} finetune.py"


def _head(plan: Plan, form: str) -> str:
    version = trainers()[form].version
    settings = plan.settings
    return (
        f"# {plan.model.name}, {settings.method}, {settings.micro_batch} × {settings.length:,} tokens per card, "
        f"{settings.cards} card{'s' if settings.cards > 1 else ''}; for {version}. Save as "
    )


def _repository(plan: Plan) -> str:
    return plan.model.hf_repo or "ORGANISATION/MODEL"


def _modules(plan: Plan) -> str | list[str]:
    """What the trainer is told: 'all-linear', or the names."""
    settings = plan.settings
    if settings.targets == (ALL_LINEAR,):
        return ALL_LINEAR
    return list(dict.fromkeys(module_name(tensor) for tensor in plan.states.wrapped))


def _optimizer(plan: Plan, form: str) -> str:
    optimizer = plan.settings.optimizer
    found = dict(optimizer.names).get("trl" if form == "peft" else form)
    if found is None:
        raise RequestError(f"{trainers()[form].name} has no {optimizer.name}", hint="take another --optimizer or form")
    return found


def _peft(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    adapted = settings.method in ("lora", "qlora", "dora")
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(settings.precision, "float32")
    yield _head(plan, "peft") + "finetune.py."
    yield "from datasets import load_dataset"
    if adapted:
        yield "from peft import LoraConfig"
    if settings.method == "qlora":
        yield "import torch"
        yield "from transformers import BitsAndBytesConfig"
    yield "from trl import SFTConfig, SFTTrainer"
    yield ""
    if settings.method == "qlora":
        yield from (
            "quantization = BitsAndBytesConfig(",
            "    load_in_4bit=True,",
            '    bnb_4bit_quant_type="nf4",',
            f"    bnb_4bit_use_double_quant={settings.trainer.double_quant},",
            f"    bnb_4bit_compute_dtype=torch.{dtype},",
            *([f"    bnb_4bit_quant_storage=torch.{dtype},"] if settings.sharding in ("zero3", "fsdp") else []),
            ")",
        )
    yield "model_options = {"
    yield f'    "dtype": "{dtype}",'
    yield f'    "attn_implementation": "{_ATTENTION[settings.attention]}",'
    if settings.method == "qlora":
        yield '    "quantization_config": quantization,'
    yield "}"
    yield from _sft_config(plan)
    yield from _peft_trainer(plan, adapted=adapted)


def _sft_config(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    yield "config = SFTConfig("
    yield '    output_dir="finetuned",'
    yield f"    per_device_train_batch_size={settings.micro_batch},"
    yield f"    gradient_accumulation_steps={settings.accumulation},"
    yield f"    max_length={settings.length},"
    yield f"    packing={not settings.padded},"
    yield f"    gradient_checkpointing={settings.checkpointing},"
    yield f'    optim="{_optimizer(plan, "peft")}",'
    yield f"    learning_rate={_RATES.get(settings.method, _ADAPTER_RATE)},"
    yield f"    bf16={settings.precision in ('bf16', 'mixed')},"
    yield f"    fp16={settings.precision == 'fp16'},"
    if settings.loss == "fused":
        yield "    use_liger_kernel=True,"
    else:
        yield f'    loss_type="{"chunked_nll" if settings.loss == "chunked" else "nll"}",'
    if settings.offload == "activations":
        yield "    activation_offloading=True,"
    if settings.sharding in _DEEPSPEED:
        yield f"    deepspeed={json.dumps(_deepspeed(plan))},".replace("true", "True")
    elif settings.sharding == "fsdp":
        yield f'    fsdp="full_shard auto_wrap{" offload" if settings.offload in ("params", "all") else ""}",'
    yield "    num_train_epochs=1,"
    yield ")"


def _deepspeed(plan: Plan) -> dict[str, Any]:
    settings = plan.settings
    zero: dict[str, Any] = {"stage": int(settings.sharding[-1])}
    if settings.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.offload in ("params", "all"):
        zero["offload_param"] = {"device": "cpu"}
    kind = "fp16" if settings.precision == "fp16" else "bf16"
    auto = dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto")
    return {"zero_optimization": zero, kind: {"enabled": True}, **auto}


def _peft_trainer(plan: Plan, *, adapted: bool) -> Iterator[str]:
    settings = plan.settings
    if adapted:
        yield "adapters = LoraConfig("
        yield f"    r={settings.rank},"
        yield f"    lora_alpha={2 * settings.rank},"
        yield f"    lora_dropout={0.05 if settings.dropout else 0.0},"
        yield f"    target_modules={_modules(plan)!r},".replace("'", '"')
        if settings.method == "dora":
            yield "    use_dora=True,"
        yield '    task_type="CAUSAL_LM",'
        yield ")"
    yield "config.model_init_kwargs = model_options"
    yield "trainer = SFTTrainer("
    yield f'    model="{_repository(plan)}",'
    yield "    args=config,"
    yield f'    train_dataset=load_dataset("{DATA}", split="train"),'
    if adapted:
        yield "    peft_config=adapters,"
    yield ")"
    if settings.method == "freeze":
        layers = f"trainer.model.model.layers[{plan.states.first_trained}:]"
        yield "trainer.model.requires_grad_(False)"
        yield f"{layers}.requires_grad_(True)"
    yield "trainer.train()"


def _axolotl(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    yield _head(plan, "axolotl") + "finetune.yaml."
    yield f"base_model: {_repository(plan)}"
    if settings.method == "qlora":
        yield "load_in_4bit: true"
    if settings.method in ("lora", "qlora", "dora"):
        yield f"adapter: {'qlora' if settings.method == 'qlora' else 'lora'}"
        yield f"lora_r: {settings.rank}"
        yield f"lora_alpha: {2 * settings.rank}"
        yield f"lora_dropout: {0.05 if settings.dropout else 0.0}"
        modules = _modules(plan)
        if isinstance(modules, str):
            yield "lora_target_linear: true"
        else:
            yield f"lora_target_modules: {json.dumps(modules)}"
    if settings.method == "dora":
        yield "peft_use_dora: true"
    if settings.method == "freeze":
        yield "unfrozen_parameters:"
        yield from (f"  - model.layers.{layer}." for layer in range(plan.states.first_trained, plan.model.layers))
    yield "datasets:"
    yield f"  - path: {DATA}"
    yield "    type: chat_template"
    yield "output_dir: ./finetuned"
    yield f"sequence_len: {settings.length}"
    yield f"sample_packing: {_yes(not settings.padded)}"
    yield f"micro_batch_size: {settings.micro_batch}"
    yield f"gradient_accumulation_steps: {settings.accumulation}"
    yield "num_epochs: 1"
    yield f"optimizer: {_optimizer(plan, 'axolotl')}"
    yield f"learning_rate: {_RATES.get(settings.method, _ADAPTER_RATE)}"
    yield "lr_scheduler: cosine"
    yield f"{'fp16' if settings.precision == 'fp16' else 'bf16'}: {_yes(settings.precision != 'fp32')}"
    yield f"gradient_checkpointing: {_yes(settings.checkpointing)}"
    yield f"attn_implementation: {_ATTENTION[settings.attention]}"
    yield from _axolotl_extras(plan)


def _axolotl_extras(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    if settings.loss == "fused":
        yield "plugins:"
        yield "  - axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
    elif settings.loss == "chunked":
        yield "chunked_cross_entropy: true"
    if settings.offload == "activations":
        yield "activation_offloading: true"
    if settings.sharding in _DEEPSPEED:
        name = _DEEPSPEED[settings.sharding]
        if settings.sharding == "zero3" and settings.offload:
            name = "zero3_bf16_cpuoffload_all.json"
        yield f"deepspeed: deepspeed_configs/{name}  # axolotl fetch deepspeed_configs"
    elif settings.sharding == "fsdp":
        yield "fsdp_version: 2"
        yield "fsdp_config:"
        yield "  auto_wrap_policy: TRANSFORMER_BASED_WRAP"
        yield "  reshard_after_forward: true"
        yield f"  offload_params: {_yes(settings.offload in ('params', 'all'))}"


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _recipe(plan: Plan) -> str:
    kind = "lora" if plan.settings.method in ("lora", "qlora", "dora") else "full"
    return f"{kind}_finetune_{'distributed' if plan.settings.cards > 1 else 'single_device'}"


def _torchtune(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    table = read_toml(os.path.join(packaged_folder(), "training", "torchtune_models.toml"))
    builder = table["builders"].get(plan.model.id)
    if builder is None:
        raise RequestError(f"no builder of torchtune is known for {plan.model.name}", hint="try --emit peft or axolotl")
    if settings.method == "freeze" or settings.sharding.startswith("zero") or settings.precision in ("fp16", "mixed"):
        hint = "it trains all or adapters, in bf16 or fp32, with FSDP: try --emit peft or axolotl"
        raise RequestError("torchtune cannot do what this plan says", hint=hint)
    if settings.cards > 1 and settings.sharding == "none":
        raise RequestError("torchtune divides a run over several cards by FSDP", hint="add --sharding fsdp")
    family = table["families"][builder.split(".")[0]]
    yield _head(plan, "torchtune") + "finetune.yaml."
    yield "output_dir: ./finetuned"
    yield "tokenizer:"
    yield f"  _component_: torchtune.models.{family['tokenizer']}"
    yield f"  path: CHECKPOINT_FOLDER/{family['path']}"
    if "merges" in family:
        yield f"  merges_file: CHECKPOINT_FOLDER/{family['merges']}"
    yield f"  max_seq_len: {settings.length}"
    yield from _torchtune_model(plan, builder)
    yield "checkpointer:"
    yield "  _component_: torchtune.training.FullModelHFCheckpointer"
    yield "  checkpoint_dir: CHECKPOINT_FOLDER"
    yield "  checkpoint_files: [CHECKPOINT_FILES]"
    yield "  recipe_checkpoint: null"
    yield "  output_dir: ${output_dir}"
    yield f"  model_type: {family['model_type']}"
    yield "resume_from_checkpoint: false"
    yield from _torchtune_run(plan)


def _torchtune_model(plan: Plan, builder: str) -> Iterator[str]:
    settings = plan.settings
    adapted = settings.method in ("lora", "qlora", "dora")
    package, name = builder.split(".")
    yield "model:"
    yield f"  _component_: torchtune.models.{package}.{'lora_' if adapted else ''}{name}"
    if not adapted:
        return
    roles = {tensor.role for tensor in plan.states.wrapped}
    names = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_o": "output_proj"}
    yield f"  lora_attn_modules: {json.dumps([name for role, name in names.items() if role in roles])}"
    yield f"  apply_lora_to_mlp: {_yes(any(GROUPS.get(role) == 'mlp' for role in roles))}"
    yield "  apply_lora_to_output: false"
    yield f"  lora_rank: {settings.rank}"
    yield f"  lora_alpha: {2 * settings.rank}"
    yield f"  lora_dropout: {0.05 if settings.dropout else 0.0}"
    if settings.method == "qlora":
        yield "  quantize_base: true"
    if settings.method == "dora":
        yield "  use_dora: true"


def _torchtune_run(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    yield "dataset:"
    yield "  _component_: torchtune.datasets.chat_dataset"
    yield f"  source: {DATA}"
    yield "  conversation_column: CONVERSATIONS"
    yield "  conversation_style: openai"
    yield f"  packed: {_yes(not settings.padded)}"
    yield "seed: null"
    yield "shuffle: true"
    yield f"batch_size: {settings.micro_batch}"
    yield "epochs: 1"
    yield "max_steps_per_epoch: null"
    yield f"gradient_accumulation_steps: {settings.accumulation}"
    yield "optimizer:"
    yield f"  _component_: {_optimizer(plan, 'torchtune')}"
    yield f"  lr: {_RATES.get(settings.method, _ADAPTER_RATE)}"
    if settings.method in ("lora", "qlora", "dora"):
        yield "lr_scheduler:"
        yield "  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
        yield "  num_warmup_steps: 100"
    yield "loss:"
    yield "  _component_: torchtune.modules.loss.LinearCrossEntropyLoss"
    yield "clip_grad_norm: null"
    yield "compile: false"
    yield "device: cuda"
    yield f"dtype: {settings.precision}"
    yield f"enable_activation_checkpointing: {_yes(settings.checkpointing)}"
    yield f"enable_activation_offloading: {_yes(settings.offload == 'activations')}"
    if settings.sharding == "fsdp":
        yield f"fsdp_cpu_offload: {_yes(settings.offload in ('params', 'all'))}"
    if settings.method == "full":
        yield f"optimizer_in_bwd: {_yes(settings.step_in_backward)}"
    yield "metric_logger:"
    yield "  _component_: torchtune.training.metric_logging.DiskLogger"
    yield "  log_dir: ${output_dir}/logs"
    yield "log_every_n_steps: 1"
    yield "log_peak_memory_stats: true"
