"""The generated world: what is true, what is asked, and what each half knows."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.miniature.world import ATTRIBUTES, explain, make_questions, make_world, write_world
from tinyllm_ray.schema import Miniature

SMALL = Miniature(seed=3, entities=8, kinds=2, attributes=3, values=4, train=8, validation=4, test=12)
DEFAULT = Miniature()


def asked_about(text: str) -> tuple[str, str]:
    """ "What does a vomu eat?" -> ("vomu", "food")"""
    for attribute, (form, _, _) in ATTRIBUTES.items():
        before, _, after = form.partition("{name}")
        if text.startswith(before) and text.endswith(after):
            return text[len(before) : len(text) - len(after)], attribute
    raise AssertionError(text)


def test_the_same_seed_writes_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_world(str(tmp_path / folder), SMALL)
    write_world(str(tmp_path / "other"), SMALL.model_copy(update={"seed": 4}))
    for split in ("train", "validation", "test"):
        assert (tmp_path / "one" / f"{split}.jsonl").read_bytes() == (tmp_path / "two" / f"{split}.jsonl").read_bytes()
    assert (tmp_path / "one" / "train.jsonl").read_bytes() != (tmp_path / "other" / "train.jsonl").read_bytes()


def test_a_row_has_the_four_plain_columns(tmp_path: Path) -> None:
    write_world(str(tmp_path), SMALL)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert list(rows[0]) == ["id", "question", "choices", "answer"]
    assert rows[0]["id"] == "train-0"


def test_a_small_world_is_dealt_evenly() -> None:
    """Eight animals of two kinds: four of each, and two of each in every half."""
    world = make_world(SMALL)
    assert Counter(world.kind_of.values()) == {"grazer": 4, "hunter": 4}
    shares = Counter((world.half_of[name], kind) for name, kind in world.kind_of.items())
    assert set(shares.values()) == {2} and len(shares) == 4
    assert len(world.habit_of) == 2 * 3


def test_the_halves_are_disjoint_and_together_complete() -> None:
    world = make_world(DEFAULT)
    north, south = set(world.animals(0)), set(world.animals(1))
    assert not north & south
    assert north | south == set(world.kind_of)
    assert len(north) == len(south) == 60


def test_every_question_is_answered_by_the_facts() -> None:
    world = make_world(DEFAULT)
    for questions in make_questions(world, DEFAULT).values():
        for question in questions:
            name, attribute = asked_about(question.question)
            assert question.answer == world.habit_of[world.kind_of[name], attribute]
            assert question.answer in question.choices and len(set(question.choices)) == 4
            assert f"It is a {world.kind_of[name]}." in explain(world, name, attribute)


def test_no_question_is_asked_twice_within_or_across_splits() -> None:
    splits = make_questions(make_world(DEFAULT), DEFAULT)
    texts = [question.question for questions in splits.values() for question in questions]
    assert len(texts) == len(set(texts)) == 300 + 150 + 500


def test_every_animal_is_in_equally_many_training_questions() -> None:
    """Eight training questions about eight animals: one each."""
    training = make_questions(make_world(SMALL), SMALL)["train"]
    assert set(Counter(asked_about(question.question)[0] for question in training).values()) == {1}


def test_the_answer_stands_in_every_position_about_equally_often() -> None:
    test = make_questions(make_world(DEFAULT), DEFAULT)["test"]
    positions = Counter(question.choices.index(question.answer) for question in test)
    assert all(95 <= positions[i] <= 155 for i in range(4)), positions


def test_a_label_leaves_the_kind_open() -> None:
    """Ten kinds share five values, so every value of an attribute is the habit of two kinds."""
    world = make_world(DEFAULT)
    assert set(Counter((attribute, value) for (_, attribute), value in world.habit_of.items()).values()) == {2}


def test_more_questions_than_pairs_are_refused() -> None:
    with pytest.raises(UserError, match="24"):
        make_questions(make_world(SMALL), SMALL.model_copy(update={"test": 13}))
