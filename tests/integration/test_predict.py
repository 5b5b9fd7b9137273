"""`tinyllm-ray predict` in the student pool: each row as `evaluate` has it, and a stopped run goes on."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from support.champions import PREFIX, questions_asked
from support.rounding import STUDENT_TERMS, rounding
from support.small_experiment import COMMAND
from support.tiny_students import save_model

from tinyllm_ray import storage
from tinyllm_ray.rows import Prediction, to_table
from tinyllm_ray.schema import Evaluation, Student
from tinyllm_ray.student.evaluate import evaluate
from tinyllm_ray.student.model import load_folder
from tinyllm_ray.student.predict_file import ROWS_PER_PART, _key, _part, make_job

pytestmark = pytest.mark.engine


def ask(folder: Path, *options: str) -> tuple[dict, str]:
    done = subprocess.run(
        [COMMAND, "predict", "model", "asked.jsonl", *options, "--json"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_every_row_is_as_evaluate_has_it_and_parts_that_are_there_are_not_answered_again(tmp_path, monkeypatch):
    save_model(str(tmp_path / "model"), "t5")
    settings = {"student": {"label_prefix": PREFIX, "max_rationale_tokens": 4}, "evaluation": {}, "dataset": {}}
    storage.write_json(str(tmp_path / "model/student.json"), settings | {"task_prefixes": {"llama": "llama : "}})
    asked = (questions_asked() * 90)[: 2 * ROWS_PER_PART + 20]
    rows = [asdict(question) | {"id": str(number)} for number, question in enumerate(asked)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    student = Student(model=str(tmp_path / "model"), **settings["student"])
    metrics, expected = evaluate(
        *load_folder(student),
        questions=asked,
        student=student,
        evaluation=Evaluation(),
        rationale_prefixes={"llama": "llama : "},
        rationale_questions=len(asked),
    )
    monkeypatch.chdir(tmp_path)
    job = make_job(student.model, "asked.jsonl", out="", form="jsonl", rationales=True)
    marked = [Prediction(str(number), "?", "red", "made before", True, [], "") for number in range(ROWS_PER_PART)]
    folder = storage.join(f"{job.out}.parts", _key(job))
    storage.write_table(_part(folder, "answers", 0), to_table(marked, Prediction))
    result, said = ask(tmp_path, "--rationales", "--workers", "2")
    assert (result["questions"], result["found"], result["rejected"]) == (len(asked), ROWS_PER_PART, 0)
    assert f"{ROWS_PER_PART} of {len(asked):,} questions found" in said
    answers = [json.loads(line) for line in Path(result["out"]).read_text().splitlines()]
    assert {row["answer"] for row in answers[:ROWS_PER_PART]} == {"made before"}
    assert [row["answer"] for row in answers[ROWS_PER_PART:]] == [row.predicted for row in expected[ROWS_PER_PART:]]
    assert [row["rationales"] for row in answers[ROWS_PER_PART:]] == [
        row.rationales for row in expected[ROWS_PER_PART:]
    ]
    assert not Path(f"{job.out}.parts").exists()
    result, _ = ask(tmp_path, "--out", "again.parquet")
    table = storage.read_table(str(tmp_path / "again.parquet")).to_pylist()
    assert [row["answer"] for row in table] == [row.predicted for row in expected]
    close = rounding(STUDENT_TERMS)  # its batches are others
    assert [row["scores"] for row in table] == [pytest.approx(row.choice_scores, rel=close) for row in expected]
    assert result["accuracy"] == pytest.approx(metrics["eval/accuracy"])
