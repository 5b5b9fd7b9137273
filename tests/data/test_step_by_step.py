"""Rationales by row, in the layout of Distilling step-by-step and layouts near it, written here on a small scale."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.published import import_published
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.data.step_by_step import import_step_by_step
from tinyllm_ray.rows import Question

SUMS = [{"input": "Two and two?", "label": "( 2.0 + 2.0 )"}, {"input": "Six sevens?", "label": "( 6.0 * 7.0 )"}]
PAIRS = [
    {"uid": "a", "premise": "He runs.", "hypothesis": "He moves.", "label": 0, "reason": "Runners move."},
    {"uid": "b", "premise": "He runs.", "hypothesis": "He rests.", "label": 2, "reason": ""},
]
NEXT = "\n\nQ: Three and three?\nA: The answer is (3 + 3)."


def write(folder: Path, files: dict[str, Any], *, lines: bool = False) -> str:
    for name, values in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, values)) if lines else json.dumps(values))
    return str(folder)


def stored(folder: Path, dataset: str, teacher: str, split: str = "train") -> list[dict[str, Any]]:
    return store.read(str(folder / dataset / teacher), split).to_pylist()


def test_numbers_are_imported_with_what_the_teacher_states(tmp_path: Path) -> None:
    files = {"svamp/palm/train_CoT_0.json": [f"2 + 2 = 4. The answer is (2 + 2).{NEXT}"]}
    files |= {"svamp/palm/train_CoT_1.json": ["So 6 * 7 = 42. The answer is (6 + 7)."]}
    write(tmp_path, {"svamp/svamp_train.json": SUMS}, lines=True)
    report = import_step_by_step(write(tmp_path, files), dataset="svamp", out=str(tmp_path / "out"))
    assert (report["task"], report["problems"]) == ("number", [])
    assert report["missing"] == ["svamp_valid.json", "svamp_test.json"]
    counts = report["splits"]["train"]["palm"]
    assert (counts["texts"], counts["absent"], counts["continued"], counts["stated"], counts["right"]) == (
        2,
        0,
        1,
        2,
        1,
    )
    first, second = stored(tmp_path / "out", "svamp", "palm")
    assert (first["rationale"], first["predicted_answer"]) == ("2 + 2 = 4. The answer is (2 + 2).", "(2 + 2)")
    assert (first["flags"], second["flags"]) == ([], ["answer_contradicted"])
    assert read_questions(str(tmp_path / "out/svamp/questions/train.parquet")) == [
        Question("train-1", "Two and two?", [], "( 2.0 + 2.0 )", task="number"),
        Question("train-2", "Six sevens?", [], "( 6.0 * 7.0 )", task="number"),
    ]
    assert store.read_manifest(str(tmp_path / "out/svamp/palm"))["dataset"] == "svamp"


def test_pairs_of_sentences_are_labels_and_every_folder_is_a_teacher(tmp_path: Path) -> None:
    files = {
        "anli1/anli1_valid.json": PAIRS,
        "anli1/palm/valid_CoT_0.json": [
            "So the answer is entailment.\n\nPremise: It rains.",
            "So the answer is neutral.",
        ],
        "anli1/llm/valid_CoT_0.json": ["so the answer is neutral premise: It rains. hypothesis: It pours.", None],
    }
    report = import_step_by_step(write(tmp_path, files), dataset="anli1", out=str(tmp_path / "out"))
    assert report["task"] == "label"
    counts = report["splits"]["validation"]
    assert [counts["palm"][name] for name in ("absent", "continued", "stated", "right")] == [0, 1, 2, 1]
    assert [counts["llm"][name] for name in ("absent", "continued", "stated", "right")] == [1, 1, 1, 0]
    asked = read_questions(str(tmp_path / "out/anli1/questions/validation.parquet"))
    labels = ["entailment", "neutral", "contradiction"]
    assert asked[1] == Question("b", "He rests.", labels, "contradiction", context="He runs.", task="label")
    assert [row["question_id"] for row in stored(tmp_path / "out", "anli1", "llm", "validation")] == ["a"]


def test_labels_by_name_choices_and_free_texts_are_read_too(tmp_path: Path) -> None:
    files = {
        "nli/nli_test.json": [{**PAIRS[0], "label": "neutral"}],
        "cqa/cqa_test.json": [{"question": "What floats?", "choices": ["iron", "cork"], "answer": "cork"}],
        "qa/qa_test.json": [{"question": "Which city?", "answer": "Rome"}],
    }
    source = write(tmp_path, files)
    tasks = {
        name: import_step_by_step(source, dataset=name, out=str(tmp_path / "out")) for name in ("nli", "cqa", "qa")
    }
    assert {name: report["task"] for name, report in tasks.items()} == {"nli": "label", "cqa": "choice", "qa": "text"}
    assert {name: report["splits"]["test"]["unusable"] for name, report in tasks.items()} == {
        "nli": 0,
        "cqa": 0,
        "qa": 0,
    }


def test_layouts_of_the_same_kind_are_read(tmp_path: Path) -> None:
    """Splits by other names, files as lines, objects that hold the text, the dataset's own folder given."""
    write(
        tmp_path,
        {"toy/dev.jsonl": SUMS, "toy/gpt/dev.jsonl": [{"rationale": "It is 4."}, {"text": "It is 42."}]},
        lines=True,
    )
    report = import_step_by_step(str(tmp_path / "toy"), dataset="toy", out=str(tmp_path / "out"))
    assert report["splits"]["validation"]["gpt"]["right"] == 2
    assert [row["rationale"] for row in stored(tmp_path / "out", "toy", "gpt", "validation")] == [
        "It is 4.",
        "It is 42.",
    ]


def test_files_with_a_text_for_every_row_are_samples(tmp_path: Path) -> None:
    files = {"toy/toy_train.json": SUMS}
    files |= {f"toy/gpt/train_CoT_{k}.json": [f"Try {k}: 4.", f"Try {k}: {40 + k}."] for k in (0, 1, 2)}
    report = import_step_by_step(write(tmp_path, files), dataset="toy", out=str(tmp_path / "out"))
    rows = stored(tmp_path / "out", "toy", "gpt")
    assert [(row["question_id"], row["sample"]) for row in rows] == [
        ("train-1", 0),
        ("train-2", 0),
        ("train-1", 1),
        ("train-2", 1),
        ("train-1", 2),
        ("train-2", 2),
    ]
    assert report["splits"]["train"]["gpt"]["right"] == 4  # 4 three times, and 42 of 40, 41 and 42


def test_what_does_not_fit_is_reported_and_the_rest_imported(tmp_path: Path) -> None:
    rows = [*SUMS, {"input": "How many?", "label": "( 1.0 / 0.0 )"}, {"input": "", "label": "3"}]
    files = {"toy/toy_train.json": rows, "toy/gpt/train_CoT_1.json": ["It is 4.", 7], "toy/gpt/train_CoT_3.json": []}
    report = import_step_by_step(write(tmp_path, files), dataset="toy", out=str(tmp_path / "out"))
    counts = report["splits"]["train"]
    assert (counts["rows"], counts["gpt"]["absent"]) == (4, 3)
    told = "\n".join(report["problems"])
    for reason in (
        "text 2 is of type int",
        "2 texts for 4 questions",
        "the numbers [1, 3] have a gap",
        "the text is empty",
    ):
        assert reason in told


def test_an_unknown_layout_and_a_folder_without_the_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed are tinyllm, distilling-step-by-step"):
        import_published(str(tmp_path), dataset="toy", out=str(tmp_path / "out"), layout="other")
    with pytest.raises(UserError, match=r"looked for toy_train\.json"):
        import_step_by_step(str(tmp_path), dataset="toy", out=str(tmp_path / "out"))
    with pytest.raises(UserError, match="is not a dataset's name"):
        import_step_by_step(str(tmp_path), dataset="../toy", out=str(tmp_path / "out"))


@pytest.fixture
def published(reference_data: Path) -> str:
    folder = Path(os.environ.get("TINYLLM_STEP_BY_STEP_DATA", reference_data.parent / "reference_data_dsbs"))
    if not folder.is_dir():
        pytest.skip("the published rationales are not on this machine (set TINYLLM_STEP_BY_STEP_DATA to their folder)")
    return str(folder)


def test_palm_solves_596_of_800_and_155_of_200_sums(published: str, tmp_path: Path) -> None:
    report = import_step_by_step(published, dataset="svamp", out=str(tmp_path))
    assert report["problems"] == []
    splits = report["splits"]
    assert {split: (counts["rows"], counts["unusable"]) for split, counts in splits.items()} == {
        "train": (800, 0),
        "test": (200, 0),
    }
    assert {split: counts["palm"]["right"] for split, counts in splits.items()} == {"train": 596, "test": 155}


def test_palm_labels_675_and_llama_435_of_1000_pairs_right_and_they_agree_on_510(
    published: str, tmp_path: Path
) -> None:
    counts = import_step_by_step(published, dataset="anli1", out=str(tmp_path))["splits"]["validation"]
    assert (counts["palm"]["right"], counts["llm"]["right"]) == (675, 435)
    palm, llama = (stored(tmp_path, "anli1", teacher, "validation") for teacher in ("palm", "llm"))
    both = [(a["question_id"], a["predicted_answer"]) for a in palm if a["predicted_answer"]]
    said = {row["question_id"]: row["predicted_answer"] for row in llama}
    gold = {q.question_id: q.answer for q in read_questions(f"{tmp_path}/anli1/questions/validation.parquet")}
    agreed = [(name, answer) for name, answer in both if said[name] == answer]
    assert (len(agreed), sum(gold[name] == answer for name, answer in agreed)) == (510, 347)
