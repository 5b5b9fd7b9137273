"""docs/extending.md: its modules and experiments are taken from the page and run, all in one experiment."""

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.small_experiment import finish, start

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.outside import load_outside
from tinyllm_ray.schema import Dataset, Pool, Prompts, Search, Teacher
from tinyllm_ray.teachers.engines.base import outcome
from tinyllm_ray.teachers.engines.registry import make_engine
from tinyllm_ray.tuning.space import draw_samples

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r'^```(?:python|yaml) title="([\w.]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
SIZES = {"train": 24, "validation": 8, "test": 8}
COLORS = ("red", "blue", "green")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The page's blocks by their titles; its modules lie in a folder on Python's path."""
    blocks = dict(BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")))
    for title, text in blocks.items():
        (tmp_path / title).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return blocks


def quiz(count: int, *, of: str) -> str:
    choices = "\n".join(f"{letter}. {color}" for letter, color in zip("ABC", COLORS, strict=True))
    return "\n\n".join(f"What color has {of} thing {n}?\n{choices}\nANSWER: {'ABC'[n % 3]}" for n in range(count))


def write_quiz(folder: Path) -> None:
    (folder / "quiz").mkdir()
    for split, count in SIZES.items():
        (folder / "quiz" / f"{split}.aiken").write_text(quiz(count, of=split))


def experiment(blocks: dict[str, str], folder: Path) -> Path:
    """All of the page's sections in one experiment, small."""
    raw: dict[str, Any] = {
        "name": "extended",
        "prompts": {"in_context": {"examples": 1}},
        "student": {"model": "tiny", "from_scratch": {"tiny": {"width": 32, "vocabulary_size": 300, "dropout": 0.0}}},
        "training": {"steps": 4, "batch_size": 8, "eval_every_steps": 2, "log_every_steps": 1},
        "evaluation": {"student_rationales": 0},
        "output": {"dir": str(folder / "out")},
    }
    for title, text in blocks.items():
        if title.endswith(".yaml"):
            raw |= yaml.safe_load(text)
    write_quiz(folder)
    raw["search"]["scheduler"] = "none"
    path = folder / "extended.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def engine_of(raw: dict[str, Any]) -> Any:
    return make_engine(Teacher.model_validate(raw), pool=Pool(), prompts=Prompts(), output_dir="s3://bucket/nowhere")


def test_the_loss_term_is_label_smoothing(page: dict[str, str]) -> None:
    smoothing = load_outside("my_loss:smoothing", key="loss.custom.smoothing.path")
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # probabilities 1/2 and 1/2; 3/4 and 1/4
    expected = [math.log(2), -(math.log(3 / 4) + math.log(1 / 4)) / 2]
    assert smoothing(logits, None).tolist() == pytest.approx(expected)


def test_the_searcher_changes_one_key_at_a_time(page: dict[str, str]) -> None:
    search = Search.model_validate(yaml.safe_load(page["with_my_searcher.yaml"])["search"])
    assert [tuple(sample.values()) for sample in draw_samples(search)] == [(0.5, 1e-3), (1, 1e-3), (0.5, 1e-2)]


def test_the_reader_gives_questions(page: dict[str, str], tmp_path: Path) -> None:
    raw = yaml.safe_load(page["with_my_reader.yaml"])["dataset"]
    write_quiz(tmp_path)
    files = prepare_questions(Dataset.model_validate(raw | {"path": str(tmp_path / "quiz")}), output_dir=str(tmp_path))
    assert {split: file.rows for split, file in files.items()} == SIZES
    first = read_questions(files["train"].path)[0]
    assert (first.question, first.choices, first.answer) == ("What color has train thing 0?", list(COLORS), "red")


def test_the_engine_asks_the_program_for_each_prompt_and_a_missing_one_is_refused(page: dict[str, str]) -> None:
    raw = yaml.safe_load(page["with_my_engine.yaml"])["teachers"][0]
    engine = engine_of(raw)
    engine.check()
    assert [encoded.refused for encoded in engine.encode(["why?"])] == [""]
    assert engine.show("why?") == "why?"
    actor = load_outside("my_engine:Program", key="actor")(command=raw["engine"]["settings"]["command"])
    assert actor.ask("why?") == outcome("WHY?", "stop", input_tokens=1, output_tokens=1)
    missing = engine_of(raw | {"engine": raw["engine"] | {"settings": {"command": ["no-such-program"]}}})
    with pytest.raises(UserError, match="there is no program no-such-program"):
        missing.check()
    assert missing.key() != engine.key()


@pytest.mark.engine
def test_engine_reader_loss_term_and_searcher_of_the_page_run_together(page: dict[str, str], tmp_path: Path) -> None:
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    result = finish(start("run", experiment(page, tmp_path), env={**os.environ, "PYTHONPATH": paths}))
    (folder,) = (tmp_path / "out" / "stores" / "quiz" / "shouting").iterdir()
    rows = store.read(str(folder), "train").to_pylist()
    assert len(rows) == SIZES["train"]
    assert all("WHAT COLOR HAS TRAIN THING" in row["rationale"] for row in rows)
    assert result["search"]["trials"] == 3
    metrics = "".join(part.read_text() for part in (tmp_path / "out" / "trials").glob("*/metrics/*.jsonl"))
    assert '"train/loss/smoothing"' in metrics
