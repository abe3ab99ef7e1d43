"""What a training step keeps in a card's memory: adapters, gradients, optimizer states, activations, logits, shards.

Notation of the comments: h hidden width, f MLP width, a heads, s tokens per sequence, V vocabulary. The activation
formulas were read off saved tensors of Llama-shaped models and hold to 0.001 % (see tests/test_training.py).
"""

from __future__ import annotations

from typing import Any

from fitcalc.formulas import formula
from fitcalc.units import ceil_div, least


@formula("rank * (rows + cols)")
def adapter_params(*, rank: Any, rows: Any, cols: Any) -> Any:
    """Parameters of a low-rank adapter of one `rows` × `cols` matrix: A is rank × cols, B rows × rank."""
    return rank * (rows + cols)


@formula("ceil_div(elems * share_num, share_den * cards)")
def shard_bytes(*, elems: Any, share_num: Any, share_den: Any, cards: Any) -> Any:
    """Bytes on each of `cards` of `elems` elements that take share_num / share_den bytes each."""
    return ceil_div(elems * share_num, share_den * cards)


@formula("ceil_div(whole_bytes, cards)")
def share_bytes(*, whole_bytes: Any, cards: Any) -> Any:
    """Bytes on each of the cards over which something is divided; `cards` 1: all of it."""
    return ceil_div(whole_bytes, cards)


@formula("ceil_div(trainable * bytes_each, cards) + bucket_bytes + extra_bytes")
def gradient_bytes(*, trainable: Any, bytes_each: Any, cards: Any, bucket_bytes: Any, extra_bytes: Any) -> Any:
    """Gradients on one card: its share, buckets of a data parallel run, and what a moment adds to them (the second
    gradient of a tied embedding and their sum; float32 gradients of the sub-group that ZeRO-3 steps)."""
    return ceil_div(trainable * bytes_each, cards) + bucket_bytes + extra_bytes


@formula("elem_bytes * rows_times_cols")
def matrix_copy_bytes(*, elem_bytes: Any, rows_times_cols: Any) -> Any:
    """A matrix that exists for a moment."""
    return elem_bytes * rows_times_cols


@formula("4 * (rows + cols) * copies")
def factored_bytes(*, rows: Any, cols: Any, copies: Any) -> Any:
    """Adafactor's second moment of a matrix: a float32 per row and per column."""
    return 4 * (rows + cols) * copies


@formula("tokens * (norm_bytes + attention_bytes + score_bytes * length + mlp_bytes + adapter_bytes) + length * fixed")
def kept_bytes(
    *,
    tokens: Any,
    length: Any,
    norm_bytes: Any,
    attention_bytes: Any,
    score_bytes: Any,
    mlp_bytes: Any,
    adapter_bytes: Any,
    fixed: Any,
) -> Any:
    """What all blocks keep for the backward pass: bytes per token of each part, and what grows with the length."""
    per_token = norm_bytes + attention_bytes + score_bytes * length + mlp_bytes + adapter_bytes
    return tokens * per_token + length * fixed


@formula("tokens * (input_bytes + head_bytes) + tokens * (block_bytes + score_bytes * length)")
def checkpointed_bytes(
    *, tokens: Any, length: Any, input_bytes: Any, head_bytes: Any, block_bytes: Any, score_bytes: Any
) -> Any:
    """With checkpointing: the inputs of the blocks, what the head keeps, and the block that is computed again."""
    return tokens * (input_bytes + head_bytes) + tokens * (block_bytes + score_bytes * length)


@formula("vocab * (tokens * kept_per_logit + passing_tokens * passing_per_logit) + 2 * head_grad_bytes")
def logits_bytes(
    *,
    vocab: Any,
    tokens: Any,
    kept_per_logit: Any,
    passing_tokens: Any,
    passing_per_logit: Any,
    head_grad_bytes: Any,
) -> Any:
    """Logits at the start of the backward pass: what the loss keeps, and what differentiating it takes for a while.

    With an ordinary cross entropy 4 + 8 bytes per logit of every token: the float32 log-softmax, and its gradient with
    the float32 copy. A loss in pieces sums the gradient of a trained head piece by piece (`head_grad_bytes`, else 0).
    """
    return vocab * (tokens * kept_per_logit + passing_tokens * passing_per_logit) + 2 * head_grad_bytes


@formula("ceil_div(tokens, pieces)")
def piece_tokens(*, tokens: Any, pieces: Any) -> Any:
    """Tokens of one piece of a loss that is computed in equal pieces."""
    return ceil_div(tokens, pieces)


@formula("least(whole_bytes, live_bytes) + bucket_bytes")
def zero3_gathered(*, whole_bytes: Any, live_bytes: Any, bucket_bytes: Any) -> Any:
    """What ZeRO-3 has gathered at once: up to its limit of live parameters, and its buckets."""
    return least(whole_bytes, live_bytes) + bucket_bytes


@formula("blocks * block_bytes + root_bytes + grad_bytes")
def fsdp_gathered(*, blocks: Any, block_bytes: Any, root_bytes: Any, grad_bytes: Any) -> Any:
    """What FSDP has gathered at once: the block at work and the one fetched ahead, embedding and head, and the
    gradients of a block before they are divided."""
    return blocks * block_bytes + root_bytes + grad_bytes


@formula("held_bytes * permille // 1000")
def slack_bytes(*, held_bytes: Any, permille: Any) -> Any:
    """What the caching allocator reserves beyond what is in use."""
    return held_bytes * permille // 1000


@formula("2 * passes * matmul_params + 2 * passes * attention_width * length")
def flop_per_token(*, passes: Any, matmul_params: Any, attention_width: Any, length: Any) -> Any:
    """Operations that one token takes in a step.

    `passes`: 1 for the forward pass, 1 each for the gradients of inputs and of weights, 1 for computing blocks again.
    Attention: scores and their product with V over half the length, 2 × 2 × length / 2 per element of the queries of
    all layers (`attention_width`).
    """
    return 2 * passes * matmul_params + 2 * passes * attention_width * length
