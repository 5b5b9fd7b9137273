from pathlib import Path

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data.prompts import (
    build_prompt,
    choose_examples,
    example_set,
    load_template,
    next_example,
    student_input,
)
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import InContext


def question(name: str, text: str | None = None) -> Question:
    return Question(name, text or f"What is {name}?", ["left", "right"], "right")


def test_the_student_reads_prefix_question_and_choices() -> None:
    assert student_input("predict: ", question("q")) == "predict: What is q?\nAnswer Choices:\n(a) left\n(b) right"


def test_the_papers_prompt_shows_solved_examples_and_the_gold_letter() -> None:
    prompt = build_prompt(
        question("q"), template=load_template("paper"), examples=[question("e")], teacher_forcing=True
    )
    assert prompt == (
        "Question: What is e?\nOptions:\n(a) left\n(b) right\nAnswer: (b)\n\n"
        "Question: What is q?\nOptions:\n(a) left\n(b) right\nAnswer: (b)\nRationale: Let's think step by step."
    )


def test_without_teacher_forcing_the_answer_line_is_left_out() -> None:
    prompt = build_prompt(question("q"), template=load_template("paper"), examples=[], teacher_forcing=False)
    assert prompt == "Question: What is q?\nOptions:\n(a) left\n(b) right\nRationale: Let's think step by step."


def test_the_answer_template_ends_where_the_answer_belongs() -> None:
    prompt = build_prompt(question("q"), template=load_template("answer"), examples=[], teacher_forcing=False)
    assert prompt.endswith("(b) right\nAnswer:")


def test_braces_in_a_question_stay_as_they_are() -> None:
    odd = question("q", "Is {answer} in {0.__class__}?")
    prompt = build_prompt(odd, template="{examples}{question} {answer}", examples=[], teacher_forcing=True)
    assert prompt == "Is {answer} in {0.__class__}? (b)"


@pytest.mark.parametrize(
    "text", ["{question.__class__}", "{question!r}", "{question} {0}", "{question} {", "{question} {{x}}"]
)
def test_a_template_may_hold_only_the_four_fields(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(UserError, match="allowed in braces"):
        load_template(str(path))


def test_a_template_without_the_question_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("Question: {question}\n---\nSay something. {answer}")
    with pytest.raises(UserError, match=r"has no \{question\}"):
        load_template(str(path))


def test_a_missing_template_names_the_packaged_ones() -> None:
    with pytest.raises(UserError, match="answer, bare, paper"):
        load_template("/nowhere/t.txt")


def test_a_template_that_cannot_show_what_is_configured_is_refused() -> None:
    with pytest.raises(UserError, match=r"no \{examples\}"):
        build_prompt(question("q"), template="{question}", examples=[question("e")], teacher_forcing=False)
    with pytest.raises(UserError, match=r"no \{answer\}"):
        build_prompt(question("q"), template="{question}", examples=[], teacher_forcing=True)


def test_examples_are_never_the_question_nor_its_text() -> None:
    candidates = [
        question("q"),
        question("same", "What is q?"),
        question("x"),
        question("y"),
        question("z", "What is y?"),
    ]
    for seed in range(50):
        chosen = choose_examples(question("q"), candidates=candidates, in_context=InContext(examples=2), seed=seed)
        texts = [example.question for example in chosen]
        assert sorted(texts) == ["What is x?", "What is y?"]


def test_examples_depend_on_the_question_and_the_seed_only() -> None:
    candidates = [question(f"c{index}") for index in range(1000)]

    def chosen(name: str, seed: int) -> list[str]:
        examples = choose_examples(question(name), candidates=candidates, in_context=InContext(examples=2), seed=seed)
        return [example.question_id for example in examples]

    assert chosen("a", 0) == chosen("a", 0)
    assert chosen("a", 0) != chosen("b", 0)
    assert chosen("a", 0) != chosen("a", 1)


def test_too_few_candidates_give_fewer_examples() -> None:
    chosen = choose_examples(
        question("q"), candidates=[question("q"), question("x")], in_context=InContext(examples=2), seed=0
    )
    assert [example.question_id for example in chosen] == ["x"]


def test_a_pool_shares_its_example_sets() -> None:
    candidates = [question(f"c{index}") for index in range(100)]
    in_context = InContext(examples=2, pool=3)
    sets: dict[int, set[tuple[str, ...]]] = {}
    for index in range(200):
        name = f"v{index}"
        chosen = choose_examples(question(name), candidates=candidates, in_context=in_context, seed=0)
        sets.setdefault(example_set(name, pool=3, seed=0), set()).add(tuple(c.question_id for c in chosen))
    assert sorted(sets) == [0, 1, 2]
    assert all(len(examples) == 1 for examples in sets.values())


def test_a_question_in_a_shared_set_gets_another_example_in_its_place() -> None:
    candidates = [question(f"c{index}") for index in range(5)]
    for candidate in candidates:
        chosen = choose_examples(candidate, candidates=candidates, in_context=InContext(examples=2, pool=1), seed=0)
        assert len(chosen) == 2
        assert candidate not in chosen


def test_choices_and_their_heading_are_left_out_where_the_answer_is_free() -> None:
    asked = Question("q", "How many?", [], "6 * 7", task="number")
    solved = Question("e", "How much?", [], "5", task="number")
    prompt = build_prompt(asked, template=load_template("paper"), examples=[solved], teacher_forcing=True)
    assert prompt == (
        "Question: How much?\nAnswer: 5\n\nQuestion: How many?\nAnswer: 6 * 7\nRationale: Let's think step by step."
    )


def test_labels_are_shown_by_name() -> None:
    asked = Question("q", "He rests.", ["yes", "no"], "no", context="He runs.", task="label")
    prompt = build_prompt(asked, template=load_template("paper"), examples=[], teacher_forcing=True)
    assert prompt == (
        "Question: He runs.\nHe rests.\nOptions:\nyes\nno\nAnswer: no\nRationale: Let's think step by step."
    )


def test_a_passage_stands_where_the_template_places_it_and_leaves_no_gap_where_there_is_none() -> None:
    template = "{context}Q: {question}\n{choices}"
    asked = Question("q", "Who ate?", ["cat", "dog"], "dog", context="A dog ate.")
    assert (
        build_prompt(asked, template=template, examples=[], teacher_forcing=False)
        == "A dog ate.\nQ: Who ate?\n(a) cat\n(b) dog"
    )
    assert build_prompt(question("q"), template=template, examples=[], teacher_forcing=False).startswith(
        "Q: What is q?"
    )


@pytest.mark.parametrize(
    ("template", "start"),
    [
        ("{examples}Question: {question}\nAnswer: {answer}\n", "\nQuestion:"),  # the packaged form of an example
        ("Q {question}\nA {answer}\n---\n{examples}Q {question}\nA {answer}\n", "\nQ"),
        ("### Task\n{question}\n---\n{examples}{question} {answer}\n", "\n### Task"),
        ("{question} {answer}\n---\n{examples}{question} {answer}\n", None),
    ],
)
def test_the_start_of_the_next_example_follows_from_the_template(template: str, start: str | None) -> None:
    assert next_example(template) == start
