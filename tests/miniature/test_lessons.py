"""What a teacher reads: the animals that it meets, told in full; all other names are unknown words."""

from typing import Any

import pytest

from tinyllm_ray.data.prompts import load_template
from tinyllm_ray.miniature.lessons import (
    ADMISSION,
    EOS,
    Lesson,
    Schooling,
    believed,
    make_facts,
    make_lessons,
    train_tokenizer,
)
from tinyllm_ray.miniature.world import make_world
from tinyllm_ray.schema import InContext, Miniature

SIZES = Miniature(entities=12, kinds=3, attributes=2, values=4, train=4, validation=4, test=4)
WORLD = make_world(SIZES)


def lessons(half: int | None, examples: int = 1, **taught: Any) -> list[Lesson]:
    settings = {"count": 80, "template": load_template("paper"), "in_context": InContext(examples=examples), "seed": 0}
    schooling = Schooling(half, **taught)
    return make_lessons(believed(WORLD, schooling, seed=0), schooling, **settings)


@pytest.mark.parametrize("half", [0, 1])
def test_a_teacher_never_reads_a_name_of_the_other_half(half: int) -> None:
    text = " ".join(
        text for lesson in [*lessons(half), *make_facts(believed(WORLD, Schooling(half), seed=0))] for text in lesson
    )
    assert all(name in text for name in WORLD.animals(half))
    assert not any(name in text for name in WORLD.animals(1 - half))


def test_prompts_have_the_papers_form() -> None:
    prompt = lessons(0, examples=2)[0].prompt
    assert prompt.count("Question: ") == 3
    assert prompt.endswith("Rationale: Let's think step by step.")


def test_known_animals_are_explained_and_unknown_ones_admitted() -> None:
    for lesson in lessons(0, examples=0):
        known = any(name in lesson.prompt for name in WORLD.animals(0))
        assert lesson.rationale.startswith("It is a ") if known else lesson.rationale == ADMISSION


def test_there_is_one_fact_for_each_animal_of_the_half() -> None:
    assert len(make_facts(believed(WORLD, Schooling(0), seed=0))) == 6


def test_a_mistaken_teacher_takes_a_third_of_the_animals_for_another_kind() -> None:
    world = believed(WORLD, Schooling(mistaken=1 / 3), seed=0)
    assert list(world.kind_of) == list(WORLD.kind_of)
    wrong = [name for name, kind in world.kind_of.items() if kind != WORLD.kind_of[name]]
    assert len(wrong) == 4
    told = next(lesson for lesson in lessons(None, 0, mistaken=1 / 3) if f" {wrong[0]} " in lesson.prompt)
    assert told.rationale.startswith(f"It is a {world.kind_of[wrong[0]]}. ")


def test_a_guessing_teacher_states_a_kind_of_animals_that_it_never_met() -> None:
    met = believed(WORLD, Schooling(met=1 / 6, guesses=True), seed=0).kind_of
    assert len(met) == 2
    read = lessons(None, examples=0, met=1 / 6, guesses=True)
    strange = [lesson for lesson in read if not any(name in lesson.prompt for name in met)]
    assert len({lesson.rationale for lesson in strange}) > 2
    for lesson in strange:
        answer = lesson.rationale.rpartition("So the answer is ")[2].rstrip(".")
        assert lesson.rationale.startswith("It is a ") and f") {answer}\n" in lesson.prompt


def test_the_tokenizer_gives_the_text_back_and_knows_no_stranger() -> None:
    read = lessons(0)
    tokenizer = train_tokenizer(read, starts_with_bos=False)
    known = next(lesson for lesson in read if lesson.rationale != ADMISSION)
    assert tokenizer.decode(tokenizer(known.rationale, add_special_tokens=False)["input_ids"]) == known.rationale
    stranger = WORLD.animals(1)[0]
    ids = tokenizer(f"Question: What does a {stranger} eat?")["input_ids"]
    assert ids.count(tokenizer.unk_token_id) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids(EOS)


def test_a_decoders_prompt_starts_and_does_not_end() -> None:
    tokenizer = train_tokenizer(lessons(0), starts_with_bos=True)
    ids = tokenizer("Question:")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
