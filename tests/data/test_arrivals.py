"""The order of arrival: what is ready when, written once, continued after a stop."""

from pathlib import Path

import pytest

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.data.arrivals import Arrivals, Awaited, Collector
from tinyllm_ray.data.compact import compact
from tinyllm_ray.data.questions import QuestionFile, read_questions
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.rows import Question, Rationale, to_table

ROWS = 10


class Teachers:
    """Two stores that grow by hand, over ten questions."""

    def __init__(self, folder: Path, *, samples: int = 1, grows: bool = True) -> None:
        self.folder, self.samples, self.grows = folder, samples, grows
        path = str(folder / "train.parquet")
        questions = [Question(f"q{i}", f"what is {i}", ["a", "b"], "a") for i in range(ROWS)]
        storage.write_table(path, to_table(questions, Question))
        self.questions = QuestionFile(path, ROWS, 0, "", "digest")
        self.stores = {name: str(folder / name) for name in ("north", "south")}
        for name, own in self.stores.items():
            store.open_store(own, {"teacher": name, "dataset": "d"})
        self.arrivals = Arrivals(str(folder / "arrivals"))

    def write(self, name: str, *rows: int, failure: str = "", sample: int = 0) -> None:
        given = {"sample": sample, "predicted_answer": "a", "finish_reason": "stop", "failure": failure}
        given |= {"dropped_examples": 0, "input_tokens": 1, "output_tokens": 1}
        texts = [Rationale(f"{i}/{sample}", f"q{i}", rationale="" if failure else f"{name} {i}", **given) for i in rows]
        store.append(self.stores[name], "train", texts)

    def collector(self, **changes: int) -> Collector:
        awaited = {name: Awaited(own, self.samples, self.grows) for name, own in self.stores.items()}
        return Collector(self.arrivals, self.questions, awaited, **{"window_rows": 4, "rows": 2, **changes})

    def parts(self) -> list[list[int]]:
        return [part["rows"] for part in self.arrivals.iterate()]


@pytest.fixture
def teachers(tmp_path: Path) -> Teachers:
    return Teachers(tmp_path)


def test_a_part_is_written_when_every_teacher_is_done_with_enough_questions(teachers: Teachers) -> None:
    collector = teachers.collector()
    teachers.write("north", *range(10))
    collector.poll()
    assert teachers.parts() == []
    teachers.write("south", 7, 8, 9)
    collector.poll()
    assert teachers.parts() == []  # three of a window of four
    teachers.write("south", 0)
    collector.poll()
    assert teachers.parts() == [[7, 8, 9, 0]]
    teachers.write("south", 3)
    collector.poll()
    assert teachers.parts() == [[7, 8, 9, 0]]  # a later part has two
    teachers.write("south", 5, 4)
    collector.poll()
    assert teachers.parts() == [[7, 8, 9, 0], [3, 4, 5]]
    assert collector.counts == {"north": 10, "south": 7}


def test_a_part_holds_its_questions_and_their_rationales_alone(teachers: Teachers) -> None:
    collector = teachers.collector()
    teachers.write("north", *range(10))
    teachers.write("south", 2, 4, 6, 8)
    collector.poll()
    assert [q.question_id for q in read_questions(teachers.arrivals.questions(0).path)] == ["q2", "q4", "q6", "q8"]
    stores = teachers.arrivals.stores(0, ["north", "south"])
    texts = {str(i): store.read(own, "train", ["rationale"])["rationale"].to_pylist() for i, own in stores.items()}
    assert texts == {name: [f"{name} {i}" for i in (2, 4, 6, 8)] for name in ("north", "south")}
    assert store.read_manifest(stores[StoreId("north")]) == {"teacher": "north", "dataset": "d"}


def test_a_failed_row_is_waited_for_no_longer_and_a_question_without_any_rationale_comes_last(
    teachers: Teachers,
) -> None:
    collector = teachers.collector()
    teachers.write("north", *range(9))
    teachers.write("north", 9, failure="engine error")
    teachers.write("south", *range(2, 8))
    teachers.write("south", 0, 1, 8, 9, failure="empty output")
    collector.poll()
    assert [sorted(rows) for rows in teachers.parts()] == [list(range(9)), [9]]
    assert teachers.arrivals.closed() == {"parts": 2, "first_epoch": 9, "rows": 10}


def test_what_a_teacher_never_wrote_closes_the_arrivals_when_it_ends(teachers: Teachers) -> None:
    collector = teachers.collector()
    teachers.write("north", 0, 1, 2, 3, 4)
    teachers.write("south", 0, 1, 2, 3)
    collector.poll()
    collector.close()
    assert teachers.parts() == [[0, 1, 2, 3], [4], [5, 6, 7, 8, 9]]
    assert teachers.arrivals.closed() == {"parts": 3, "first_epoch": 5, "rows": 10}


def test_a_failure_of_an_earlier_run_is_tried_again_and_waited_for(teachers: Teachers) -> None:
    teachers.write("north", *range(10))
    teachers.write("south", *range(10), failure="engine error")
    collector = teachers.collector()
    collector.poll()
    assert teachers.parts() == []
    teachers.write("south", 0, 1, 2, 3)
    collector.poll()
    assert teachers.parts() == [[0, 1, 2, 3]]


def test_a_writer_that_was_killed_is_continued_and_no_question_comes_twice(teachers: Teachers) -> None:
    first = teachers.collector()
    teachers.write("north", *range(10))
    teachers.write("south", 6, 7, 8, 9)
    first.poll()
    half_written = teachers.arrivals.part(1)
    store.append(f"{half_written}/stores/south", "train", [])
    again = teachers.collector()
    teachers.write("south", *range(6))
    again.poll()
    assert teachers.parts() == [[6, 7, 8, 9], [0, 1, 2, 3, 4, 5]]
    assert len(storage.list_files(f"{half_written}/stores/south/train")) == 1


def test_merged_parts_of_a_store_bring_nothing_twice(teachers: Teachers) -> None:
    collector = teachers.collector(window_rows=10)
    for row in range(9):
        teachers.write("north", row)
        teachers.write("south", row)
    collector.poll()
    assert compact(teachers.stores["north"], "train") == 1
    teachers.write("north", 9)
    teachers.write("south", 9)
    collector.poll()
    assert teachers.parts() == [list(range(10))]
    stores = teachers.arrivals.stores(0, ["north"])
    assert len(store.read(stores[StoreId("north")], "train")) == 10
    assert store.count_twice(stores[StoreId("north")], "train") == 0


def test_every_sample_of_a_question_is_waited_for(tmp_path: Path) -> None:
    teachers = Teachers(tmp_path, samples=2)
    collector = teachers.collector()
    for name in ("north", "south"):
        teachers.write(name, *range(10))
    teachers.write("north", *range(10), sample=1)
    collector.poll()
    assert teachers.parts() == []
    teachers.write("south", 1, 2, 3, 4, sample=1)
    collector.poll()
    assert teachers.parts() == [[1, 2, 3, 4]]
    (north, south) = (store.read(own, "train") for own in teachers.arrivals.stores(0, ["north", "south"]).values())
    assert (len(north), len(south)) == (8, 8)


def test_given_stores_are_not_waited_for(tmp_path: Path) -> None:
    teachers = Teachers(tmp_path, grows=False)
    teachers.write("north", *range(10))
    teachers.write("south", *range(5))
    teachers.collector().poll()
    assert teachers.parts() == [list(range(10))]
    assert teachers.arrivals.closed() == {"parts": 1, "first_epoch": 10, "rows": 10}
