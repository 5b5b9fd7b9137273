"""The training loop: exact over ranks and micro-batches, stops before a step that would spoil the weights."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.rounding import STUDENT_TERMS, rounding

from tinyllm_ray.data.arrays import Features
from tinyllm_ray.data.features import open_features
from tinyllm_ray.schema import Training
from tinyllm_ray.student.loop import (
    Hooks,
    NotFinite,
    learning_rate,
    make_optimizer,
    make_replica,
    new_totals,
    step_examples,
    step_gradients,
    train,
)
from tinyllm_ray.student.model import load_student
from tinyllm_ray.student.objective import Term

QUIET = Hooks(on_log=lambda step, values: None, on_step=lambda step, optimizer: None)
WEIGHTS = [1.0, 0.5, 2.0]
TERMS = [
    Term(name, weight, (i,)) for i, (name, weight) in enumerate(zip(("label", "long", "short"), WEIGHTS, strict=True))
]


def gradients(model, features, indices, training, shards=1):
    replica, totals = make_replica(model, TERMS, shards=shards), new_totals(TERMS)
    step_gradients(replica, features, indices, training=training, dtype="float32", seed=0, step=0, totals=totals)
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return found, totals


def student(trial, experiment, seed=0):
    return load_student(experiment.student, tokenizer_folder=trial.tokenizer, seed=seed)[0].train()


@pytest.fixture
def ready(world, experiment):
    trial = world.trial()
    return student(trial, experiment), open_features(trial.features, "train")


def test_micro_batches_do_not_change_the_gradient(ready):
    model, features = ready
    indices = step_examples(features, 0, training=Training(batch_size=8), terms=TERMS, seed=0)
    whole, _ = gradients(model, features, indices, Training(max_gradient_norm=None))
    small = Training(max_gradient_norm=None, micro_batch_tokens=90, micro_batch_examples=2)
    parts, _ = gradients(model, features, indices, small)
    assert (whole - parts).norm() / whole.norm() < rounding(2 * STUDENT_TERMS)


def test_shards_change_the_gradient_by_rounding_alone(ready):
    model, features = ready
    indices = step_examples(features, 0, training=Training(batch_size=8), terms=TERMS, seed=0)
    lengths = features.examples[indices, 5]
    assert lengths.max() > 20 * lengths.min()
    whole, totals = gradients(model, features, indices, Training(max_gradient_norm=None))
    for shards in (2, 3, 8):
        parts, again = gradients(model, features, indices, Training(max_gradient_norm=None), shards)
        assert (whole - parts).norm() / whole.norm() < rounding(2 * STUDENT_TERMS)
        assert again.sums.tolist() == pytest.approx(totals.sums.tolist(), rel=rounding(STUDENT_TERMS))
        assert again.tokens.tolist() == totals.tokens.tolist() and again.real >= totals.real


def test_a_batch_with_all_components_masked_leaves_a_gradient_of_zero(ready):
    model, features = ready
    gradient, totals = gradients(model, features, np.zeros(0, np.int64), Training())
    assert torch.count_nonzero(gradient) == 0
    assert totals.sums.tolist() == [0.0, 0.0, 0.0]


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_questions(ready):
    model, features = ready
    training = Training(steps=2, batch_size=3, learning_rate=1e-2)
    with torch.no_grad():
        model.encoder.block[0].layer[1].DenseReluDense.wo.weight[0, 0] = float("nan")
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(NotFinite, match=r"step 1: .* questions of the batch: train-\d+, train-\d+, train-\d+"):
        run(model, features, training)
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before, model.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not(world, experiment):
    trial = world.trial()
    features = open_features(trial.features, "train")
    ends = []
    for seed in (0, 0, 1):
        model = student(trial, experiment)
        run(model, features, Training(steps=4, batch_size=4, learning_rate=1e-2), seed=seed)
        ends.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_loss_falls_and_log_lines_hold_weighted_means(ready):
    model, features = ready
    lines = {}
    hooks = Hooks(on_log=lines.__setitem__, on_step=lambda step, optimizer: None)
    training = Training(steps=30, batch_size=8, learning_rate=1e-2, log_every_steps=10)
    run(model, features, training, hooks=hooks)
    assert list(lines) == [10, 20, 30]
    assert lines[30]["train/loss"] < 0.7 * lines[10]["train/loss"]
    parts = [lines[30][f"train/loss/{component}"] for component in ("label", "long", "short")]
    assert lines[30]["train/loss"] == pytest.approx(np.dot(parts, WEIGHTS))


def test_learning_rate_warms_up_and_falls_as_the_schedule_says():
    linear = Training(steps=10, learning_rate=1.0, warmup_steps=2)
    assert [learning_rate(step, linear) for step in (0, 1, 2, 6)] == [0.5, 1.0, 1.0, 0.5]
    cosine = Training(steps=10, learning_rate=1.0, schedule="cosine")
    assert learning_rate(5, cosine) == pytest.approx(0.5)
    assert learning_rate(9, Training(steps=10, learning_rate=1.0, schedule="constant")) == 1.0


def test_the_loop_imports_neither_ray_nor_mlflow():
    others = "('ray', 'mlflow', 'vllm', 'pydantic', 'pyarrow')"
    code = f"import sys, tinyllm_ray.student.loop; print([name for name in {others} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def run(model, features: Features, training: Training, *, seed=0, hooks=QUIET):
    optimizer = make_optimizer(model, training)
    settings = {"training": training, "terms": TERMS, "seed": seed, "dtype": "float32"}
    train(model, features, optimizer=optimizer, first_step=0, hooks=hooks, **settings)
