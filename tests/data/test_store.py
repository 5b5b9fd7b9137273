import time
from pathlib import Path

import pyarrow as pa
import pytest

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.rows import Question, Rationale

MANIFEST = {"dataset": "toy", "teacher": "owl", "sampling": {"seed": 0}}


def rationale(key: str, text: str = "because", failure: str = "") -> Rationale:
    return Rationale(key, f"q-{key}", 0, text, "", "failed" if failure else "stop", failure, 0, 5, 3, ["looping"])


def keys(table: pa.Table) -> list[str]:
    return table["key"].to_pylist()


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [rationale("b"), rationale("a"), rationale("c")]
    store.append(str(tmp_path), "train", rows)
    assert store.read(str(tmp_path), "train").to_pylist() == [row.row() for row in rows]
    assert store.read(str(tmp_path), "train", ["rationale"]).column_names == ["rationale"]


def test_an_empty_store_has_its_columns(tmp_path: Path) -> None:
    assert store.read(str(tmp_path), "train").schema == store.SCHEMA
    assert store.read(str(tmp_path), "train", ["key"], failures=True).num_rows == 0
    assert store.count_twice(str(tmp_path), "train") == 0


def test_a_failed_row_that_later_succeeded_counts_once(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.append(folder, "train", [rationale("a", "", "engine error"), rationale("b")])
    store.append(folder, "train", [rationale("a", "", "engine error"), rationale("c", "", "too long")])
    store.append(folder, "train", [rationale("a", "at last")])
    good = store.read(folder, "train")
    assert sorted(keys(good)) == ["a", "b"]
    assert "at last" in good["rationale"].to_pylist()
    with_failures = store.read(folder, "train", ["key", "failure"], failures=True)
    assert sorted(zip(keys(with_failures), with_failures["failure"].to_pylist(), strict=True)) == [
        ("a", ""),
        ("b", ""),
        ("c", "too long"),
    ]
    assert store.count_twice(folder, "train") == 0


def test_a_key_in_two_parts_is_read_once_and_counted(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.append(folder, "train", [rationale("a"), rationale("b")])
    store.append(folder, "train", [rationale("b"), rationale("c")])
    assert sorted(keys(store.read(folder, "train"))) == ["a", "b", "c"]
    assert store.count_twice(folder, "train") == 1


def test_the_same_rows_written_again_replace_themselves(tmp_path: Path) -> None:
    first = store.append(str(tmp_path), "train", [rationale("a")])
    assert store.append(str(tmp_path), "train", [rationale("a", "again")]) == first
    assert store.append(str(tmp_path), "train", [rationale("a", "", "failed")]) != first


def test_a_store_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.open_store(folder, MANIFEST)
    store.open_store(folder, MANIFEST)
    with pytest.raises(UserError, match=r'sampling: stored {"seed": 0}, configured {"seed": 1}'):
        store.open_store(folder, {**MANIFEST, "sampling": {"seed": 1}})
    assert store.read_manifest(folder) == MANIFEST


def test_other_settings_have_another_folder() -> None:
    one, other = (store.store_folder("/o", {**MANIFEST, "sampling": seed}) for seed in (0, 1))
    assert one.startswith("/o/stores/toy/owl/")
    assert one != other


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no rationale store; check teachers\.\*\.store"):
        store.read_manifest(str(tmp_path))


def test_the_key_follows_the_questions_content() -> None:
    question = Question("1", "What floats?", ["iron", "cork"], "cork")
    other_answer = Question("1", "What floats?", ["iron", "cork"], "iron")

    def key(of: Question, sample: int = 0, settings: str = "s", forced: bool = True) -> str:
        return store.row_key(of, sample, settings=settings, teacher_forcing=forced)

    assert key(question) == key(Question("1", "What floats?", ["iron", "cork"], "cork"))
    assert len({key(question), key(other_answer), key(question, 1), key(question, 0, "t")}) == 4
    assert key(question, forced=False) == key(other_answer, forced=False)


def test_the_content_digest_follows_the_parts(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.open_store(folder, MANIFEST)
    empty = store.content_digest(folder)
    store.append(folder, "train", [rationale("a")])
    assert store.content_digest(folder) != empty
    assert store.content_digest(folder + "/") == store.content_digest(folder)


def test_a_large_store_is_read_in_seconds(tmp_path: Path) -> None:
    rows, parts = 250_000, 4
    for part in range(parts):
        names = [f"{part}-{index}" for index in range(rows // parts)]
        columns: dict[str, object] = {name: [""] * len(names) for name in store.SCHEMA.names}
        for name in ("sample", "dropped_examples", "input_tokens", "output_tokens"):
            columns[name] = [0] * len(names)
        columns |= {"key": names, "flags": [[]] * len(names)}
        storage.write_table(f"{tmp_path}/train/part-{part}.parquet", pa.table(columns, schema=store.SCHEMA))
    start = time.monotonic()
    assert store.read(str(tmp_path), "train", ["key"], failures=True).num_rows == rows
    assert time.monotonic() - start < 15
