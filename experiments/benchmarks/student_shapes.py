"""Students of FLAN-T5's shapes with random weights, rows as long as OBQA's, and a step on them in the plain way.

Only torch and transformers are needed.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import measuring  # noqa: F401  # with it the package is found
import numpy as np
import torch
import transformers

from tinyllm_ray.data.arrays import Features
from tinyllm_ray.student.objective import Term

SHAPES = {
    "flan-t5-small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "flan-t5-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "flan-t5-large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
}
VOCABULARY, HEAD_WIDTH = 32_128, 64
TERMS = [Term(name, 1.0, (i,)) for i, name in enumerate(("label", "flan_t5", "llama2"))]
# Deciles of OBQA's token counts, with a tokenizer trained on it: inputs, then answers and two teachers' rationales.
SOURCE_DECILES = [29, 35, 37, 39, 41, 43, 46, 50, 54, 60, 112]
TARGET_DECILES = [
    [2, 2, 2, 2, 3, 3, 4, 4, 5, 7, 24],
    [6, 12, 14, 15, 17, 19, 21, 23, 25, 30, 256],
    [2, 15, 33, 84, 89, 92, 94, 97, 99, 101, 108],
]


def training(batch_size: int, micro_batch_tokens: int = 4096) -> SimpleNamespace:
    """What the step reads of the `training` section."""
    fixed = {"micro_batch_examples": 512, "max_gradient_norm": 1.0, "learning_rate": 5e-5, "weight_decay": 0.0}
    return SimpleNamespace(batch_size=batch_size, micro_batch_tokens=micro_batch_tokens, **fixed)


def make_student(shape: str) -> Any:
    """FLAN-T5's architecture: gated feed-forward, a vocabulary projection of its own; no dropout, so losses compare."""
    torch.manual_seed(0)
    special = {"vocab_size": VOCABULARY, "d_kv": HEAD_WIDTH, "pad_token_id": 0, "decoder_start_token_id": 0}
    config = transformers.T5Config(
        **SHAPES[shape], **special, dropout_rate=0.0, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model.train()


def drawn_features(rows: int) -> Features:
    """Random tokens in sequences as long as OBQA's."""
    generator = np.random.default_rng(0)
    levels = np.linspace(0, 1, 11)
    table, start = [], 0
    for row in range(rows):
        source = int(np.interp(generator.random(), levels, SOURCE_DECILES))
        for component, deciles in enumerate(TARGET_DECILES):
            target = int(np.interp(generator.random(), levels, deciles))
            table.append([row, component, start, source, start + source, target])
            start += source + target
    tokens = generator.integers(3, VOCABULARY, start, dtype=np.int32)
    ids = np.array([f"q{row}" for row in range(rows)])
    return Features(tokens, np.array(table), ids, ["label", "flan_t5", "llama2"])


def plain_gradients(
    loss_of: Callable[..., torch.Tensor], features: Features, indices: np.ndarray, *, longest: int, rows: int = 0
) -> float:
    """Three passes as in the reference, with at most `rows` examples at once, or all; returns the sum of the three
    components' mean losses. Examples are sorted by length; inputs are padded to `longest` or to the longest at once."""
    total, examples = 0.0, features.examples[indices]
    examples = examples[np.argsort(examples[:, 3] + examples[:, 5], kind="stable")]
    for component in range(len(features.components)):
        mine = examples[examples[:, 1] == component]
        tokens = mine[:, 5].sum()
        for start in range(0, len(mine), rows or len(mine)):
            part = mine[start : start + (rows or len(mine))]
            ids = padded([features.tokens[start : start + length] for start, length in part[:, 2:4]], 0, longest)
            labels = padded([features.tokens[start : start + length] for start, length in part[:, 4:6]], -100, 0)
            loss = loss_of(ids, labels) * float(part[:, 5].sum() / tokens)
            loss.backward()
            total += loss.item()
    return total


def padded(lists: list[np.ndarray], fill: int, longest: int) -> torch.Tensor:
    """[len(lists), longest of them or `longest`]"""
    width = max(longest, *(len(ids) for ids in lists))
    rows = [np.pad(ids, (0, width - len(ids)), constant_values=fill) for ids in lists]
    return torch.from_numpy(np.array(rows, dtype=np.int64))
