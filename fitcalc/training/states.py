"""Weights, adapters, gradients and optimizer states of a run: how many bytes each takes on one card, and where."""

from __future__ import annotations

from fitcalc import catalog
from fitcalc.errors import RequestError
from fitcalc.formulas.training import factored_bytes, shard_bytes
from fitcalc.frozen import dataclass
from fitcalc.quantization import assign
from fitcalc.quantization.stored import rows_and_cols, shape_bytes
from fitcalc.spec.model import ModelSpec, Tensor
from fitcalc.spec.quant import PLAIN_TYPES, Format, Scheme
from fitcalc.spec.training import Optimizer, Settings
from fitcalc.training.adapters import lora_params, wrapped_tensors

_FLOAT = {2: "bf16", 4: "fp32"}
_HIDDEN_MATRIX_ROLES_LEFT_OUT = ("embedding", "position_embedding", "lm_head")


@dataclass(frozen=True, slots=True)
class States:
    """Bytes of a run over all cards together, before any division, and the counts that they come from."""

    weights_bytes: int
    """As the run holds them: quantized where QLoRA quantizes."""
    weights_elems: int
    weights_basis: str
    scheme: Scheme | None
    adapter_elems: int
    trainable: int
    """Parameters with gradients: adapters, or the weights themselves."""
    grad_bytes_each: int
    optimizer_bytes: int
    """One copy of all states."""
    master_bytes: int
    head_grad_bytes: int
    """Gradient of the output matrix alone."""
    tied_grad_bytes: int
    """The second gradient of a tied embedding and their sum, at the end of the backward pass."""
    late_elems: int
    """Trained elements whose gradients come last: those of one block, and of an embedding that is not tied."""
    block_bytes: int
    """Weights of the largest block as the run holds them."""
    root_bytes: int
    """Embedding, head and last norm."""
    block_grad_bytes: int
    largest_matrix_elems: int
    wrapped: tuple[Tensor, ...]
    first_trained: int


def states_of(model: ModelSpec, settings: Settings, scheme: Scheme | None, frozen_layers: int) -> States:
    """What a run holds. Raises RequestError for a method that the model cannot be trained with."""
    adapted = settings.method in ("lora", "qlora", "dora")
    wrapped = wrapped_tensors(model, settings.targets) if adapted else ()
    adapters = lora_params(wrapped, settings.rank, magnitudes=settings.method == "dora") if adapted else 0
    layers_trained = set(range(frozen_layers, model.layers)) if settings.method == "freeze" else None
    trained = () if adapted else tuple(_trained(model, layers_trained))
    trainable = adapters or sum(_elems(tensor, layers_trained) for tensor in trained)
    each = settings.trainer.adapter_bytes if adapted else settings.param_bytes
    has_master = settings.sharding.startswith("zero") and each == 2
    optimizer = _optimizer_bytes(settings.optimizer, settings, trained, layers_trained, wrapped, trainable, each)
    sizes = _weights(model, settings, scheme)
    full = settings.method == "full"
    head = model.vocab * model.hidden * settings.param_bytes if full else 0
    block = max(sizes.by_layer.values(), default=0)
    return States(
        weights_bytes=sizes.total,
        weights_elems=sum(t.elems for t in model.tensors if not t.is_buffer and t.part != "mtp"),
        weights_basis="exact" if not model.unknowns else "unknown",
        scheme=scheme,
        adapter_elems=adapters,
        trainable=trainable,
        grad_bytes_each=each,
        optimizer_bytes=optimizer,
        master_bytes=4 * trainable if has_master else 0,
        head_grad_bytes=head,
        tied_grad_bytes=2 * head if model.tied_embeddings else 0,
        late_elems=block // settings.param_bytes + (0 if model.tied_embeddings else head // settings.param_bytes)
        if full
        else 0,
        block_bytes=block,
        root_bytes=sizes.total - sum(sizes.by_layer.values()),
        block_grad_bytes=block if not adapted else 0,
        largest_matrix_elems=max((t.shape[0] * t.shape[1] for t in wrapped), default=0),
        wrapped=wrapped,
        first_trained=frozen_layers if settings.method == "freeze" else 0,
    )


def _trained(model: ModelSpec, layers: set[int] | None) -> list[Tensor]:
    """Tensors that are trained: all parameters, or those of the last layers."""
    own = [tensor for tensor in model.tensors if not tensor.is_buffer and tensor.part != "mtp"]
    return own if layers is None else [t for t in own if t.part == "text" and layers & set(t.layers)]


def _elems(tensor: Tensor, layers: set[int] | None) -> int:
    if layers is None:
        return tensor.elems
    return tensor.elems // tensor.repeats * len(layers & set(tensor.layers))


@dataclass(frozen=True, slots=True)
class _Sizes:
    total: int
    by_layer: dict[int, int]


def _weights(model: ModelSpec, settings: Settings, scheme: Scheme | None) -> _Sizes:
    """Bytes of the weights, and of them those in the layers of the language model."""
    by_layer: dict[int, int] = {}
    if scheme is None:
        plain = PLAIN_TYPES[_FLOAT[settings.param_bytes]]
        entries = [(t, t.layers, plain) for t in model.tensors if t.part != "mtp"]
    else:
        stored = assign(model, scheme)
        head = scheme.weight if settings.trainer.quantizes_head else None
        entries = [(e.tensor, e.layers, (head if head and e.tensor.role == "lm_head" else e.format)) for e in stored]
    total = 0
    for tensor, layers, layout in entries:
        each = _bytes(layout, tensor)
        total += each * (len(layers) or 1)
        for layer in layers if tensor.part == "text" else ():
            by_layer[layer] = by_layer.get(layer, 0) + each
    return _Sizes(total, by_layer)


def _bytes(layout: Format, tensor: Tensor) -> int:
    return shape_bytes(layout, tensor.shape) * tensor.copies


def _optimizer_bytes(
    optimizer: Optimizer,
    settings: Settings,
    trained: tuple[Tensor, ...],
    layers: set[int] | None,
    wrapped: tuple[Tensor, ...],
    trainable: int,
    each: int,
) -> int:
    """Bytes of one copy of the states: per parameter, per row and column, or by the kind of matrix."""
    if optimizer.factored:
        return _factored(settings, trained, layers, wrapped)
    if optimizer.others:
        from fitcalc.training.profiles import load_optimizer

        hidden = sum(_elems(t, layers) for t in trained if _is_hidden_matrix(t)) if trained else trainable
        rest = load_optimizer(optimizer.others)
        return _moments(optimizer, settings, hidden, each) + _moments(rest, settings, trainable - hidden, each)
    return _moments(optimizer, settings, trainable, each)


def _is_hidden_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1 and tensor.role not in _HIDDEN_MATRIX_ROLES_LEFT_OUT


def _moments(optimizer: Optimizer, settings: Settings, elems: int, each: int) -> int:
    like = 4 if settings.sharding.startswith("zero") else each
    share_num, share_den = optimizer.moment or (like, 1)
    size: int = shard_bytes(elems=elems * optimizer.states, share_num=share_num, share_den=share_den, cards=1)
    return size


def _factored(
    settings: Settings, trained: tuple[Tensor, ...], layers: set[int] | None, wrapped: tuple[Tensor, ...]
) -> int:
    rank, total = settings.rank, 0
    for tensor in wrapped:
        rows, cols = tensor.shape
        total += factored_bytes(rows=rows, cols=rank, copies=1) * tensor.repeats
        total += factored_bytes(rows=rank, cols=cols, copies=1) * tensor.repeats
    for tensor in trained:
        rows, cols = rows_and_cols(tensor.shape)
        repeats = tensor.repeats if layers is None else len(layers & set(tensor.layers))
        copies = tensor.copies * repeats
        total += factored_bytes(rows=rows, cols=cols, copies=copies) if rows > 1 else 4 * cols * copies
    return total


def scheme_for(model: ModelSpec, settings: Settings) -> Scheme | None:
    """The quantization that the frozen weights are held in: NF4 for QLoRA, none otherwise.

    Raises RequestError for a model that is quantized already in a way that cannot be trained on.
    """
    if settings.method != "qlora":
        if model.container == "gguf":
            raise RequestError(f"{model.name} is a GGUF file: it cannot be trained", hint="name the original model")
        return None
    return catalog.load_scheme("bnb-nf4-dq" if settings.trainer.double_quant else "bnb-nf4")
