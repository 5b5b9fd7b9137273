"""Reading what is asked, and that a folder alone knows how its student answers."""

import json
from dataclasses import replace

import pytest
from support.rounding import STUDENT_TERMS, rounding
from support.tiny_students import save_model

from tinyllm_ray import storage
from tinyllm_ray.cluster import arithmetic
from tinyllm_ray.config import UserError
from tinyllm_ray.rows import Question, Rejected
from tinyllm_ray.schema import Dataset
from tinyllm_ray.student.evaluate import evaluate
from tinyllm_ray.student.predict import answer_row, open_student, predict, read_rows
from tinyllm_ray.student.predict_file import make_job, read_questions
from tinyllm_ray.student.train import run_trial


def test_a_folder_alone_answers_as_the_trial_did(world, make):
    """Prefix, cut, dtype, and the prefixes of the teachers that had a weight are in the folder."""
    changes = {"student": {"label_prefix": "answer this: ", "max_input_tokens": 16, "max_rationale_tokens": 5}}
    changes |= {"loss": {"rationale_weights": {"long": 1.0, "short": 0.0}}, "training": {"max_truncated_fraction": 1.0}}
    trial = world.trial(score_test=True, **changes)
    run_trial(trial, report=lambda row: None)
    written = storage.read_table(f"{trial.dir}/predictions/test.parquet").to_pylist()
    predictions = predict(open_student(f"{trial.dir}/model"), world.asked["test"], rationales=True)
    assert [row.predicted for row in predictions] == [row["predicted"] for row in written]
    close = rounding(STUDENT_TERMS)
    assert [row.choice_scores for row in predictions] == [
        pytest.approx(row["choice_scores"], rel=close) for row in written
    ]
    assert [list(row.rationales) for row in predictions] == [["long"]] * 8
    assert [row.rationales["long"] for row in predictions] == [dict(row["rationales"])["long"] for row in written]


def test_generation_is_remembered_where_it_decides(world, make):
    trial = world.trial(score_test=True, evaluation={"by": "generation", "max_new_tokens": 3})
    run_trial(trial, report=lambda row: None)
    saved = open_student(f"{trial.dir}/model")
    (prediction,) = predict(saved, world.asked["test"][:1])
    reader = saved.reader
    _, (expected,) = evaluate(
        reader.model,
        reader.tokenizer,
        questions=world.asked["test"][:1],
        student=reader.student,
        evaluation=make.make_experiment(evaluation={"by": "generation", "max_new_tokens": 3}).evaluation,
    )
    assert prediction.predicted == expected.generated
    assert answer_row(prediction) == {
        "answer": expected.generated,
        "confidence": None,
        "scores": [],
        "rationales": {},
    }


@pytest.mark.parametrize("shape", ["t5", "llama"])
def test_weights_in_another_order_answer_alike(shape, tmp_path, monkeypatch):
    save_model(str(tmp_path), shape)
    rows = [{"question": f"What color is thing {word} ?", "choices": ["red", "green", "?"]} for word in ("red", "is")]
    questions = read_rows(rows, task="choice", labels=[])
    plain = open_student(str(tmp_path))
    monkeypatch.setattr(arithmetic, "LARGE_MATRIX", 1)
    ordered = open_student(str(tmp_path))
    kinds = {type(module).__name__ for module in ordered.reader.model.modules()}
    assert "Linear" not in kinds and len(kinds) > 3
    close = rounding(STUDENT_TERMS)
    for by in ("ranking", "generation"):
        first, second = (
            predict(
                replace(saved, evaluation=saved.evaluation.model_copy(update={"by": by, "max_new_tokens": 4})),
                questions,
            )
            for saved in (plain, ordered)
        )
        assert [row.generated for row in first] == [row.generated for row in second]
        assert [row.choice_scores for row in second] == [pytest.approx(row.choice_scores, rel=close) for row in first]


def test_rows_are_read_as_users_have_them():
    text = "What floats?\nAnswer Choices:\n(a) iron\n(b) cork (dry)"
    rows = [
        {"question": "What floats?", "choices": ("iron", "cork (dry)")},
        text,
        text.replace("Answer Choices", "Options").replace("(a)", "A.").replace("(b)", "B."),
    ]
    assert {(q.question, tuple(q.choices)) for q in read_rows(rows, task="choice", labels=[])} == {
        ("What floats?", ("iron", "cork (dry)"))
    }
    (question,) = read_rows([{"question": "And?", "context": "Wood.", "choices": ["a", "b"]}], task="choice", labels=[])
    assert (question.question, question.context) == ("And?", "Wood.")


def test_other_kinds_of_task_need_no_choices():
    (label,) = read_rows(["It rains."], task="label", labels=["yes", "no"])
    assert (label.choices, label.task) == (["yes", "no"], "label")
    (number,) = read_rows([{"question": "2 + 2?", "choices": ["ignored"]}], task="number", labels=[])
    assert (number.question, number.choices, number.task) == ("2 + 2?", [], "number")


def test_a_file_may_hold_rows_with_and_without_gold_answers(tmp_path):
    rows = [
        {"id": "x", "question": "What floats?", "choices": ["iron", "cork"], "answer": "cork"},
        {"question_id": "y", "question": "What sinks?", "choices": ["iron", "cork"]},
        {"id": "z", "question": "What sinks?", "choices": ["iron", "cork"], "answer": "lead"},
        "What rusts?\nAnswer Choices:\n(a) iron\n(b) cork",
        {"id": "w", "question": "What?"},
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third, fourth, fifth = read_questions([str(path)], dataset=Dataset(name="asked", format="jsonl"))
    assert first == Question("x", "What floats?", ["iron", "cork"], "cork")
    assert second == Question("y", "What sinks?", ["iron", "cork"], "")
    assert isinstance(third, Rejected) and third.line == 3 and "lead" in third.reason
    assert fourth == Question("4", "What rusts?", ["iron", "cork"], "")
    assert isinstance(fifth, Rejected) and "0 choices given" in fifth.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "missing.jsonl"}, "there is no question file missing.jsonl"),
        ({"form": "obqq"}, "--format 'obqq' is unknown; did you mean obqa?"),
        ({"out": "answers.txt"}, "must end in .jsonl or .parquet"),
    ],
)
def test_mistakes_are_said_before_anything_starts(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.jsonl").write_text("{}\n")
    given = {"file": "asked.jsonl", "form": "jsonl", "out": ""} | changes
    with pytest.raises(UserError, match=message):
        make_job("model", given.pop("file"), rationales=False, **given)


def test_answers_go_beside_where_the_command_runs_unless_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asked.jsonl").write_text("{}\n")
    job = make_job("model", "asked.jsonl", out="", form="jsonl", rationales=False)
    assert job.out == str(tmp_path / "asked.answers.jsonl")
