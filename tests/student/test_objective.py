"""Our loss against the plain way (a padded forward pass for each component) and against values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from support.rounding import STUDENT_TERMS, rounding
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

from tinyllm_ray.data.arrays import Features
from tinyllm_ray.schema import Loss
from tinyllm_ray.student.batches import pack
from tinyllm_ray.student.objective import (
    StudentLoss,
    Term,
    objective,
    term_sums,
    terms_of,
    token_counts,
    used_components,
)
from tinyllm_ray.student.packed import compile_student, decoder_start, target_logits

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
    terms = [Term(f"component {i}", weight, (i,)) for i, weight in enumerate(WEIGHTS)]
    module, total = StudentLoss(model, terms), 0.0
    for rows in parts:
        loss, _ = module(packed(model, rows, sources), WEIGHTS, counts)
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

    forward, backward = rounding(STUDENT_TERMS), rounding(2 * STUDENT_TERMS)  # a gradient passes through all twice
    assert ours == pytest.approx(plain.item(), rel=forward)
    assert (our_gradient - plain_gradient).norm() / plain_gradient.norm() < backward
    assert (our_gradient - plain_gradient).abs().max() < backward * plain_gradient.abs().max()


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_compiled_layers_give_the_same_loss(name):
    torch.manual_seed(0)
    model = STUDENTS[name]().eval()
    sources, rows = sequences()
    batch = packed(model, rows, sources)
    before = target_logits(model, batch)
    compile_student(model)
    assert (target_logits(model, batch) - before).abs().max() < rounding(STUDENT_TERMS) * before.abs().max()


def five_tokens():
    """Three target tokens of component 0 and two of component 1, and logits by which each is worth log 2."""
    batch = pack([np.array([5])], [0, 0], [np.array([1, 0, 1]), np.array([0, 1])], [0, 1], decoder_start=0)
    return torch.zeros(5, 2), batch


def test_the_objective_is_the_weighted_mean_over_the_tokens_of_the_global_batch():
    logits, batch = five_tokens()
    terms = [Term("label", 1.0, (0,)), Term("teacher", 0.5, (1,)), Term("nothing", 3.0, (2,))]
    weights, counts = [1.0, 0.5, 3.0], [6, 4, 0]  # half of the tokens are in another batch
    loss, sums = objective(logits, batch, terms=terms, weights=weights, counts=counts)
    assert sums.tolist() == pytest.approx([3 * math.log(2), 2 * math.log(2), 0])
    assert loss.item() == pytest.approx(math.log(2) / 2 + 0.5 * math.log(2) / 2)


def test_a_term_may_be_taken_over_several_components_and_compute_what_it_likes():
    logits, batch = five_tokens()
    calls = []

    def label_values(logits, batch):
        calls.append(1)
        return batch.labels.float()

    terms = [Term("all", 1.0, (0, 1), label_values), Term("second", 1.0, (1,), label_values)]
    assert term_sums(logits, batch, terms).tolist() == [3.0, 1.0]
    assert len(calls) == 1


def test_terms_follow_the_configuration_by_name():
    loss = Loss(
        label_weight=0,
        rationale_weights={"b": 2.0},
        custom={"root": {"path": "torch:sqrt", "weight": 0.1}, "off": {"path": "torch:sqrt", "weight": 0}},
    )
    terms = terms_of(loss, ["label", "a", "b"])
    assert [(term.name, term.weight, term.components) for term in terms] == [
        ("label", 0, (0,)),
        ("b", 2.0, (2,)),
        ("root", 0.1, (2,)),
    ]
    assert terms[2].token_losses is torch.sqrt
    assert used_components(terms) == [2]


def test_tokens_are_counted_by_term():
    examples = np.array([[0, 0, 0, 5, 5, 2], [0, 1, 0, 5, 7, 4], [1, 0, 11, 5, 16, 3]])
    features = Features(np.zeros(19, np.int32), examples, np.array(["a", "b"]), ["label", "teacher"])
    terms = [Term("label", 1.0, (0,)), Term("teacher", 1.0, (1,)), Term("both", 1.0, (0, 1))]
    assert token_counts(features, np.array([0, 1]), terms) == [2, 4, 6]
    assert token_counts(features, np.zeros(0, np.int64), terms) == [0, 0, 0]


def test_the_loss_of_a_student_that_knows_nothing_is_the_log_of_the_vocabulary():
    model = t5()
    torch.nn.init.zeros_(model.shared.weight)  # tied: all logits are 0
    batch = pack([np.array([5, 6])], [0, 0], [np.array([7, 1]), np.array([8])], [0, 1], decoder_start=0)
    terms = [Term("label", 1.0, (0,)), Term("teacher", 0.25, (1,))]
    loss, sums = StudentLoss(model, terms)(batch, [1.0, 0.25], [2, 1])
    exact = rounding(VOCABULARY)  # of the sum in the softmax
    assert sums.tolist() == pytest.approx([2 * math.log(VOCABULARY), math.log(VOCABULARY)], rel=exact)
    assert loss.item() == pytest.approx(1.25 * math.log(VOCABULARY), rel=exact)
