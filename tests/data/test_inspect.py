import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.layout_rows import FACTS, PUBLISHED

from tinyllm_ray.config import UserError
from tinyllm_ray.data.inspect import inspect
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.schema import Dataset


def write_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"q{n}", "question": f"What is {n}?", "choices": ["left", "right", "up"], "answer": "BCA"[n % 3], **more}
        for n in range(start, start + count)
    ]


@pytest.mark.parametrize("published", PUBLISHED)
def test_every_published_layout_gets_a_section_that_reads_it(published: str, tmp_path: Path) -> None:
    wanted = PUBLISHED[published]
    wanted.write(tmp_path / "in")
    found = inspect(str(tmp_path / "in"))
    section = yaml.safe_load(found["yaml"])["dataset"]
    assert section == found["section"]
    section.pop("split_from_train")
    assert found["problem"] == ""
    files = prepare_questions(Dataset(**section), output_dir=str(tmp_path / "out"))
    read = [(q.question, q.answer, sorted(q.choices), q.context) for q in read_questions(files["train"].path)]
    assert read == [(q.question, q.answer, sorted(q.choices), q.context) for q in wanted.questions]


def test_at_least_twenty_layouts_are_known_by_their_name(tmp_path: Path) -> None:
    known = {}
    for published, wanted in PUBLISHED.items():
        folder = tmp_path / published.replace(" ", "")
        wanted.write(folder)
        known[published] = inspect(str(folder))["section"]["format"]
    right = {name for name, found in known.items() if found == name.partition(",")[0]}
    assert len({name for name in right if "," not in name}) >= 20, known


def test_files_are_shown_with_their_columns_rows_and_reading(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [*rows(8), {**rows(1)[0], "question": "What is 3?", "note": "n" * 500}])
    write_lines(tmp_path / "dev.jsonl", rows(4, 2))
    write_lines(tmp_path / "test.jsonl", rows(2, 20, answer=""))
    found = inspect(str(tmp_path))
    assert found["reading"] == "letter"
    assert found["columns"]["choices"] == "list of str"
    assert found["columns"]["note"] == "str or absent"
    assert [row["id"] for row in found["rows"]] == ["q0", "q1", "q2"]
    train = {
        "rows": 9,
        "bad": 0,
        "unanswered": 0,
        "skipped": 0,
        "repeated_ids": 1,
        "repeated_questions": 1,
        "reasons": [],
    }
    assert found["splits"]["train"] == train
    assert found["splits"]["test"]["unanswered"] == 2
    assert found["overlaps"][0].startswith("4 of 4 validation questions are in train too")
    assert found["section"] == {
        "name": tmp_path.name,
        "format": "columns",
        "path": str(tmp_path),
        "splits": {"train": "train.jsonl", "validation": "dev.jsonl"},
        "repeated_ids": "number",
        "drop_leaked": True,
    }
    text = "\n".join(found["lines"])
    assert "the answers are read as letter (dataset.columns.answer_is)" in text
    assert "train: 9 questions, 1 repeated ids, 1 repeated questions" in text


def test_two_possible_readings_are_said_with_the_key_to_set(tmp_path: Path) -> None:
    blood = [{"question": f"Group {n}?", "choices": ["A", "AB", "B", "O"], "answer": "AB"[n % 2]} for n in range(6)]
    write_lines(tmp_path / "train.jsonl", blood)
    found = inspect(str(tmp_path))
    assert found["reading"] is None
    assert "set dataset.columns.answer_is to text or letter" in found["problem"]
    assert found["problem"] in found["lines"]


@pytest.mark.parametrize(
    ("change", "section"),
    [
        (lambda n, q, c, g: {"q_id": n, "query": q, "options": json.dumps(c), "gold": g}, {"question": "query"}),
        (
            lambda n, q, c, g: {"Question": q, **dict(zip("ABCD", c, strict=True)), "Answer": "ABCD"[g]},
            {"answer": "Answer"},
        ),
        (
            lambda n, q, c, g: {"stem": q, **{f"option_{k}": t for k, t in enumerate(c)}, "label": g},
            {"question": "stem"},
        ),
        (
            lambda n, q, c, g: {"prompt": q, "distractors": [t for t in c if t != c[g]], "answer": c[g]},
            {"choices": None},
        ),
        (lambda n, q, c, g: {"question": q, "options": dict(zip("ABCD", c, strict=True)), "correct": "ABCD"[g]}, {}),
    ],
)
def test_other_files_are_read_by_the_usual_names_of_columns(
    tmp_path: Path, change: Any, section: dict[str, Any]
) -> None:
    write_lines(tmp_path / "train.jsonl", [change(n, *fact) for n, fact in enumerate(FACTS)])
    found = inspect(str(tmp_path / "train.jsonl"))
    assert (found["problem"], found["splits"]["train"]["bad"]) == ("", 0)
    dataset = Dataset(**{**found["section"], "split_from_train": {}})
    files = prepare_questions(dataset, output_dir=str(tmp_path / "out"))
    assert [(q.question, q.answer) for q in read_questions(files["train"].path)] == [(q, c[g]) for q, c, g in FACTS]
    for key, value in section.items():
        assert value is None or found["section"]["columns"][key] == value


def test_rows_without_choices_are_labels_numbers_or_texts(tmp_path: Path) -> None:
    kinds = {
        "label": [{"text": f"A film {n}", "label": ["good", "bad"][n % 2]} for n in range(8)],
        "number": [{"question": f"{n} + {n}?", "answer": f"( {n}.0 + {n}.0 )"} for n in range(8)],
        "text": [{"question": f"Who {n}?", "answer": f"person {n}"} for n in range(8)],
    }
    for task, written in kinds.items():
        write_lines(tmp_path / task / "train.jsonl", written)
        found = inspect(str(tmp_path / task))
        assert (found["section"]["task"], found["splits"]["train"]["rows"]) == (task, 8)
    assert inspect(str(tmp_path / "label"))["section"]["labels"] == ["bad", "good"]


@pytest.mark.parametrize(
    ("row", "columns", "task"),
    [
        (
            {"question": "Who?", "context": "Ann sang.", "answers": {"text": ["Ann"], "answer_start": [0]}},
            {"answer": "answers.text"},
            "text",
        ),
        (
            {"instruction": "Name it.", "input": "", "output": "Ann"},
            {"question": "instruction", "context": "input", "answer": "output"},
            "text",
        ),
        (
            {"problem": "1 + 4?", "solution": "It is $\\boxed{5}$."},
            {"question": "problem", "answer": "solution", "answer_after": "\\boxed{"},
            "number",
        ),
        (
            {"stem": "Who?", "answers": [{"text": "Bob", "correct": False}, {"text": "Ann", "correct": True}]},
            {"question": "stem", "choices": "answers", "answer": "answers.correct"},
            "choice",
        ),
    ],
    ids=["SQuAD", "Alpaca", "MATH", "marked choices"],
)
def test_nested_answers_worked_solutions_and_marked_choices_are_found(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, str], task: str
) -> None:
    write_lines(tmp_path / "train.jsonl", [row] * 3)
    section = inspect(str(tmp_path / "train.jsonl"))["section"]
    assert (section.get("task", "choice"), section["columns"]) == (task, columns)
    files = prepare_questions(Dataset(**section | {"split_from_train": {}}), output_dir=str(tmp_path / "out"))
    assert {q.answer for q in read_questions(files["train"].path)} == {"5" if task == "number" else "Ann"}


def test_a_file_that_is_only_written_like_a_known_dataset_keeps_its_own_name(tmp_path: Path) -> None:
    riddles = [
        {"question": q, "choices": {"text": c, "label": [*"ABCD"][: len(c)]}, "answerKey": "A"} for q, c, _ in FACTS
    ]
    for folder, name in (("quiz", "quiz"), ("RiddleSense", "riddle")):
        write_lines(tmp_path / folder / "train.jsonl", riddles)
        section = inspect(str(tmp_path / folder))["section"]
        assert (section["format"], section["name"]) == ("riddle", name)


def test_the_splits_of_a_folder_follow_its_files_names(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(3))
    for name in ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"):
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name)
    pq.write_table(pa.Table.from_pylist(rows(3, 9)), tmp_path / "data/mine_Dev.parquet")
    (tmp_path / "README.md").write_text("words")
    assert inspect(str(tmp_path))["section"]["splits"] == {
        "train": ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        "validation": "data/mine_Dev.parquet",
    }


def test_files_at_the_top_go_before_those_below(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine_train.json", rows(3))
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/train_CoT_0.json").write_text('["a text"]')
    assert inspect(str(tmp_path))["section"]["splits"] == {"train": "mine_train.json"}


def test_what_cannot_be_inspected_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file or folder"):
        inspect(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no files of rows; supported are .*CSV"):
        inspect(str(tmp_path / "empty"))
    write_lines(tmp_path / "lists/train.jsonl", [[1, 2]])
    with pytest.raises(UserError, match="no rows with named columns"):
        inspect(str(tmp_path / "lists"))
    write_lines(tmp_path / "odd/train.jsonl", [{"x": 1}])
    with pytest.raises(UserError, match=r"no column looks like a question's text; the columns are x"):
        inspect(str(tmp_path / "odd"))
    for name in ("easy", "hard"):
        write_lines(tmp_path / "two" / name / "train.jsonl", rows(2))
    with pytest.raises(UserError, match="several datasets: easy, hard; inspect one"):
        inspect(str(tmp_path / "two"))
