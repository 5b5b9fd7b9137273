"""The forward pass over packed sequences: a Hugging Face student and a Batch in, logits of real target positions out.

Everything that works token by token (embeddings, projections, feed-forward, vocabulary) runs on the flat axis without
padding; attention runs in groups of similar length. The modules and weights are the model's own.
Legend: N flat source tokens, M flat target tokens, D width, H heads, K a head's width, L group length, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from tinyllm_ray.student.batches import Batch, Group

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.models.t5.modeling_t5 import (
        T5Attention,
        T5Block,
        T5LayerCrossAttention,
        T5LayerSelfAttention,
        T5Stack,
    )

ATTENTION = "tinyllm_packed"


def target_logits(model: "PreTrainedModel", batch: Batch) -> torch.Tensor:
    """[M, V]"""
    hidden = _t5_hidden(model, batch) if model.config.is_encoder_decoder else _decoder_hidden(model, batch)
    return model.lm_head(hidden)


def decoder_start(model: "PreTrainedModel") -> int | None:
    """The token that an encoder-decoder's targets start from; None for decoder-only students."""
    return model.config.decoder_start_token_id if model.config.is_encoder_decoder else None


@contextmanager
def padded_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Within it a decoder-only student attends to padded batches, as `generate` makes them."""
    before = model.config._attn_implementation
    if not model.config.is_encoder_decoder:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if not model.config.is_encoder_decoder:
            model.set_attn_implementation(before)


def _use_packed_attention(model: "PreTrainedModel") -> None:
    """Let a decoder-only student attend by groups. It stays so after the forward pass, since checkpointed layers run
    once more in the backward pass; only `padded_attention` turns it off for a while."""
    if model.config._attn_implementation != ATTENTION:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface

        AttentionInterface.register(ATTENTION, _decoder_attention)
        AttentionMaskInterface.register(ATTENTION, _no_mask)
        model.set_attn_implementation(ATTENTION)


def _no_mask(*_: Any, **__: Any) -> None:
    """The groups hold what a mask would say."""


def compile_student(model: "PreTrainedModel") -> None:
    """Compile what works token by token; it has one shape of input, [tokens, D]."""
    for name, module in model.named_modules():
        if name.endswith((".DenseReluDense", ".mlp")):
            module.compile(dynamic=True)


def _decoder_hidden(model: "PreTrainedModel", batch: Batch) -> torch.Tensor:
    """[M, D] of a decoder-only student, by its own forward pass with our attention."""
    _use_packed_attention(model)
    hidden = model.base_model(
        input_ids=batch.source[None],
        position_ids=batch.positions[None],
        use_cache=False,
        packed_groups=batch.source_groups,
    ).last_hidden_state
    return hidden[0].index_select(0, batch.label_positions)


def _t5_hidden(model: "PreTrainedModel", batch: Batch) -> torch.Tensor:
    """[M, D] of a T5 student: the encoder once for each source, then the decoder over all targets."""
    encoder, decoder = model.encoder, model.decoder
    encoded = encoder.dropout(encoder.embed_tokens(batch.source))  # [N, D]
    biases = _biases(encoder, batch.source_groups, causal=False)
    for block in encoder.block:
        encoded = _run(model, _encoder_block, block, encoded, batch, biases)
    encoded = encoder.dropout(encoder.final_layer_norm(encoded))

    hidden = decoder.dropout(decoder.embed_tokens(batch.decoder_input))  # [M, D]
    biases = _biases(decoder, batch.target_groups, causal=True)
    cross = [_blocked_bias(group.source_blocked, encoded) for group in batch.target_groups]
    for block in decoder.block:
        hidden = _run(model, _decoder_block, block, hidden, encoded, batch, biases, cross)
    hidden = decoder.dropout(decoder.final_layer_norm(hidden))
    scaled = getattr(model.config, "scale_decoder_outputs", False)  # mT5 has no such key and never scales
    return hidden * model.config.d_model**-0.5 if scaled else hidden


def _run(model: "PreTrainedModel", function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
    if model.encoder.gradient_checkpointing and model.training:
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)


def _encoder_block(block: "T5Block", hidden: torch.Tensor, batch: Batch, biases: list[torch.Tensor]) -> torch.Tensor:
    attention, feed_forward = block.layer
    hidden = _attend(attention, attention.SelfAttention, hidden, None, batch.source_groups, biases)
    return feed_forward(hidden)


def _decoder_block(
    block: "T5Block",
    hidden: torch.Tensor,
    encoded: torch.Tensor,
    batch: Batch,
    biases: list[torch.Tensor],
    cross_biases: list[torch.Tensor | None],
) -> torch.Tensor:
    attention, cross, feed_forward = block.layer
    hidden = _attend(attention, attention.SelfAttention, hidden, None, batch.target_groups, biases)
    hidden = _attend(cross, cross.EncDecAttention, hidden, encoded, batch.target_groups, cross_biases)
    return feed_forward(hidden)


def _attend(
    layer: "T5LayerSelfAttention | T5LayerCrossAttention",
    attention: "T5Attention",
    hidden: torch.Tensor,  # [M, D]
    encoded: torch.Tensor | None,  # [N, D] for cross-attention
    groups: list[Group],
    biases: Sequence[torch.Tensor | None],
) -> torch.Tensor:
    """One attention layer of T5 with its norm, dropout and residual; [M, D]."""
    normed = layer.layer_norm(hidden)
    keys_from = normed if encoded is None else encoded
    heads = (-1, attention.n_heads, attention.key_value_proj_dim)
    query, key, value = (  # [tokens, H, K]
        projection(states).view(heads)
        for projection, states in ((attention.q, normed), (attention.k, keys_from), (attention.v, keys_from))
    )
    dropout = attention.dropout if attention.training else 0.0
    parts = []
    for group, bias in zip(groups, biases, strict=True):
        read = group.index if encoded is None else group.source_index
        assert read is not None
        parts.append(_group_attention(query, key, value, group, read, bias=bias, dropout=dropout, scale=1.0))
    return hidden + layer.dropout(attention.o(torch.cat(parts).flatten(1)))


def _group_attention(
    query: torch.Tensor,  # [tokens, H, K]
    key: torch.Tensor,
    value: torch.Tensor,
    group: Group,
    read: torch.Tensor,  # [b, L of the keys]
    *,
    bias: torch.Tensor | None = None,
    causal: bool = False,
    dropout: float,
    scale: float,
) -> torch.Tensor:
    """Attention of one group, its real positions only; [real tokens of the group, H, K]."""
    padded = scaled_dot_product_attention(
        _gather(query, group.index),
        _gather(key, read),
        _gather(value, read),
        attn_mask=bias,
        is_causal=causal,
        dropout_p=dropout,
        scale=scale,
    )  # [b, H, L, K]
    return padded.transpose(1, 2).flatten(0, 1).index_select(0, group.select)


def _gather(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """[tokens, H, K], [b, L] -> [b, H, L, K]"""
    return states.index_select(0, index.flatten()).view(*index.shape, *states.shape[1:]).transpose(1, 2)


def _biases(stack: "T5Stack", groups: list[Group], *, causal: bool) -> list[torch.Tensor]:
    """Relative position bias of each group, masked; padding follows the real keys, so causal needs no other mask."""
    longest = max(group.index.shape[1] for group in groups)
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(longest, longest)  # [1, H, L, L]
    if causal:
        future = torch.ones(longest, longest, dtype=torch.bool, device=bias.device).triu(1)
        bias = bias.masked_fill(future, float("-inf"))
    biases = []
    for group in groups:
        length = group.index.shape[1]
        part = bias[:, :, :length, :length]
        biases.append(part if causal or group.blocked is None else part.masked_fill(group.blocked, float("-inf")))
    return biases


def _blocked_bias(blocked: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """0 where a key may be read, -inf at padding; [b, 1, 1, S]."""
    if blocked is None:
        return None
    return torch.zeros(blocked.shape, dtype=like.dtype, device=like.device).masked_fill(blocked, float("-inf"))


def _decoder_attention(
    module: nn.Module,
    query: torch.Tensor,  # [1, H, N, K]
    key: torch.Tensor,  # [1, H of keys, N, K]
    value: torch.Tensor,
    attention_mask: None,
    *,
    packed_groups: list[Group],
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a decoder-only student in the form that transformers' attention registry wants; [1, N, H, K]."""
    repeats = query.shape[1] // key.shape[1]
    flat = query[0].transpose(0, 1)  # [N, H, K]
    keys, values = (states[0].repeat_interleave(repeats, 0).transpose(0, 1) for states in (key, value))
    parts = [
        _group_attention(flat, keys, values, group, group.index, causal=True, dropout=dropout, scale=scaling)
        for group in packed_groups
    ]
    return torch.cat(parts)[None], None
