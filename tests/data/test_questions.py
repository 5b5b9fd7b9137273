import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data.questions import (
    QuestionFile,
    describe,
    iterate_questions,
    known_overlaps,
    prepare_questions,
    read_questions,
)
from tinyllm_ray.schema import Dataset


def row(name: str, text: str | None = None) -> dict[str, object]:
    return {"id": name, "question": text or f"What is {name}?", "choices": ["left", "right"], "answer": "right"}


def write_lines(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in rows))


def test_every_split_is_read_in_order_and_batches(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_lines(tmp_path / "in" / f"{split}.jsonl", [row(f"{split}{n}") for n in range(5)])
    files = prepare_questions(
        Dataset(name="mine", format="miniature", path=str(tmp_path / "in")), output_dir=str(tmp_path)
    )
    assert list(files) == ["train", "validation", "test"]
    assert files["test"].path == f"{tmp_path}/questions/mine/test.parquet"
    assert [q.question_id for q in read_questions(files["test"].path)] == [f"test{n}" for n in range(5)]
    assert [len(batch) for batch in iterate_questions(files["train"].path, 2)] == [2, 2, 1]
    assert files["train"].digest != files["test"].digest


@pytest.mark.parametrize("nested", [False, True])
def test_the_references_files_are_found_flat_or_in_their_folder(tmp_path: Path, nested: bool) -> None:
    folder = tmp_path / "mine" if nested else tmp_path
    write_lines(folder / "mine_train.json", [row("a")])
    (folder / "mine_valid.json").write_text(json.dumps([row("b")], indent=4))
    files = prepare_questions(Dataset(name="mine", path=str(tmp_path)), output_dir=str(tmp_path / "out"))
    assert {split: file.rows for split, file in files.items()} == {"train": 1, "validation": 1}


def test_the_hubs_parquet_parts_are_one_split(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    for part in range(2):
        rows = [{"question": f"q{part}", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "main" / f"train-0000{part}-of-00002.parquet")
    files = prepare_questions(
        Dataset(name="obqa", format="riddle", path=str(tmp_path)), output_dir=str(tmp_path / "out")
    )
    found = read_questions(files["train"].path)
    assert [(q.question_id, q.question, q.answer) for q in found] == [("train-1", "q0", "b"), ("train-2", "q1", "b")]


def test_bad_rows_go_to_the_reject_file_with_line_and_reason(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a"), '{"id": ', row("a"), {**row("b"), "answer": "up"}, row("c")])
    dataset = Dataset(name="mine", format="jsonl", path=str(tmp_path), max_rejected_fraction=0.6)
    file = prepare_questions(dataset, output_dir=str(tmp_path / "out"))["train"]
    assert (file.rows, file.rejected) == (2, 3)
    rejects = [json.loads(line) for line in Path(file.rejected_path).read_text().splitlines()]
    assert [(reject["line"], reject["reason"].partition(":")[0]) for reject in rejects] == [
        (2, "broken JSON"),
        (3, "duplicate id 'a'; dataset.repeated_ids=number keeps such rows"),
        (4, "answer 'up' is not among the choices when it is read as the text of a choice"),
    ]
    with pytest.raises(UserError, match=r"3 of 5 train rows .*max_rejected_fraction=0.5 .*line 2: broken JSON"):
        prepare_questions(dataset.model_copy(update={"max_rejected_fraction": 0.5}), output_dir=str(tmp_path / "out"))


def test_a_broken_line_of_bytes_does_not_stop_the_others(tmp_path: Path) -> None:
    good = json.dumps(row("a")).encode()
    (tmp_path / "train.jsonl").write_bytes(good + b'\n{"id": "\xff\xfe"}\n')
    dataset = Dataset(name="mine", format="jsonl", path=str(tmp_path), max_rejected_fraction=0.5)
    file = prepare_questions(dataset, output_dir=str(tmp_path / "out"))["train"]
    assert (file.rows, file.rejected) == (1, 1)
    assert "broken UTF-8" in Path(file.rejected_path).read_text()


def prepare_mine(folder: Path, **settings: Any) -> dict[str, QuestionFile]:
    dataset = Dataset(name="mine", format="jsonl", path=str(folder), **settings)
    return prepare_questions(dataset, output_dir=str(folder / "out"))


def write_leaking_splits(folder: Path) -> None:
    write_lines(folder / "train.jsonl", [row("a", "Same?"), row("b"), row("c", "In  validation and TEST?")])
    write_lines(folder / "validation.jsonl", [row("v", "In validation and test?"), row("w")])
    write_lines(folder / "test.jsonl", [row("x", "Same?"), row("y", "Other?"), row("z", "in validation and test?")])


def test_questions_in_two_splits_are_counted_for_every_pair_and_kept(tmp_path: Path) -> None:
    write_leaking_splits(tmp_path)
    files = prepare_mine(tmp_path)
    assert {split: (file.rows, file.shared, file.leaked) for split, file in files.items()} == {
        "train": (3, {}, 0),
        "validation": (2, {"train": 1}, 0),
        "test": (3, {"train": 2, "validation": 1}, 0),
    }
    assert describe(files) == [
        "questions: 3 train, 2 validation, 3 test; 0 rejected",
        "1 of 2 validation questions are in train too; dataset.drop_leaked=true takes them out of train",
        "2 of 3 test questions are in train too; dataset.drop_leaked=true takes them out of train",
        "1 of 3 test questions are in validation too",
    ]
    assert known_overlaps(f"{tmp_path}/out", "mine") == describe(files)[1:]
    assert known_overlaps(f"{tmp_path}/elsewhere", "mine") == []


def test_leaked_questions_are_taken_out_of_train_on_request(tmp_path: Path) -> None:
    write_leaking_splits(tmp_path)
    files = prepare_mine(tmp_path, drop_leaked=True)
    assert [q.question_id for q in read_questions(files["train"].path)] == ["b"]
    assert (files["train"].leaked, files["test"].shared) == (2, {"train": 0, "validation": 1})
    assert describe(files)[:2] == [
        "questions: 1 train, 2 validation, 3 test; 0 rejected",
        "2 training questions left out, for validation or test has them too",
    ]


@pytest.mark.parametrize("drop_leaked", [False, True])
def test_two_splits_of_the_same_questions_are_refused_in_any_order_and_with_other_ids(
    tmp_path: Path, drop_leaked: bool
) -> None:
    rows = [row(name, f"What is {name}?") for name in "abc"]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "validation.jsonl", [row("v")])
    write_lines(tmp_path / "test.jsonl", [{**copy, "id": f"test-{copy['id']}"} for copy in reversed(rows)])
    with pytest.raises(UserError, match=r"train and test splits of mine hold the same questions.*dataset\.splits"):
        prepare_mine(tmp_path, drop_leaked=drop_leaked)


def test_taking_every_training_question_out_is_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a")])
    write_lines(tmp_path / "test.jsonl", [row("a"), row("b")])
    with pytest.raises(UserError, match=r"all 1 training questions .*drop_leaked"):
        prepare_mine(tmp_path, drop_leaked=True)


@pytest.mark.parametrize("damage", ["manifest", "half a manifest", "cut", "absent"])
def test_what_is_damaged_below_the_output_folder_is_made_again(tmp_path: Path, damage: str) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a"), row("b")])
    before = prepare_mine(tmp_path)["train"]
    manifest, table = tmp_path / "out/questions/mine/manifest.json", Path(before.path)
    if damage == "manifest":
        manifest.write_text("[]")
    elif damage == "half a manifest":
        manifest.write_bytes(manifest.read_bytes()[:100])
    elif damage == "cut":
        table.write_bytes(table.read_bytes()[:-50])
    else:
        table.unlink()
    assert prepare_mine(tmp_path)["train"] == before
    assert [q.question_id for q in read_questions(before.path)] == ["a", "b"]


def test_a_damaged_question_file_is_one_message(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row(f"q{n}") for n in range(200)])
    path = Path(prepare_mine(tmp_path)["train"].path)
    whole = path.read_bytes()
    for data in (whole[:-50], whole[:40] + b"\0" * 40 + whole[80:], b""):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"train\.parquet is missing or damaged .*delete it"):
            read_questions(str(path))


def test_nothing_is_read_again_until_a_file_or_the_section_changes(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a"), row("b")])
    dataset = Dataset(name="mine", format="jsonl", path=str(tmp_path))
    reads: list[tuple[str, int]] = []

    def prepare(wanted: Dataset) -> int:
        reads.clear()
        files = prepare_questions(
            wanted, output_dir=str(tmp_path / "out"), on_progress=lambda *seen: reads.append(seen)
        )
        return files["train"].rows

    assert prepare(dataset) == 2
    assert reads == [("train", 2)]
    assert prepare(dataset) == 2
    assert reads == []
    assert prepare(dataset.model_copy(update={"max_rows": 1})) == 1
    write_lines(tmp_path / "train.jsonl", [row("a"), row("b"), row("c")])
    assert prepare(dataset) == 3


def test_missing_files_name_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looked for mine_train\.json, mine/mine_train\.json"):
        prepare_questions(Dataset(name="mine", path=str(tmp_path)), output_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"dataset\.splits\.test: there is no file t\.jsonl"):
        prepare_questions(
            Dataset(name="mine", format="jsonl", path=str(tmp_path), splits={"test": "t.jsonl"}),
            output_dir=str(tmp_path),
        )
    with pytest.raises(UserError, match=r"dataset\.path: missing"):
        prepare_questions(Dataset(name="mine"), output_dir=str(tmp_path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(UserError, match="train split of mine holds no questions"):
        prepare_questions(Dataset(name="mine", format="jsonl", path=str(tmp_path)), output_dir=str(tmp_path))


def ids(file: QuestionFile) -> list[str]:
    return [question.question_id for question in read_questions(file.path)]


def test_a_split_is_taken_from_train_by_a_seed_and_not_by_the_files_order(tmp_path: Path) -> None:
    rows = [row(f"q{n}") for n in range(100)] + [{**row("again"), "question": "What is q7?"}]
    share = {"validation": 0.1, "test": 0.2}
    write_lines(tmp_path / "a/train.jsonl", rows)
    first = prepare_mine(tmp_path / "a", split_from_train=share)
    assert [file.rows for file in first.values()] == [101 - 10 - 20, 10, 20]
    assert sorted(name for file in first.values() for name in ids(file)) == sorted(str(r["id"]) for r in rows)
    assert all(not any(file.shared.values()) for file in first.values())
    write_lines(tmp_path / "b/train.jsonl", rows[::-1])
    again = prepare_mine(tmp_path / "b", split_from_train=share)
    assert {split: set(ids(file)) for split, file in again.items()} == {s: set(ids(file)) for s, file in first.items()}
    other = prepare_mine(tmp_path / "b", split_from_train=share, split_seed=1)
    assert set(ids(other["validation"])) != set(ids(first["validation"]))


def test_a_split_that_has_a_file_is_not_taken_from_train(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row(f"q{n}") for n in range(10)])
    write_lines(tmp_path / "test.jsonl", [row("t")])
    with pytest.raises(UserError, match=r"split_from_train\.test: there is a test split already .*test\.jsonl"):
        prepare_mine(tmp_path, split_from_train={"test": 0.1})
    files = prepare_mine(tmp_path, split_from_train={"validation": 0.1})
    assert {split: file.rows for split, file in files.items()} == {"train": 9, "validation": 1, "test": 1}


def test_the_path_may_be_the_one_file_of_train(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine.jsonl", [row(f"q{n}") for n in range(10)])
    dataset = Dataset(name="m", format="jsonl", path=f"{tmp_path}/mine.jsonl", split_from_train={"validation": 0.2})
    files = prepare_questions(dataset, output_dir=str(tmp_path / "out"))
    assert {split: file.rows for split, file in files.items()} == {"train": 8, "validation": 2}


def test_at_most_max_rows_of_train_are_read_also_where_it_is_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row(f"q{n}") for n in range(50)])
    files = prepare_mine(tmp_path, split_from_train={"validation": 0.25}, max_rows=20)
    assert sorted(ids(files["train"]) + ids(files["validation"])) == sorted(f"q{n}" for n in range(20))
    assert files["validation"].rows == 5


def test_a_published_test_file_without_answers_is_left_out_and_said(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a"), row("b")])
    write_lines(
        tmp_path / "test.jsonl", [{**row("x"), "answer": -1}, {**row("y"), "answer": ""}, {**row("z"), "answer": None}]
    )
    for _ in range(2):  # the second time it is known
        files = prepare_mine(tmp_path)
        assert list(files) == ["train"]
        assert describe(files)[1] == "the test file is left out, for none of its rows has an answer"
    write_lines(tmp_path / "train.jsonl", [{**row("a"), "answer": ""}])
    with pytest.raises(UserError, match=r"1 of 1 train rows .* no answer"):
        prepare_mine(tmp_path)


def test_a_filter_that_skips_every_row_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a"), row("b")])
    with pytest.raises(UserError, match=r"holds no questions; dataset\.where skips all of its 2 rows"):
        prepare_mine(tmp_path, where={"id": "c"})
    assert ids(prepare_mine(tmp_path, where={"id": ["b", "c"]})["train"]) == ["b"]


def test_repeated_ids_are_numbered_on_request(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [row("a", "One?"), row("b", "Two?"), row("a", "Three?")])
    with pytest.raises(UserError, match=r"duplicate id 'a'; dataset\.repeated_ids=number"):
        prepare_mine(tmp_path)
    assert ids(prepare_mine(tmp_path, repeated_ids="number")["train"]) == ["a", "b", "a#3"]


def test_a_split_may_be_several_files_a_pattern_or_a_folder(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl", "parts/p-0.jsonl", "parts/p-1.jsonl"):
        write_lines(tmp_path / name, [row(name)])
    (tmp_path / "parts/README.md").write_text("not rows")
    files = prepare_mine(tmp_path, splits={"train": ["one.jsonl", "two.jsonl"], "test": "parts"})
    assert (ids(files["train"]), ids(files["test"])) == (
        ["one.jsonl", "two.jsonl"],
        ["parts/p-0.jsonl", "parts/p-1.jsonl"],
    )
    by_pattern = prepare_mine(tmp_path, splits={"train": ["one.jsonl", "two.jsonl"], "test": "parts/p-?.jsonl"})
    assert by_pattern["test"].digest == files["test"].digest
    with pytest.raises(UserError, match=r"one\.jsonl is a file of train and of test|is a file of"):
        prepare_mine(tmp_path, splits={"train": "*.jsonl", "test": "one.jsonl"})


def test_one_reading_of_the_answers_holds_for_all_splits(tmp_path: Path) -> None:
    types = ["A", "AB", "B", "O"]
    rows = [{"id": str(n), "question": f"Group {n}?", "choices": types, "answer": "AB"[n % 2]} for n in range(6)]
    write_lines(tmp_path / "train.jsonl", rows[:4])
    write_lines(tmp_path / "test.jsonl", rows[4:])
    with pytest.raises(UserError, match=r"as text .* and as letter .*dataset\.columns\.answer_is"):
        prepare_mine(tmp_path)
    as_letters = prepare_mine(tmp_path, columns={"answer_is": "letter"})["test"]
    assert [question.answer for question in read_questions(as_letters.path)] == ["A", "AB"]
    write_lines(tmp_path / "test.jsonl", [{**rows[4], "answer": "O"}])
    as_texts = prepare_mine(tmp_path)["train"]
    assert [question.answer for question in read_questions(as_texts.path)] == ["A", "B", "A", "B"]


def test_half_of_the_answers_read_in_another_way_is_refused(tmp_path: Path) -> None:
    rows = [{**row(str(n)), "answer": ["left", "B"][n % 2]} for n in range(11)]
    write_lines(tmp_path / "train.jsonl", rows)
    with pytest.raises(UserError, match=r"5 of 11 train rows .*answer 'B' is not among the choices when it is read as"):
        prepare_mine(tmp_path)


def test_a_bad_column_that_is_not_used_spoils_nothing(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"question": ["One?", "Two?"], "choices": [["a", "b"]] * 2, "answer": ["a", "b"], "note": texts})
    pq.write_table(table, tmp_path / "train.parquet")
    assert prepare_mine(tmp_path)["train"].rows == 2
    bad = prepare_mine(tmp_path, columns={"context": "note"}, max_rejected_fraction=0.5)["train"]
    assert (bad.rows, bad.rejected) == (1, 1)
    assert "note is unreadable: 'utf-8' codec" in Path(bad.rejected_path).read_text()


LARGE = """
import json, re, sys
from tinyllm_ray.data.questions import prepare_questions
from tinyllm_ray.schema import Dataset
files = prepare_questions(Dataset(name="large", format=sys.argv[2], path=sys.argv[1]), output_dir=sys.argv[1])
status = open("/proc/self/status").read()  # getrusage counts what the starting process held, too
print(json.dumps([files["train"].rows, int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])]))
"""


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_memory_stays_flat_on_a_large_file(tmp_path: Path, form: str) -> None:
    rows = int(os.environ.get("TINYLLM_LARGE_ROWS", "20000"))
    with (tmp_path / f"train.{form}").open("w") as file:
        file.write("[" if form == "json" else "")
        for index in range(rows):
            separator = "," if form == "json" and index else ""
            file.write(f"{separator}{json.dumps(row(f'q{index}', f'{index} ' + 'long text ' * 60))}\n")
        file.write("]" if form == "json" else "")
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path), form], capture_output=True, text=True, check=True
    )
    read, peak_kib = json.loads(done.stdout)
    assert read == rows
    assert peak_kib < 1.5 * 2**20
