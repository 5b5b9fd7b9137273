"""Every named layout of docs/datasets.md: the YAML on that page reads rows written as the publisher writes them."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from support.layout_rows import PUBLISHED, Expected

from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import LAYOUTS, Dataset

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


def sections_of_the_page() -> dict[str, dict[str, Any]]:
    """Title of a dataset -> the `dataset` section below it."""
    parts = re.findall(r"^### (.+?)\n(.*?)```yaml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    return {title: yaml.safe_load(text)["dataset"] for title, _, text in parts}


SECTIONS = sections_of_the_page()


def name_of(published: str) -> str:
    return published.partition(",")[0]


def read(folder: Path, section: dict[str, Any]) -> list[Question]:
    files = prepare_questions(Dataset(**{**section, "path": str(folder)}), output_dir=str(folder / "out"))
    return read_questions(files["train"].path)


def meaning(question: Question, *, mixed: bool) -> Expected:
    choices = sorted(question.choices) if mixed else question.choices
    return Expected(question.question, question.answer, choices, question.context)


def test_the_page_has_every_layout_and_the_schema_names_it() -> None:
    assert [layout["title"] for layout in LAYOUTS.values()] == list(SECTIONS)
    assert set(LAYOUTS) < set(get_args(Dataset.model_fields["format"].annotation))
    assert {name_of(published) for published in PUBLISHED} == set(LAYOUTS)
    assert len(LAYOUTS) >= 23


@pytest.mark.parametrize("published", PUBLISHED)
def test_the_yaml_of_the_page_reads_the_published_rows(published: str, tmp_path: Path) -> None:
    rows, section = PUBLISHED[published], SECTIONS[LAYOUTS[name_of(published)]["title"]]
    rows.write(tmp_path)
    found = read(tmp_path, section)
    wanted = [
        Expected(q.question, q.answer, sorted(q.choices) if q.mixed else q.choices, q.context) for q in rows.questions
    ]
    mixed = any(q.mixed for q in rows.questions)
    assert [meaning(question, mixed=mixed) for question in found] == wanted
    assert len({question.question_id for question in found}) == len(found) >= 5


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_short_name_stands_for_the_same_keys(name: str) -> None:
    section = SECTIONS[LAYOUTS[name]["title"]]
    assert section["format"] == "columns"
    short = Dataset(name=section["name"], format=name, path=section["path"])
    assert short.model_copy(update={"format": "columns"}) == Dataset(**section)
    assert f"`format: {name}`" in PAGE


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_arcs_hub_layout_has_no_wrong_answer_in_any_kind_of_file(suffix: str, tmp_path: Path) -> None:
    rows = PUBLISHED["arc"]
    type(rows)(rows.rows, rows.questions, suffix).write(tmp_path)
    plain = {"name": "arc", "format": "columns", "columns": {"answer": "answerKey"}}
    for section in (plain, {"name": "arc", "format": "arc"}):
        assert [(q.question, q.answer) for q in read(tmp_path, section)] == [
            (q.question, q.answer) for q in rows.questions
        ]
