"""What is left to do, with words for tokens, so that lengths can be counted by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from support.tiny_teachers import experiment, question_file, questions

from tinyllm_ray import storage
from tinyllm_ray.data import store
from tinyllm_ray.data.prompts import example_set
from tinyllm_ray.rows import PromptRow, Question, Rationale, from_table
from tinyllm_ray.schema import Experiment, Teacher
from tinyllm_ray.teachers.engines.base import Encoded, Engine, Setting
from tinyllm_ray.teachers.pending import Pending, Target, read_candidates, rewrite, write_pending


class WordEngine:
    """Words are its tokens; it runs nothing."""

    greedy_repeats = True

    def __init__(self, teacher: Teacher, setting: Setting, *, limit: int) -> None:
        self.teacher = teacher
        self._limit = limit

    def key(self) -> dict[str, Any]:
        return {}

    def check(self) -> None:
        raise AssertionError("nothing is to be run")

    def prompt_limit(self) -> int:
        return self._limit

    def encode(self, prompts: list[str]) -> list[Encoded]:
        refused = "a forbidden word: it holds xyzzy"
        return [Encoded([len(w) for w in text.split()], refused if "xyzzy" in text else "") for text in prompts]

    def show(self, prompt: str) -> str:
        return prompt

    def opens_thought(self) -> bool:
        return False

    def run(self, files: Any, *, longest_prompt: int) -> Any:
        raise AssertionError("nothing is to be run")


def rationale(key: str, question: Question, *, sample: int = 0, failure: str = "") -> Rationale:
    return Rationale(key, question.question_id, sample, "because", "", "stop", failure, 0, 1, 1)


class World:
    """A store, its questions and a teacher that writes nothing by itself."""

    def __init__(self, folder: Path, rows: list[Question], **teacher: object) -> None:
        self.folder = folder
        self.spec: Experiment = experiment({"name": "t", "model": "m", **teacher})
        self.add(rows)

    def add(self, rows: list[Question]) -> None:
        file = question_file(self.folder / "train.parquet", rows)
        self.rows, self.files = rows, {"train": file}
        self.target = Target("train", str(self.folder / "store"), False, "settings", True, file)

    def key(self, question: Question, sample: int = 0) -> str:
        return store.row_key(question, sample, settings="settings", teacher_forcing=True)

    def engine(self, limit: int) -> Engine:
        pool, prompts = self.spec.pools.teacher, self.spec.prompts
        setting = Setting(pool, prompts, output_dir=str(self.folder), log_file=None)
        return WordEngine(self.spec.teachers[0], setting, limit=limit)

    def pending(self, limit: int = 10_000, **prompts: object) -> Pending:
        return write_pending(
            [self.target],
            folder=str(self.folder / "pending"),
            teacher=self.spec.teachers[0],
            prompts=self.spec.prompts.model_copy(update=prompts),
            candidates=read_candidates(self.files, examples=2),
            engine=self.engine(limit),
        )


def rows_of(pending: Pending) -> list[PromptRow]:
    return [row for uri in pending.files for row in from_table(storage.read_table(uri), PromptRow)]


def test_all_rows_of_a_new_store_are_pending_in_files_of_one_batch_each(tmp_path: Path) -> None:
    world = World(tmp_path, questions(40), batch_size=16)
    pending = world.pending()
    assert (pending.wanted, pending.found, pending.rows, pending.shortened) == (40, 0, 40, 0)
    assert [storage.read_table(uri).num_rows for uri in pending.files] == [16, 16, 8]
    rows = rows_of(pending)
    assert [row.question.question_id for row in rows] == [f"q{i}" for i in range(40)]
    assert len({row.seed for row in rows}) == 40
    assert rows[3].question.question in rows[3].prompt
    assert pending.longest_prompt == max(len(row.prompt.split()) for row in rows)


def test_rows_in_the_store_are_found_and_failed_ones_are_pending_again(tmp_path: Path) -> None:
    world = World(tmp_path, questions(6))
    good, bad = world.rows[0], world.rows[1]
    store.append(world.target.folder, "train", [rationale(world.key(good), good)])
    store.append(world.target.folder, "train", [rationale(world.key(bad), bad, failure="empty output")])
    pending = world.pending()
    assert (pending.wanted, pending.found, pending.rows) == (6, 1, 5)
    assert {row.question.question_id for row in rows_of(pending)} == {"q1", "q2", "q3", "q4", "q5"}


def test_new_rows_and_another_order_leave_the_old_rows_found(tmp_path: Path) -> None:
    world = World(tmp_path, questions(4))
    store.append(world.target.folder, "train", [rationale(world.key(q), q) for q in world.rows])
    world.add([*reversed(questions(6))])
    assert {row.question.question_id for row in rows_of(world.pending())} == {"q4", "q5"}


def test_a_changed_question_is_pending_again(tmp_path: Path) -> None:
    world = World(tmp_path, questions(3))
    store.append(world.target.folder, "train", [rationale(world.key(q), q) for q in world.rows])
    world.add([replace(world.rows[0], question="another question?"), *world.rows[1:]])
    assert [row.question.question for row in rows_of(world.pending())] == ["another question?"]


def test_more_samples_ask_only_for_the_missing_ones(tmp_path: Path) -> None:
    world = World(tmp_path, questions(2), samples_per_question=3, sampling={"temperature": 1.0})
    store.append(world.target.folder, "train", [rationale(world.key(q), q) for q in world.rows])
    pending = world.pending()
    assert (pending.wanted, pending.found) == (6, 2)
    assert [(row.question.question_id, row.sample) for row in rows_of(pending)] == [
        ("q0", 1),
        ("q0", 2),
        ("q1", 1),
        ("q1", 2),
    ]


def test_a_prompt_over_the_length_loses_examples_and_never_its_question(tmp_path: Path) -> None:
    world = World(tmp_path, questions(12))
    full = [len(row.prompt.split()) for row in rows_of(world.pending())]
    pending = world.pending(limit=max(full) - 1)
    assert pending.shortened == full.count(max(full))
    for row, before in zip(rows_of(pending), full, strict=True):
        assert row.dropped_examples == (before == max(full))
        assert row.question.question in row.prompt
    assert pending.longest_prompt < max(full)


def test_a_question_of_40_000_characters_fails_with_its_length_before_any_engine_starts(tmp_path: Path) -> None:
    rows = questions(3)
    long = replace(rows[1], question="word " * 8000)
    world = World(tmp_path, [rows[0], long, rows[2]])
    pending = world.pending(limit=200)
    assert pending.rows == 2
    assert dict(pending.failed) == {"prompt too long": 1}
    stored = store.read(world.target.folder, "train", failures=True).to_pylist()
    assert [(row["question_id"], row["failure"].split(":")[0]) for row in stored] == [("q1", "prompt too long")]
    assert "the model takes 200" in stored[0]["failure"]


def test_a_prompt_that_the_tokenizer_refuses_fails_with_its_reason(tmp_path: Path) -> None:
    rows = questions(3)
    world = World(tmp_path, [rows[0], replace(rows[1], question="what is xyzzy?"), rows[2]])
    pending = world.pending(in_context=world.spec.prompts.in_context.model_copy(update={"examples": 0}))
    assert (pending.rows, dict(pending.failed)) == (2, {"a forbidden word": 1})
    stored = store.read(world.target.folder, "train", failures=True).to_pylist()
    assert [(row["question_id"], row["failure"]) for row in stored] == [("q1", "a forbidden word: it holds xyzzy")]


def test_rows_of_one_example_set_run_together_and_share_their_beginning(tmp_path: Path) -> None:
    world = World(tmp_path, questions(60), batch_size=8)
    pool = world.spec.prompts.in_context.model_copy(update={"pool": 3})
    rows = rows_of(world.pending(in_context=pool))
    sets = [example_set(row.question.question_id, pool=3, seed=0) for row in rows]
    assert sets == sorted(sets)
    assert set(sets) == {0, 1, 2}
    heads = {(number, row.prompt.split("Question: ")[1]) for number, row in zip(sets, rows, strict=True)}
    assert len(heads) <= 3 * 3  # a set's own members see another example in their place


def test_rewrite_keeps_the_prompts_of_the_given_keys(tmp_path: Path) -> None:
    world = World(tmp_path, questions(10), batch_size=4)
    pending = world.pending()
    keys = {world.key(world.rows[1]), world.key(world.rows[8])}
    files = rewrite(pending.files, keys, folder=str(tmp_path / "again"), rows_per_file=4)
    assert [row.question.question_id for uri in files for row in from_table(storage.read_table(uri), PromptRow)] == [
        "q1",
        "q8",
    ]


def test_a_row_has_the_same_random_seed_in_every_run_and_another_one_for_another_seed(tmp_path: Path) -> None:
    world = World(tmp_path, questions(1), sampling={"temperature": 1.0, "seed": 1})
    first = rows_of(world.pending())[0].seed
    assert rows_of(world.pending())[0].seed == first
    other = World(tmp_path, questions(1), sampling={"temperature": 1.0, "seed": 2})
    assert rows_of(other.pending())[0].seed != first
