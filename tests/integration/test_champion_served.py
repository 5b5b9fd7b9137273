"""The champion behind a real `mlflow models serve` answers as `evaluate` does in this process."""

import json
from pathlib import Path

import mlflow
import pytest
from support.champions import PREFIX, questions_asked, register
from support.model_server import ModelServer

from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.schema import Evaluation, Student
from tinyllm_ray.student.evaluate import evaluate
from tinyllm_ray.student.model import load_folder

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("shape", ["t5", "llama"])
def test_a_served_champion_answers_as_evaluate_does(tmp_path, shape):
    made, folder = register(str(tmp_path), shape)
    student, asked = Student(model=folder, label_prefix=PREFIX), questions_asked()
    _, expected = evaluate(*load_folder(student), questions=asked, student=student, evaluation=Evaluation())
    answers = [row.predicted for row in expected]
    dicts = [{"question": question.question, "choices": question.choices} for question in asked]
    copy = Path(mlflow.artifacts.download_artifacts(made["uri"], tracking_uri=made["tracking_uri"]))
    example = json.loads((copy / "serving_input_example.json").read_text())
    with ModelServer(made["uri"], tracking_uri=made["tracking_uri"], folder=tmp_path) as server:
        for body in (
            {"dataframe_records": dicts},
            {"inputs": dicts},
            {"inputs": [student_input("", question) for question in asked]},
        ):
            assert [row["answer"] for row in server.ask(body)] == answers
        (explained,) = server.ask({"inputs": dicts[:1], "params": {"rationales": True}})
        assert list(explained["rationales"]) == ["llama"]
        (answer,) = server.ask(example)
    ((_, choices),) = example["dataframe_split"]["data"]
    assert answer["answer"] in choices
