"""Ranking, generation and their figures against the plain way and values worked out by hand."""

import numpy as np
import pytest
import torch
from support.rounding import STUDENT_TERMS, rounding

from tinyllm_ray.config import UserError
from tinyllm_ray.data.features import open_features
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Evaluation
from tinyllm_ray.student.evaluate import (
    Reader,
    best_choice,
    calibration_error,
    choice_scores,
    evaluate,
    generate,
    latency,
    validation_losses,
)
from tinyllm_ray.student.model import load_student
from tinyllm_ray.student.objective import terms_of


@pytest.fixture(params=["tiny", "decoder"])
def reader(request, world, make):
    experiment = make.make_experiment(student={"model": request.param})
    trial = world.trial(student={"model": request.param})
    model, tokenizer = load_student(experiment.student, tokenizer_folder=trial.tokenizer, seed=3)
    return Reader(model.eval(), tokenizer, experiment.student, 5)


def plain_score(reader, question, choice):
    """Mean log-likelihood of a choice by one forward pass of the model as it is."""
    source = torch.tensor(reader.tokenizer.sources([student_input("predict: ", question)]))
    target = torch.tensor(reader.tokenizer.targets([choice]))
    reader.model.set_attn_implementation("eager")
    if reader.tokenizer.encoder_decoder:
        return -reader.model(input_ids=source, labels=target).loss.item()
    ids = torch.cat([source, target], 1)
    labels = ids.clone()
    labels[:, : source.shape[1]] = -100
    return -reader.model(input_ids=ids, labels=labels).loss.item()


def test_choice_scores_equal_one_forward_pass_for_each_choice(reader, world):
    questions = world.asked["test"]
    scores = choice_scores(reader, questions)
    for question, row in list(zip(questions, scores, strict=True))[::3]:
        plain = [plain_score(reader, question, choice) for choice in question.choices]
        assert row == pytest.approx(plain, rel=rounding(STUDENT_TERMS))


def test_batched_generation_equals_one_question_at_a_time(reader, world):
    questions = world.asked["test"]
    together = generate(reader, questions, prefix="explain: ", max_new_tokens=6)
    alone = [generate(reader, [question], prefix="explain: ", max_new_tokens=6)[0] for question in questions]
    assert together == alone


def test_evaluation_has_the_promised_metrics_and_rows(reader, world):
    metrics, predictions = evaluate(
        reader.model,
        reader.tokenizer,
        questions=world.asked["test"],
        student=reader.student,
        evaluation=Evaluation(by="both", max_new_tokens=3),
        rationale_prefixes={"long": "explain: "},
        rationale_questions=2,
    )
    named = {"accuracy", "exact_match", "unparsable", "calibration_error", "tied"}
    assert set(metrics) == {f"eval/{name}" for name in named}
    assert metrics["eval/accuracy"] == np.mean([row.correct for row in predictions])
    assert all(
        row.predicted == q.choices[int(np.argmax(row.choice_scores))]
        for row, q in zip(predictions, world.asked["test"], strict=True)
    )
    assert ["long" in row.rationales for row in predictions] == [True, True] + [False] * 6


def test_generation_alone_decides_accuracy_when_asked_to(reader, world):
    evaluation = Evaluation(by="generation", max_new_tokens=3)
    metrics, predictions = evaluate(
        reader.model, reader.tokenizer, questions=world.asked["test"], student=reader.student, evaluation=evaluation
    )
    assert metrics["eval/accuracy"] == metrics["eval/exact_match"]
    assert predictions[0].choice_scores == [] and predictions[0].predicted == predictions[0].generated


def test_validation_losses_name_the_terms_that_have_weight(world, make):
    experiment = make.make_experiment(loss={"rationale_weights": {"long": 0.0, "short": 1.0}})
    trial = world.trial()
    model, _ = load_student(experiment.student, tokenizer_folder=trial.tokenizer, seed=0)
    features = open_features(trial.features, "validation")
    terms = terms_of(experiment.loss, features.components)
    settings = {"terms": terms, "training": experiment.training, "dtype": "float32", "max_rows": None}
    assert set(validation_losses(model, features, **settings)) == {"eval/loss/label", "eval/loss/short"}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    # bin 0.6-0.7: confidence 0.65, accuracy 0.5, two of three rows; bin 0.9-1: confidence 1, accuracy 1
    assert calibration_error([0.62, 0.68, 1.0], [True, False, True]) == pytest.approx(2 / 3 * 0.15)
    assert calibration_error([1.0, 1.0], [False, False]) == 1.0


def test_latency_is_that_of_single_questions_with_its_spread(reader, world):
    found = latency(reader, world.asked["test"], Evaluation())
    assert 0 < found["time/latency_ms_p10"] <= found["time/latency_ms"] <= found["time/latency_ms_p90"]


def test_batches_depend_on_the_questions_alone_and_are_not_small(reader):
    sizes = [len(batch) for batch in Reader(reader.model, reader.tokenizer, reader.student, 64).batches([[1]] * 200)]
    assert sizes == [25] * 8
    assert [len(batch) for batch in reader.batches([[1]] * 11)] == [5, 5, 1]


def test_a_tie_is_a_wrong_answer_and_counted(reader, world):
    """All weights zero: every choice has the same score, and the first one is not chosen."""
    with torch.no_grad():
        for parameter in reader.model.parameters():
            parameter.zero_()
    metrics, predictions = evaluate(
        reader.model,
        reader.tokenizer,
        questions=world.asked["test"],
        student=reader.student,
        evaluation=Evaluation(),
    )
    assert (metrics["eval/accuracy"], metrics["eval/tied"]) == (0.0, 1.0)
    assert {row.predicted for row in predictions} == {""}


def test_the_best_choice_is_the_only_one_with_the_highest_score():
    question = Question("q", "?", ["red", "green", "blue"], "red")
    assert best_choice(question, [-3.0, -1.0, -2.0]) == "green"
    assert best_choice(question, [-1.0, -1.0, -2.0]) == ""


def test_choices_of_the_same_tokens_have_exactly_the_same_score(reader):
    question = Question("q", "what color", ["red", "a red herring", "red"], "a red herring")
    ((first, _, third),) = choice_scores(reader, [question])
    assert first == third


def test_scores_that_are_not_finite_are_an_error(reader, world):
    with torch.no_grad():
        next(iter(reader.model.parameters()))[:] = float("nan")
    with pytest.raises(UserError, match=r"scores of question test-\d+ are not finite"):
        choice_scores(reader, world.asked["test"])
