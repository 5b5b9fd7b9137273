from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tinyllm_ray import storage
from tinyllm_ray.data import compact as compaction
from tinyllm_ray.data import store
from tinyllm_ray.data.compact import compact
from tinyllm_ray.rows import Rationale


def rationale(key: str, failure: str = "") -> Rationale:
    return Rationale(key, f"q-{key}", 0, f"because {key}", "", "failed" if failure else "stop", failure, 0, 5, 3, ["a"])


def fill(folder: str, parts: int) -> None:
    store.open_store(folder, {"dataset": "toy", "teacher": "owl"})
    for part in range(parts):
        store.append(folder, "train", [rationale(f"{part}-{row}", "failed" if row == 2 else "") for row in range(3)])


def names(folder: str) -> list[str]:
    return [uri.rpartition("/")[2] for uri in storage.list_files(f"{folder}/train")]


def test_small_parts_become_one_with_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    folder = str(tmp_path)
    fill(folder, 20)
    before = [store.read(folder, "train", failures=failures).to_pylist() for failures in (False, True)]
    content = store.content_digest(folder)
    assert compact(folder, "train") == 1
    assert [store.read(folder, "train", failures=failures).to_pylist() for failures in (False, True)] == before
    assert store.content_digest(folder) == content
    assert compact(folder, "train") == 1


def test_parts_that_are_large_enough_stay_and_keep_their_place(tmp_path: Path) -> None:
    folder = str(tmp_path)
    fill(folder, 40)
    before = store.read(folder, "train").to_pylist()
    size = max(Path(uri).stat().st_size for uri in storage.list_files(f"{folder}/train"))
    left = compact(folder, "train", part_bytes=5 * size)
    assert 2 <= left <= 10
    assert store.read(folder, "train").to_pylist() == before
    store.append(folder, "train", [rationale("new")])
    compact(folder, "train")
    assert len(names(folder)) == 1
    assert sorted(store.read(folder, "train")["key"].to_pylist()) == sorted(["new", *(row["key"] for row in before)])


def test_a_stop_between_writing_and_removing_is_mended_by_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path)
    fill(folder, 6)
    content, rows = store.content_digest(folder), store.read(folder, "train").to_pylist()
    removed = []

    def stop_after_two(uri: str) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(uri)
        Path(uri).unlink()

    with monkeypatch.context() as patched:
        patched.setattr(compaction.storage, "remove", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            compact(folder, "train")
    assert len(names(folder)) == 5
    assert sorted(row["key"] for row in store.read(folder, "train").to_pylist()) == sorted(row["key"] for row in rows)
    assert compact(folder, "train") == 1
    assert store.read(folder, "train").to_pylist() == rows
    assert (store.content_digest(folder), store.count_twice(folder, "train")) == (content, 0)


def test_a_million_rows_need_fewer_than_a_thousand_parts(tmp_path: Path) -> None:
    """By a slice of 8,000 rows in parts of 16, with texts as long as teachers write."""
    folder = str(tmp_path)
    text = " ".join(f"word{n * 7919 % 10_007}" for n in range(120))
    for part in range(500):
        rows = [rationale(f"{part}-{row}") for row in range(16)]
        store.append(folder, "train", [Rationale(**{**vars(row), "rationale": f"{row.key} {text}"}) for row in rows])
    bytes_of_a_row = sum(storage.list_sizes(f"{folder}/train").values()) / 8000
    assert compaction.PART_BYTES / bytes_of_a_row >= 1000  # rows that a merged part holds before the next one begins
    assert compact(folder, "train") == 1
    (uri,) = storage.list_files(f"{folder}/train")
    assert pq.read_metadata(uri).num_rows == 8000
