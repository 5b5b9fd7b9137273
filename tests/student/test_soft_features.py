"""Soft targets from stores to packed batches, and what the objective makes of them whoever computes which part."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import gloo_rank
from torch.nn import functional

from tinyllm_ray.config import UserError, validate, with_overrides
from tinyllm_ray.data import store
from tinyllm_ray.data.features import build_features, open_features, read_meta
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.data.vocabulary import difference, vocabulary_digest
from tinyllm_ray.student.batches import collate, shuffled_rationales
from tinyllm_ray.student.loop import make_replica, step_gradients
from tinyllm_ray.student.model import load_student, prepare_tokenizer
from tinyllm_ray.student.objective import terms_of
from tinyllm_ray.student.packed import decoder_start, target_logits
from tinyllm_ray.student.totals import new_totals
from tinyllm_ray.student.train import run_trial
from tinyllm_ray.tuning.methods import apply_method

K = 4
TEACHERS = [
    {"name": "long", "store": "unused", "task_prefix": "explain: "},
    {"name": "short", "store": "unused", "task_prefix": "rationale: ", "soft_targets": {"top_k": K}},
]
LOSS = {"rationale_weights": {"long": 0.5, "short": 2.0}, "soft_target_weights": {"short": 0.75}}


def kept(ids, vocabulary, seed, k=K):
    """What a teacher of random logits would have kept for these tokens."""
    logits = torch.randn(len(ids), vocabulary, generator=torch.Generator().manual_seed(seed))
    values, top = logits.log_softmax(1).topk(k)
    fields = {"token_ids": np.array(ids, np.int32), "top_ids": top.numpy().astype(np.int32).ravel()}
    return fields | {"top_logprobs": values.numpy().astype(np.float16).ravel()}


def soften(world, make, *, without=(), end=True, vocabulary=None, texts="it is {}", answers=False, folder=None):
    """Give the teacher `short` soft targets for this student's tokenizer; `without`: rows that have none."""
    experiment = make.make_experiment(teachers=TEACHERS, loss=LOSS)
    files = {"questions": world.questions, "stores": dict(world.stores)}
    folder = folder or prepare_tokenizer(experiment, **files, output_dir=str(world.folder))
    tokenizer = StudentTokenizer.open(folder)
    size = tokenizer.backend.get_vocab_size()
    rows = {}
    for split, asked in world.asked.items():
        rows[split] = []
        for i, question in enumerate(asked):
            text = texts.format(question.answer)
            ids = tokenizer.targets([text])[0] if end else tokenizer.encode([text])[0]
            more = {} if i in without else kept(ids, size, seed=i)
            row = make.rationale(question.question_id, text, predicted_answer=question.answer)
            rows[split].append(replace(row, **more))
    name = f"soft{end}{len(without)}{bool(vocabulary)}{answers}"
    target = str(world.folder / "stores" / name)
    held = vocabulary or vocabulary_digest(tokenizer.backend.get_vocab())
    store.open_store(
        target, {"teacher": "short", "dataset": "things", "soft_targets": {"top_k": K, "vocabulary": held}}
    )
    for split, part in rows.items():
        store.append(target, split, part)
    world.stores[StoreId("short", answers)] = target
    return rows, tokenizer, folder


def features_of(world, folder, experiment):
    built = build_features(
        experiment,
        questions=world.questions,
        stores=world.stores,
        tokenizer_folder=folder,
        output_dir=str(world.folder),
    )
    return built, open_features(built, "train")


@pytest.fixture
def softened(world, make):
    rows, _, folder = soften(world, make, without=(3,))
    experiment = make.make_experiment(teachers=TEACHERS, loss=LOSS)
    built, features = features_of(world, folder, experiment)
    return experiment, rows["train"], features, folder, built


def spans_of(features, row, component=2):
    (index,) = [i for i in features.examples_of(np.array([row])) if features.examples[i, 1] == component]
    return features.examples[index], features.soft.spans[index]


def test_an_example_has_its_rows_numbers_and_the_teachers_own_tokens(softened):
    _, rows, features, _, built = softened
    assert features.softened == ["short"]
    for row in (0, 7, 39):
        example, (start, first, count) = spans_of(features, row)
        wanted = rows[row]
        assert features.tokens[example[4] : example[4] + example[5]].tolist() == wanted.token_ids.tolist()
        assert (first, count) == (0, len(wanted.token_ids))
        assert features.soft.ids[start : start + count].ravel().tolist() == wanted.top_ids.tolist()
        assert np.array_equal(features.soft.log_probabilities[start : start + count].ravel(), wanted.top_logprobs)
    assert spans_of(features, 3)[1].tolist() == [0, 0, 0]
    assert spans_of(features, 3)[0][5] > 0  # trained as text
    assert read_meta(built)["splits"]["train"]["soft"] == {"short": 39}


def test_a_batch_holds_them_where_their_tokens_are(softened):
    _, rows, features, _, _ = softened
    indices = features.examples_of(np.array([5, 3, 20, 11]))
    batch = collate(features, indices, decoder_start=0)
    soft = batch.soft
    assert soft.ids.shape == soft.log_probabilities.shape == (len(soft.positions), K)
    assert (batch.components[soft.positions] == 2).all()
    by_row = features.examples[indices[batch.examples[soft.positions].numpy()], 0]
    assert set(by_row.tolist()) == {5, 20, 11}
    for row in (5, 20, 11):
        mine = torch.from_numpy(by_row == row)
        assert batch.labels[soft.positions[mine]].tolist() == rows[row].token_ids.tolist()
        assert soft.ids[mine].flatten().tolist() == rows[row].top_ids.tolist()


def test_a_target_that_is_cut_keeps_what_is_left_of_it(world, make):
    _, tokenizer, folder = soften(world, make)
    experiment = make.make_experiment(teachers=TEACHERS, loss=LOSS, student={"max_rationale_tokens": 3})
    _, features = features_of(world, folder, experiment)
    example, (_, _, count) = spans_of(features, 0)
    assert example[5] == 3 and count == 2  # the end mark in the third token's place is not what the teacher held there
    assert features.tokens[example[4] + 2] == tokenizer.eos


def test_a_text_without_its_end_token_gets_one_that_has_no_soft_target(world, make):
    rows, tokenizer, folder = soften(world, make, end=False)
    _, features = features_of(world, folder, make.make_experiment(teachers=TEACHERS, loss=LOSS))
    example, (_, _, count) = spans_of(features, 0)
    assert count == len(rows["train"][0].token_ids) == example[5] - 1
    assert features.tokens[example[4] + example[5] - 1] == tokenizer.eos


def test_another_vocabulary_is_refused_or_trained_as_text(world, make):
    _, _, folder = soften(world, make, vocabulary="of another family")
    with pytest.raises(UserError, match=r"teachers\.short\.soft_targets: the student has another vocabulary"):
        features_of(world, folder, make.make_experiment(teachers=TEACHERS, loss=LOSS))
    allowed = [TEACHERS[0], {**TEACHERS[1], "soft_targets": {"top_k": K, "on_mismatch": "cross_entropy"}}]
    experiment = make.make_experiment(teachers=allowed, loss=LOSS)
    _, features = features_of(world, folder, experiment)
    assert features.soft is None
    terms = terms_of(experiment.loss, features.components, softened=features.softened)
    assert [(term.name, term.weight) for term in terms] == [("label", 1.0), ("long", 0.5), ("short", 2.0)]


def test_a_store_without_soft_targets_is_refused_where_they_are_asked_for(world, make):
    with pytest.raises(UserError, match=r"teachers\.short\.soft_targets: the store .* holds none"):
        world.trial(teachers=TEACHERS, loss=LOSS)


def test_vocabularies_are_compared_token_by_token():
    assert difference({"a": 0, "b": 1}, {"b": 1, "a": 0}) == ""
    said = difference({"a": 0, "b": 1, "c": 2}, {"a": 0, "c": 1})
    assert said == "2 of 3 ids differ; 1 is 'b' for the teacher, 'c' for the student"
    assert (
        difference({"a": 0}, {"a": 0, "b": 1})
        == "1 of 2 ids differ; 1 is no token for the teacher, 'b' for the student"
    )


def test_a_teachers_weight_is_shared_by_text_and_soft_targets(softened):
    experiment, _, features, _, _ = softened
    terms = terms_of(experiment.loss, features.components, softened=features.softened)
    weights = {term.name: (term.weight, term.components) for term in terms}
    assert weights == {"label": (1.0, (0,)), "long": (0.5, (1,)), "short": (0.5, (2,)), "short/soft": (1.5, (2,))}


def plain_loss(model, features, indices, experiment):
    """The objective by torch's own functions over dense distributions, padded with the tail as one more outcome."""
    batch = collate(features, indices, decoder_start=decoder_start(model))
    logits = target_logits(model, batch)
    text = functional.cross_entropy(logits, batch.labels, reduction="none")
    soft_losses = text.clone()
    log_q = logits.log_softmax(1)
    for position, ids, values in zip(*vars(batch.soft).values(), strict=True):
        others = torch.ones(logits.shape[1], dtype=torch.bool).index_fill(0, ids, False)
        q = torch.cat([log_q[position, ids], log_q[position][others].logsumexp(0, keepdim=True)])
        p = torch.cat([values.exp(), 1 - values.exp().sum(0, keepdim=True)])
        soft_losses = soft_losses.index_put((position[None],), functional.kl_div(q, p, reduction="sum")[None])
    parts = {
        "label": (0, 1.0, text),
        "long": (1, 0.5, text),
        "short": (2, 0.5, text),
        "short/soft": (2, 1.5, soft_losses),
    }
    return sum(weight * losses[batch.components == i].mean() for i, weight, losses in parts.values())


@pytest.mark.parametrize("model", ["tiny", "decoder"])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("micro_batch_examples", [64, 3])
def test_loss_and_gradients_equal_the_plain_way_in_micro_batches_and_shards(
    softened, world, make, model, shards, micro_batch_examples
):
    """To 1e-5 and 1e-4: the plain way takes each mean over the whole batch at once."""
    _, _, features, folder, _ = softened
    settings = {"max_gradient_norm": None, "micro_batch_examples": micro_batch_examples, "shards": shards}
    changes = {"teachers": TEACHERS, "loss": LOSS, "training": settings}
    experiment = make.make_experiment(**changes, student={"model": model, "tokenizer": None})
    torch.manual_seed(0)
    student, _ = load_student(experiment.student, tokenizer_folder=folder, seed=0)
    student.train()
    indices = features.examples_of(np.arange(2, 10))
    plain = plain_loss(student, features, indices, experiment)
    plain.backward()
    wanted = torch.cat([p.grad.flatten() for p in student.parameters()])
    student.zero_grad()

    terms = terms_of(experiment.loss, features.components, softened=features.softened)
    replica, totals = make_replica(student, terms, shards=shards), new_totals(terms)
    step_gradients(
        replica, features, indices, training=experiment.training, dtype="float32", seed=0, step=0, totals=totals
    )
    ours = sum(t.weight * s / n for t, s, n in zip(terms, totals.sums.tolist(), totals.tokens, strict=True))
    found = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert ours == pytest.approx(plain.item(), rel=1e-5)
    assert (found - wanted).norm() / wanted.norm() < 1e-4


@pytest.mark.parametrize("model", ["tiny", "decoder"])
def test_two_ranks_give_the_bits_of_one(world, make, tmp_path, model):
    """Whole trials with shards of which some hold no soft target, by two processes that talk over gloo and by one."""
    soften(world, make, without=range(0, 40, 3))
    settings = {"steps": 3, "shards": 2, "eval_every_steps": 3, "checkpoint_every_steps": 3, "log_every_steps": 1}
    changes = {"teachers": TEACHERS, "loss": LOSS, "student": {"model": model}, "training": settings}
    trials = {ranks: world.trial(str(ranks), **changes) for ranks in (1, 2)}
    run_trial(trials[1], report=lambda row: None)
    jobs = [{"trial": vars(trials[2]), "ranks": 2, "stop_at": None}]
    (tmp_path / "jobs.json").write_text(json.dumps({"folder": str(tmp_path), "jobs": jobs}))
    command = [sys.executable, gloo_rank.__file__, tmp_path / "jobs.json"]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    files = [Path(trial.dir) / "model" / "model.safetensors" for trial in trials.values()]
    assert files[0].read_bytes() == files[1].read_bytes()
    one, two = (json.loads((Path(trial.dir) / "evaluations.json").read_text()) for trial in trials.values())
    assert one == two and one[-1]["eval/loss/short/soft"] > 0


def test_the_control_moves_soft_targets_with_their_texts(softened):
    _, _, features, _, _ = softened
    shuffled = shuffled_rationales(features, seed=0)
    moved = np.flatnonzero(features.examples[:, 1] == 2)
    whole = {tuple(row) for row in np.hstack([features.examples[moved, 4:], features.soft.spans[moved]]).tolist()}
    now = {tuple(row) for row in np.hstack([shuffled.examples[moved, 4:], shuffled.soft.spans[moved]]).tolist()}
    assert now == whole
    assert (shuffled.soft.spans[moved] != features.soft.spans[moved]).any()


def test_a_training_reports_both_losses_of_a_teacher(world, make):
    soften(world, make)
    trial = world.trial(teachers=TEACHERS, loss=LOSS)
    rows = []
    result = run_trial(trial, report=rows.append)
    assert rows[-1]["eval/loss/short/soft"] >= 0 and rows[-1]["eval/loss/short"] > 0
    logged = [json.loads(line) for path in world.folder.glob("trials/*/metrics/*.jsonl") for line in path.open()]
    assert all(row["train/loss/short/soft"] >= 0 for row in logged if "train/loss" in row)
    assert result["steps"] == 6


def test_standard_kd_learns_the_answers_tokens_softly_as_the_student_writes_them(world, make):
    """The teacher writes " green" within a sentence, and the student's tokenizer has the same token for the answer."""
    _, tokenizer, folder = soften(world, make)
    rows, _, _ = soften(world, make, texts="it is {}", answers=True, folder=folder)
    raw = make.make_experiment(teachers=TEACHERS).model_dump(mode="json")
    raw["training"]["method"], raw["prompts"]["answer_splits"] = "standard_kd:short", ["train"]
    experiment = apply_method(validate(raw))
    world.stores[StoreId("long", answers=True)] = world.stores[StoreId("long")]
    _, features = features_of(world, folder, experiment)
    assert features.softened[0] == "label"
    example, (start, first, count) = spans_of(features, 1, component=0)
    target = features.tokens[example[4] : example[4] + example[5]].tolist()
    assert target == tokenizer.targets(["green"])[0]
    assert (first, count) == (0, len(target))
    assert features.soft.ids[start : start + count].ravel().tolist() == rows["train"][1].top_ids[-count * K :].tolist()
    terms = terms_of(experiment.loss, features.components, softened=features.softened)
    assert [(term.name, term.weight) for term in terms] == [("label", pytest.approx(0.1)), ("label/soft", 0.9)]
    hard = apply_method(with_overrides(experiment, {"training.method": "hard_kd:short"}))
    assert [t.name for t in terms_of(hard.loss, features.components, softened=features.softened)] == ["label"]
