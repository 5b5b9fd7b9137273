"""What a teacher reads: its own half, told in full; the other half's names are unknown words."""

import pytest

from tinyllm_ray.data.prompts import load_template
from tinyllm_ray.miniature.lessons import ADMISSION, EOS, Lesson, make_facts, make_lessons, train_tokenizer
from tinyllm_ray.miniature.world import make_world
from tinyllm_ray.schema import InContext, Miniature

SIZES = Miniature(entities=12, kinds=3, attributes=2, values=4, train=4, validation=4, test=4)
WORLD = make_world(SIZES)


def lessons(half: int, examples: int = 1) -> list[Lesson]:
    in_context = InContext(examples=examples)
    return make_lessons(WORLD, half, count=80, template=load_template("paper"), in_context=in_context, seed=0)


@pytest.mark.parametrize("half", [0, 1])
def test_a_teacher_never_reads_a_name_of_the_other_half(half: int) -> None:
    text = " ".join(text for lesson in [*lessons(half), *make_facts(WORLD, half)] for text in lesson)
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
    assert len(make_facts(WORLD, 0)) == 6


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
