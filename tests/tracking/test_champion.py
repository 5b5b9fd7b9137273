"""The winner is registered as a model that answers as `evaluate` does, however its rows are given."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import transformers
from support.champions import PREFIX, questions_asked, register

from tinyllm_ray.config import UserError
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.schema import Evaluation, Student
from tinyllm_ray.student.evaluate import evaluate
from tinyllm_ray.student.model import load_folder


@pytest.fixture(scope="module", params=["t5", "llama"])
def champion(request, tmp_path_factory) -> tuple[dict[str, str], str]:
    return register(str(tmp_path_factory.mktemp("champion")), request.param)


@pytest.fixture(scope="module")
def model(champion) -> Any:
    mlflow.set_tracking_uri(champion[0]["tracking_uri"])
    return mlflow.pyfunc.load_model(champion[0]["uri"])


def test_a_repeated_run_registers_nothing_new_and_says_nothing(tmp_path, capfd):
    first, _ = register(str(tmp_path), "t5")
    capfd.readouterr()
    made, _ = register(str(tmp_path), "t5")
    said = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert [line for line in said if line and "Writing model shards" not in line] == []  # a bar of this test's own
    assert made == first
    client = mlflow.MlflowClient(made["tracking_uri"])
    assert made["uri"] == f"models:/{made['name']}@champion"
    assert made["version"] == "1"
    assert client.get_model_version_by_alias(made["name"], "champion").run_id == made["run_id"]
    assert client.get_run(made["parent_id"]).data.tags["champion.uri"] == made["uri"]
    assert client.get_run(made["run_id"]).info.status == "FINISHED"


def test_a_champion_answers_as_evaluate_does_however_its_rows_are_given(champion, model):
    _, folder = champion
    student = Student(model=folder, label_prefix=PREFIX, max_rationale_tokens=6)
    asked = questions_asked()
    _, expected = evaluate(
        *load_folder(student),
        questions=asked,
        student=student,
        evaluation=Evaluation(),
        rationale_prefixes={"llama": "llama: "},
        rationale_questions=len(asked),
    )
    dicts = [{"question": question.question, "choices": question.choices} for question in asked]
    texts = [student_input("", question) for question in asked]
    for given in (dicts, texts, pd.DataFrame(dicts)):
        answered = model.predict(given)
        assert list(answered["answer"]) == [row.predicted for row in expected]
        assert list(answered["scores"]) == [row.choice_scores for row in expected]
        assert set(map(len, answered["rationales"])) == {0}
    explained = model.predict(dicts, params={"rationales": True})
    assert list(explained["rationales"]) == [row.rationales for row in expected]
    assert all(1 / 4 <= confidence <= 1 for confidence in explained["confidence"])


def test_a_context_stands_before_the_question(model):
    row = {"question": "is red?", "choices": ["red", "green"], "context": "color color thing"}
    with_context, without = model.predict([row]), model.predict([row | {"context": None}])
    joined = model.predict([{"question": "color color thing\nis red?", "choices": ["red", "green"]}])
    assert with_context["scores"][0] == joined["scores"][0] != without["scores"][0]


def test_the_examples_answer_is_one_of_its_choices(champion, model):
    example = mlflow.models.Model.load(champion[0]["uri"]).load_input_example()
    assert list(example.columns) == ["question", "choices"]
    (answer,) = model.predict(example)["answer"]
    assert answer in example["choices"][0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "", "choices": ["a", "b"]}, "row 0: `question` must be a text"),
        ({"question": "x", "choices": ["a"]}, "row 0: 1 choice given"),
        ("What floats?", "row 0: 0 choices given"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named(model, row, message):
    with pytest.raises(UserError, match=message):
        model.predict([row])


def test_the_plain_hugging_face_folder_lies_beside(champion, model):
    made, folder = champion
    kind = transformers.AutoModelForSeq2SeqLM if "t5" in made["name"] else transformers.AutoModelForCausalLM
    copy = mlflow.artifacts.download_artifacts(f"{made['uri']}/artifacts/model")
    saved, loaded = kind.from_pretrained(folder).state_dict(), kind.from_pretrained(copy).state_dict()
    assert all(saved[name].equal(loaded[name]) for name in saved)
    assert transformers.AutoTokenizer.from_pretrained(copy)("red green")["input_ids"] == [10, 11]


def test_nothing_in_a_champion_is_pickled(champion, model):
    copy = Path(mlflow.artifacts.download_artifacts(champion[0]["uri"]))
    names = [path for path in copy.rglob("*") if path.is_file()]
    assert {path.suffix for path in names} <= {
        "",
        ".py",
        ".json",
        ".yaml",
        ".txt",
        ".safetensors",
        ".html",
        ".j2",
        ".css",
        ".md",
        ".typed",
    }
    assert (copy / "code" / "tinyllm_ray" / "student" / "predict.py") in names
