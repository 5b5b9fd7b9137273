"""Our loss against the plain way (a padded forward pass for each component) and against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tinyllm_ray.student.batches import pack
from tinyllm_ray.student.objective import StudentLoss, component_sums, token_losses
from tinyllm_ray.student.packed import compile_student, decoder_start

VOCABULARY = 97
WEIGHTS = [1.0, 0.5, 3.0]
SOURCES = (5, 30, 12, 12, 9, 44)  # lengths
TARGETS = (
    (0, 0, 3),
    (1, 0, 2),
    (2, 0, 1),
    (2, 1, 60),
    (3, 1, 7),
    (4, 2, 7),
    (5, 2, 20),
    (0, 2, 1),
)  # source, component, length


def t5(**changes):
    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "dropout_rate": 0.0}
    special = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(**sizes, **special, **changes))


def mt5():
    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "dropout_rate": 0.0}
    special = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return MT5ForConditionalGeneration(MT5Config(**sizes, **special))


DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
STUDENTS = {
    "t5": t5,
    "t5 gated untied": lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "mt5": mt5,
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**DECODER, head_dim=8)),
}


def sequences():
    generator = np.random.default_rng(0)
    sources = [generator.integers(3, VOCABULARY, length) for length in SOURCES]
    return sources, [
        (source, component, generator.integers(3, VOCABULARY, length)) for source, component, length in TARGETS
    ]


def packed(model, rows, sources):
    which, components, targets = zip(*rows, strict=True)
    return pack(sources, which, targets, components, decoder_start=decoder_start(model))


def plain_loss(model, rows, sources):
    """One forward pass for each component, padded to the longest source and target, as the reference does it."""
    model.set_attn_implementation("eager")
    total = 0
    for component, weight in enumerate(WEIGHTS):
        mine = [(sources[source], target) for source, of, target in rows if of == component]
        if model.config.is_encoder_decoder:
            ids, mask = padded([source for source, _ in mine], 0)
            labels, _ = padded([target for _, target in mine], -100)
        else:
            ids, mask = padded([np.concatenate(pair) for pair in mine], 0)
            labels, _ = padded([np.concatenate([np.full(len(s), -100), target]) for s, target in mine], -100)
        total = total + weight * model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return total


def padded(lists, fill):
    longest = max(len(ids) for ids in lists)
    ids = torch.full((len(lists), longest), fill)
    mask = torch.zeros(len(lists), longest, dtype=torch.long)
    for row, values in enumerate(lists):
        ids[row, : len(values)] = torch.from_numpy(values)
        mask[row, : len(values)] = 1
    return ids, mask


def our_gradients(model, parts, sources, counts):
    weights = torch.tensor([weight / count for weight, count in zip(WEIGHTS, counts, strict=True)])
    module, total = StudentLoss(model), 0.0
    for rows in parts:
        loss, _ = module(packed(model, rows, sources), weights)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def gradients(model):
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_loss_and_gradients_equal_the_plain_way(name, micro_batches):
    torch.manual_seed(0)
    model = STUDENTS[name]().train()
    sources, rows = sequences()
    counts = [sum(len(target) for _, component, target in rows if component == wanted) for wanted in range(3)]
    parts = [rows[first::micro_batches] for first in range(micro_batches)]
    ours, our_gradient = our_gradients(model, parts, sources, counts)
    plain = plain_loss(model, rows, sources)
    plain.backward()
    plain_gradient = gradients(model)

    assert ours == pytest.approx(plain.item(), rel=1e-5)
    assert (our_gradient - plain_gradient).norm() / plain_gradient.norm() < 1e-4
    assert (our_gradient - plain_gradient).abs().max() < 1e-4 * plain_gradient.abs().max()


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_compiled_layers_give_the_same_loss(name):
    torch.manual_seed(0)
    model = STUDENTS[name]().eval()
    sources, rows = sequences()
    batch = packed(model, rows, sources)
    before = token_losses(model, batch)
    compile_student(model)
    torch.testing.assert_close(token_losses(model, batch), before, rtol=1e-4, atol=1e-5)


def test_component_sums_equal_values_worked_out_by_hand():
    losses = torch.tensor([1.0, 2.0, 4.0, 0.5])
    sums, counts = component_sums(losses, torch.tensor([0, 2, 0, 2]), 3)
    assert sums.tolist() == [5.0, 0.0, 2.5]
    assert counts.tolist() == [2, 0, 2]


def test_the_loss_of_a_student_that_knows_nothing_is_the_log_of_the_vocabulary():
    model = t5()
    torch.nn.init.zeros_(model.shared.weight)  # tied: all logits are 0
    batch = pack([np.array([5, 6])], [0, 0], [np.array([7, 1]), np.array([8])], [0, 1], decoder_start=0)
    loss, sums = StudentLoss(model)(batch, torch.tensor([1.0 / 2, 0.25 / 1]))
    assert sums.tolist() == pytest.approx([2 * math.log(VOCABULARY), math.log(VOCABULARY)])
    assert loss.item() == pytest.approx(1.25 * math.log(VOCABULARY))
