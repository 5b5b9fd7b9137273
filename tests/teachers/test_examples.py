"""In-context examples with rationales, from a file and from the teacher itself."""

import json
from pathlib import Path

import pytest
from support.tiny_teachers import questions

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.prompts import build_prompt, load_template
from tinyllm_ray.rows import Rationale
from tinyllm_ray.schema import InContext, Prompts
from tinyllm_ray.teachers.examples import bootstrap_target, clean_rationales, read_rationales, without_rationales
from tinyllm_ray.teachers.pending import with_rationales

MANIFEST = {"dataset": "words", "teacher": "t", "teacher_forcing": True}


def prompts(rationales: str, **settings: int) -> Prompts:
    return Prompts(in_context=InContext(rationales=rationales), **settings)


def test_an_example_shows_its_rationale_after_the_templates_own_words() -> None:
    example, asked = questions(2)
    prompt = build_prompt(
        asked,
        template=load_template("paper"),
        examples=[example],
        teacher_forcing=True,
        rationales={"q0": "Rain falls.\n\nSo it is wet. "},
    )
    shown = prompt.partition("\n\n")[0]
    assert shown.endswith("Answer: (a)\nRationale: Let's think step by step. Rain falls.\nSo it is wet.")
    assert prompt.count("Let's think step by step.") == 2 and prompt.endswith("step by step.")


def test_a_file_of_rationales_is_read_and_only_its_questions_are_examples(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(json.dumps({"question_id": q, "rationale": f"{q} because "}) for q in ("q1", "q3")))
    found = read_rationales(prompts(f"file:{path}"))
    assert found == {"q1": "q1 because", "q3": "q3 because"}
    assert [question.question_id for question in with_rationales(questions(5), found)] == ["q1", "q3"]
    assert len(with_rationales(questions(5), {})) == 5
    assert read_rationales(prompts("none")) == {}


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"question_id": "a"}', '{"question_id": 1, "rationale": " "}'])
def test_a_line_of_another_form_is_said_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text(f'{{"question_id": "q", "rationale": "x"}}\n{line}\n')
    with pytest.raises(UserError, match=r"prompts\.in_context\.rationales: .*examples\.jsonl, line 2"):
        read_rationales(prompts(f"file:{path}"))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"prompts\.in_context\.rationales: .* cannot be read"):
        read_rationales(prompts(f"file:{tmp_path}/none.jsonl"))


def rationale(number: int, flags: list[str]) -> Rationale:
    return Rationale(f"k{number}", f"q{number}", 0, f"because {number}", "", "stop", "", 0, 1, 1, flags)


def test_bootstrap_asks_the_same_questions_in_every_run_and_keeps_what_has_no_flag(tmp_path: Path) -> None:
    rows = questions(200)
    first = bootstrap_target(prompts("bootstrap"), rows, manifest=MANIFEST, output_dir=str(tmp_path))
    again = bootstrap_target(prompts("bootstrap"), rows, manifest=MANIFEST, output_dir=str(tmp_path))
    assert first == again
    assert first.questions.rows == 64
    store.append(
        first.folder, "train", [rationale(1, []), rationale(2, ["looping"]), rationale(3, []), rationale(4, [])]
    )
    assert clean_rationales(first, wanted=2, teacher="t") == {f"q{i}": f"because {i}" for i in (1, 3, 4)}
    with pytest.raises(UserError, match="teacher t wrote 3 rationales without a flag for 64 questions, too few for 3"):
        clean_rationales(first, wanted=3, teacher="t")


def test_the_first_pass_shows_no_rationales() -> None:
    assert without_rationales(prompts("bootstrap", seed=3)) == prompts("none", seed=3)
