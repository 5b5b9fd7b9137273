"""Weights that vary: values and gradients by hand, the fixed point, and trials that go on where they were."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rounding import STUDENT_TERMS, rounding

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data.features import open_features
from tinyllm_ray.schema import Loss, Training
from tinyllm_ray.student.batches import pack
from tinyllm_ray.student.loop import make_optimizer, make_replica, step_examples, step_gradients
from tinyllm_ray.student.model import load_student
from tinyllm_ray.student.objective import Term
from tinyllm_ray.student.totals import new_totals
from tinyllm_ray.student.train import run_trial
from tinyllm_ray.student.weighting import LOG_SCALES, SCORES, fixed, weighting_of
from tinyllm_ray.tuning.space import check_search

TERMS = [Term("label", 0.3, (0,)), Term("long", 0.5, (1,)), Term("short", 1.5, (2,)), Term("more", 2.0, (1, 2))]


def weighting(kind, terms=TERMS, **settings):
    loss = Loss(weighting=kind, **settings)
    return weighting_of(loss, terms, teachers=["long", "short"], device=torch.device("cpu"))


def test_fixed_weights_are_those_that_are_configured():
    assert weighting("fixed").weights([None] * 4) == [0.3, 0.5, 1.5, 2.0]
    assert not weighting("fixed").varies and not weighting("fixed").parameters()


def test_uncertainty_starts_at_one_half_and_leaves_out_what_has_no_weight():
    learned = weighting("uncertainty", [replace(TERMS[0], weight=0.0), *TERMS[1:]])
    assert learned.weights([None] * 4) == [0.0, 0.5, 0.5, 0.5]
    with torch.no_grad():
        learned.log_scales.copy_(torch.tensor([0.0, math.log(4), 0.0, -math.log(2)]))
    assert learned.weights([None] * 4) == pytest.approx([0.0, 0.125, 0.5, 1.0])
    learned.set_gradient([7.0, 4.0, 3.0, None])  # (1 - 4 / 4) / 2 and (1 - 3) / 2; the last had no token
    assert learned.log_scales.grad.tolist() == pytest.approx([0.0, 0.0, -1.0, 0.0], abs=1e-7)


def test_the_gradient_of_s_is_that_of_the_sum_which_training_minimizes():
    learned, losses = weighting("uncertainty"), [0.5, 2.0, 3.0, 0.1]
    with torch.no_grad():
        learned.log_scales.copy_(torch.tensor([0.3, -1.0, 2.0, 0.0]))
    s = learned.log_scales.detach().double().requires_grad_()
    ((-s).exp() / 2 * torch.tensor(losses, dtype=torch.float64) + s / 2).sum().backward()
    learned.set_gradient(losses)
    assert learned.log_scales.grad.tolist() == pytest.approx(s.grad.tolist(), rel=1e-6)


def test_s_comes_to_rest_at_the_logarithm_of_its_loss():
    learned, losses = weighting("uncertainty"), [0.05, 0.7, 2.0, 9.0]
    training = Training(steps=5000, learning_rate=5e-5)
    optimizer = make_optimizer(torch.nn.Linear(1, 1), training, beside=learned.parameters().values(), rate_beside=0.01)
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * group["times"] * (1 - step / training.steps)
        learned.set_gradient(losses)
        optimizer.step()
    assert learned.log_scales.tolist() == pytest.approx([math.log(loss) for loss in losses], abs=1e-3)
    assert learned.weights([None] * 4) == pytest.approx([1 / (2 * loss) for loss in losses], rel=1e-3)


def test_by_confidence_the_teachers_share_the_sum_of_their_weights():
    by = weighting("confidence", confidence_alpha=2.0)
    scores = [9.0, -1.0, -1.0 + math.log(3) / 2, 5.0]  # e^(2 x score): 1 to 3
    assert by.weights(scores) == pytest.approx([0.3, 0.5, 1.5, 2.0])
    assert by.weights([9.0, -1.0, -1.0, 5.0]) == pytest.approx([0.3, 1.0, 1.0, 2.0])
    assert by.weights([9.0, None, -1.0, 5.0]) == pytest.approx([0.3, 0.5, 2.0, 2.0])  # one has no token in the step
    assert by.weights([9.0, None, None, 5.0]) == [0.3, 0.5, 1.5, 2.0]
    assert weighting("confidence", [TERMS[0]]).weights([1.0]) == [0.3]


def test_scores_of_tokens_by_hand():
    batch = pack([np.array([5])], [0], [np.array([1, 0])], [0], decoder_start=0)
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # the token is given 3/4, then 1/2
    found = {name: score(logits, batch).tolist() for name, score in SCORES.items()}
    assert found["cross_entropy"] == pytest.approx([math.log(0.75), math.log(0.5)])
    assert found["entropy"] == pytest.approx([0.75 * math.log(0.75) + 0.25 * math.log(0.25), -math.log(2)])
    assert found["max_probability"] == pytest.approx([0.75, 0.5])


@pytest.fixture
def ready(world, experiment):
    trial = world.trial()
    model = load_student(experiment.student, tokenizer_folder=trial.tokenizer, seed=0)[0].train()
    return model, open_features(trial.features, "train")


@pytest.mark.parametrize("score", SCORES)
def test_the_weights_of_a_step_are_those_of_its_own_losses_however_it_is_cut(ready, score):
    """The score by cross-entropy is known from the losses of the very step; all are the same for every cut."""
    model, features = ready
    terms = TERMS[:3]
    indices = step_examples(features, 0, training=Training(batch_size=8), terms=terms, seed=0)
    by = weighting("confidence", terms, confidence_score=score, confidence_alpha=3.0)
    weights, gradients = [], []
    for shards, settings in ((1, {}), (1, {"micro_batch_examples": 2}), (3, {"micro_batch_tokens": 90})):
        totals = one_step(model, features, indices, by, terms, shards=shards, **settings)
        weights.append(totals.weights.tolist())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        model.zero_grad()
        if score == "cross_entropy":
            _, long, short = (totals.sums.numpy() / totals.tokens).tolist()
            share = 1 / (1 + math.exp(3 * (long - short)))
            assert totals.weights.tolist() == pytest.approx([0.3, 2 * share, 2 * (1 - share)], rel=1e-6)
    close = 3 * rounding(STUDENT_TERMS)  # three times, since alpha is 3
    assert weights[1] == pytest.approx(weights[0], rel=close) and weights[2] == pytest.approx(weights[0], rel=close)
    close = 3 * rounding(2 * STUDENT_TERMS)  # a gradient passes through all twice
    assert all((gradients[0] - other).norm() / other.norm() < close for other in gradients[1:])


def test_the_gradient_with_learned_weights_is_the_one_with_these_weights_fixed(ready):
    model, features = ready
    terms = TERMS[:3]
    indices = step_examples(features, 0, training=Training(batch_size=8), terms=terms, seed=0)
    learned = weighting("uncertainty", terms)
    with torch.no_grad():
        learned.log_scales.copy_(torch.tensor([1.0, -1.0, 0.5]))
    same = fixed([replace(t, weight=w) for t, w in zip(terms, learned.weights([None] * 3), strict=True)])
    found = []
    for each in (learned, same):
        one_step(model, features, indices, each, terms, shards=2)
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        model.zero_grad()
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", ["uncertainty", "confidence"])
def test_a_stopped_training_goes_on_to_the_same_bits_and_logs_its_weights(world, kind):
    loss = {"weighting": kind, "uncertainty_learning_rate": 0.1}
    training = {"steps": 7, "checkpoint_every_steps": 2, "eval_every_steps": 3, "log_every_steps": 1}
    whole, stopped = (world.trial(name, training=training, loss=loss) for name in ("whole", "stopped"))
    run_trial(whole, report=lambda row: None)
    with pytest.raises(KeyboardInterrupt):
        run_trial(stopped, report=_interrupt)
    run_trial(stopped, report=lambda row: None)
    for name in ("model.safetensors", "optimizer.safetensors"):
        ends = [storage.read_bytes(f"{trial.dir}/checkpoints/000000007/{name}") for trial in (whole, stopped)]
        assert ends[0] == ends[1]
        assert (LOG_SCALES.encode() in ends[0]) == (kind == "uncertainty")
    lines = [
        json.loads(x)
        for p in sorted(Path(whole.dir, "metrics").glob("*.jsonl"))
        for x in p.read_text().split("\n")
        if x
    ]
    logged = [line for line in lines if "train/loss" in line]
    names = ("label", "long", "short")
    weights = [[line[f"train/weight/{name}"] for name in names] for line in logged]
    assert len(weights) == 7
    start = [0.5] * 3 if kind == "uncertainty" else [1.0, *weights[0][1:]]
    assert weights[0] == pytest.approx(start) and weights[6] != weights[0]
    sums = [0.5 + 2.0] if kind == "confidence" else []
    assert all(sum(row[1:]) == pytest.approx(total) for row in weights for total in sums)
    assert logged[6]["train/loss"] == pytest.approx(np.dot(weights[6], [logged[6][f"train/loss/{n}"] for n in names]))


def test_a_search_over_weights_that_are_learned_is_refused(make):
    search = {"space": {"loss.rationale_weights.long": {"choice": [0.5, 1]}}}
    with pytest.raises(UserError, match=r"search.space.loss.rationale_weights.long .* loss.weighting: uncertainty"):
        check_search(make.make_experiment(search=search, loss={"weighting": "uncertainty"}))
    search["space"]["loss.weighting"] = {"choice": ["fixed", "uncertainty"]}
    check_search(make.make_experiment(search=search, loss={"weighting": "uncertainty"}))
    check_search(make.make_experiment(search={"space": {"loss.label_weight": {"choice": [1]}}}))


def one_step(model, features, indices, each, terms, *, shards, **settings):
    replica, totals = make_replica(model, terms, shards=shards, weighting=each), new_totals(terms)
    training = Training(max_gradient_norm=None, **settings)
    step_gradients(replica, features, indices, training=training, dtype="float32", seed=0, step=0, totals=totals)
    return totals


def _interrupt(row):
    raise KeyboardInterrupt
