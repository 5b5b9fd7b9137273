"""The driver's side of an overlap without Ray: who is held back, what a search may start with."""

import time
from pathlib import Path

import pytest
import ray
from support.tiny_teachers import experiment, question_files

from tinyllm_ray.config import UserError, with_overrides
from tinyllm_ray.data import store
from tinyllm_ray.data.pause import PAUSED
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.rows import Rationale
from tinyllm_ray.tuning.live import Progress
from tinyllm_ray.tuning.overlap import LOOK_AT_TRAININGS_S, LOOK_S, Growing, Overlap, arrivals_folder

ROWS = 40


class Held:
    """Two teachers over 40 questions; ten may wait beyond what is trained."""

    def __init__(self, folder: Path) -> None:
        raw = experiment({"name": "north", "model": "m"}, {"name": "south", "model": "m"})
        keys = {"pools.schedule": "overlap", "pools.overlap.window_rows": 8, "pools.overlap.max_waiting_rows": 10}
        self.experiment = with_overrides(raw, {**keys, "training.batch_size": 4})
        self.folder = folder
        self.questions = question_files(folder, train=ROWS)
        self.ids = [question.question_id for question in read_questions(self.questions["train"].path)]
        self.stores = {name: str(folder / name) for name in ("north", "south")}
        for name, own in self.stores.items():
            store.open_store(own, {"teacher": name})
        self.overlap = Overlap(
            self.experiment,
            output_dir=str(folder),
            questions=self.questions,
            stores=self.stores,
            write=lambda: {},
            connect=lambda: None,
        )
        self.collector = self.overlap.collector

    def write(self, name: str, first: int, end: int) -> None:
        given = {"sample": 0, "rationale": "so", "predicted_answer": "", "finish_reason": "stop", "failure": ""}
        given |= {"dropped_examples": 0, "input_tokens": 1, "output_tokens": 1}
        store.append(self.stores[name], "train", [Rationale(i, i, **given) for i in self.ids[first:end]])
        self.collector.poll()

    def paused(self, trained: int | None) -> list[str]:
        progress = None if trained is None else Progress(trained, 0.0, 0.0, ended=False)
        self.overlap.hold_back(self.collector, progress)
        return sorted(path.parent.name for path in self.folder.glob(f"pending/*/{PAUSED}"))


@pytest.fixture
def held(tmp_path: Path) -> Held:
    return Held(tmp_path)


def test_teachers_that_are_ahead_of_the_training_pause_and_go_on(held: Held) -> None:
    held.write("north", 0, 12)
    held.write("south", 0, 12)
    assert held.paused(trained=0) == ["north", "south"]
    assert held.paused(trained=4) == []


def test_a_fast_teacher_waits_for_a_slow_one_which_is_never_paused_while_the_training_starves(held: Held) -> None:
    held.write("north", 0, 30)
    held.write("south", 0, 12)
    assert held.paused(trained=12) == ["north"]
    assert held.paused(trained=0) == ["north", "south"]  # twelve whole rows wait, more than ten


def test_nobody_pauses_where_no_training_follows_or_a_teacher_is_done(held: Held) -> None:
    held.write("north", 0, ROWS)
    held.write("south", 0, 20)
    assert held.paused(trained=None) == []
    assert held.paused(trained=0) == ["south"]


def test_a_search_starts_with_the_first_parts_that_hold_its_share(held: Held) -> None:
    for end in (10, 16, 24):
        held.write("north", end - 8 if end > 10 else 0, end)
        held.write("south", end - 8 if end > 10 else 0, end)
    questions, stores = held.overlap.finished_part(0.4)  # sixteen of forty
    assert [q.question_id for q in read_questions(questions.path)] == held.ids[:16]
    assert {str(i): len(store.read(own, "train")) for i, own in stores.items()} == {"north": 16, "south": 16}
    held.write("north", 24, ROWS)
    held.write("south", 24, ROWS)
    assert held.overlap.finished_part(0.4) == (questions, stores)
    everything, _ = held.overlap.finished_part(1.0)
    assert everything.rows == ROWS and everything.digest != questions.digest


def test_other_windows_and_samples_have_arrivals_of_their_own(held: Held) -> None:
    def folder(**changes: object) -> str:
        changed = with_overrides(held.experiment, {key.replace("__", "."): value for key, value in changes.items()})
        return arrivals_folder(changed, held.questions, held.stores, output_dir="out")

    assert folder() == folder(training__steps=5, pools__overlap__max_waiting_rows=3)
    assert folder() != folder(pools__overlap__window_rows=9)


def test_what_ended_the_teachers_ends_who_waits_for_the_first_rows(tmp_path: Path) -> None:
    held = Held(tmp_path)

    def fail() -> dict:
        raise UserError("teacher north: its engine does not start")

    stopped = Overlap(
        held.experiment,
        output_dir=str(tmp_path / "other"),
        questions=held.questions,
        stores=held.stores,
        write=fail,
        connect=lambda: None,
    )
    with stopped, pytest.raises(UserError, match="its engine does not start"):
        stopped.wait_for_window()


def test_features_that_have_no_work_under_way_start_no_ray(held: Held) -> None:
    """As in a command that continues, while the teachers' thread starts one."""
    held.overlap._build(Growing(str(held.folder / "features"), "tokenizer"))
    assert not ray.is_initialized()


def test_the_line_of_both_pools_ends_when_the_teachers_have_ended_and_all_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held, logged = Held(tmp_path), []
    held.overlap.log = lambda figures, second: logged.append(figures)
    held.overlap.progress = lambda: Progress(ROWS, 1.0, 100.0, ended=False)
    with held.overlap:
        held.write("north", 0, ROWS)
        held.write("south", 0, ROWS)
        said, until = "", time.monotonic() + 60
        while "both pools: 40/40 rows" not in said and time.monotonic() < until:
            said += capsys.readouterr().err
            time.sleep(0.05)
        seen = len(logged)
        time.sleep(LOOK_AT_TRAININGS_S + 2 * LOOK_S)
    assert "done in" in said
    assert len(logged) == seen and logged[-1]["overlap/trained"] == ROWS
