"""The ONNX files of a student score as the student does, and the folder answers without this package."""

import json
import subprocess
import sys

import pytest
from support.champions import PREFIX, questions_asked
from support.rounding import STUDENT_TERMS, rounding
from support.tiny_students import save_model

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.deploy.onnx import export_onnx
from tinyllm_ray.deploy.onnx_answer import OnnxStudent
from tinyllm_ray.rows import Question
from tinyllm_ray.student.predict import open_student, predict

SETTINGS = {"student": {"label_prefix": PREFIX, "max_input_tokens": 24}, "evaluation": {}, "task_prefixes": {}}


def saved(folder: str, shape: str, **kind: object) -> str:
    save_model(folder, shape)
    storage.write_json(f"{folder}/student.json", SETTINGS | {"dataset": kind})
    return folder


@pytest.mark.parametrize("shape", ["t5", "llama"])
def test_the_graph_scores_choices_as_the_student_does(tmp_path, shape):
    """Questions of several lengths; one is cut, one has a context, and one holds the text of a special token."""
    folder = saved(str(tmp_path / "model"), shape)
    asked = [
        *questions_asked(),
        Question("long", "What color is " + "thing " * 40 + "?", ["red", "green thing"], "red"),
    ]
    asked += [Question("mark", "What </s> is red?", ["red </s>", "green"], "red", "green is thing red")]
    expected = predict(open_student(folder), asked)
    made = export_onnx(folder, str(tmp_path / "onnx"))
    assert {"model.onnx", "model.int8.onnx", "tokenizer.json", "answer.py", "README.md"} <= set(made["files"])
    student = OnnxStudent(made["out"], "model.onnx", threads=1)
    rows = [{"question": row.question, "choices": row.choices, "context": row.context} for row in asked]
    close = rounding(STUDENT_TERMS)  # ONNX Runtime sums in another order
    assert [student.scores(row) for row in rows] == [pytest.approx(row.choice_scores, rel=close) for row in expected]
    assert [student.answer(row)["answer"] for row in rows] == [row.predicted for row in expected]
    command = [sys.executable, f"{made['out']}/answer.py", json.dumps(rows[0])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env={"PATH": ""})
    assert json.loads(done.stdout)["answer"] in asked[0].choices


def test_a_student_of_numbers_is_refused_with_what_is_possible(tmp_path):
    folder = saved(str(tmp_path / "model"), "t5", task="number", labels=[])
    with pytest.raises(UserError, match=r"--to onnx writes students of multiple choice; .* kind number"):
        export_onnx(folder, str(tmp_path / "onnx"))
