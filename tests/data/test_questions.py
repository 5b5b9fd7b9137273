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
from tinyllm_ray.data.questions import QuestionFile, describe, iterate_questions, prepare_questions, read_questions
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
        (3, "duplicate id 'a'"),
        (4, "answer 'up' is not among the choices"),
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


LARGE = """
import json, resource, sys
from tinyllm_ray.data.questions import prepare_questions
from tinyllm_ray.schema import Dataset
files = prepare_questions(Dataset(name="large", format=sys.argv[2], path=sys.argv[1]), output_dir=sys.argv[1])
print(json.dumps([files["train"].rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
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
