"""What `make real` has made with SmolLM2-135M-Instruct: its texts, its loss as a student, its report.

TINYLLM_REAL names the output folder of a finished run of experiments/smollm2.yaml; without it these tests are skipped.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyllm_ray.config import load_experiment
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers.engines.registry import make_engine
from tinyllm_ray.teachers.manifest import rationale_store
from tinyllm_ray.teachers.pending import prompt_of, read_candidates

FOLDER = Path(os.environ.get("TINYLLM_REAL", ""))
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif("TINYLLM_REAL" not in os.environ, reason="TINYLLM_REAL names no finished run; see `make real`"),
]
GREEDY_ROWS, GREEDY_TOKENS = 2, 16
CHANCE = math.log(49_152)  # the loss of a model that knows nothing, over its vocabulary


@pytest.fixture(scope="module")
def plain() -> Experiment:
    """The run's experiment with examples that show an answer alone; in a long run the benchmark has written these."""
    return load_experiment(FOLDER / "config.yaml", ["prompts.in_context.rationales=none"])


def test_its_greedy_texts_are_those_of_transformers(plain: Experiment) -> None:
    """The unpacked weights and the chat template: vLLM on Ray wrote what transformers writes."""
    rows = store.read(rationale_store(plain, "smollm2", output_dir=str(FOLDER)), "train").to_pylist()
    written = {row["question_id"]: row["rationale"] for row in rows}
    questions = prepare_questions(plain.dataset, output_dir=str(FOLDER))
    engine = make_engine(
        plain.teacher("smollm2"), pool=plain.pools.teacher, prompts=plain.prompts, output_dir=str(FOLDER)
    )
    candidates = read_candidates(questions, examples=plain.prompts.in_context.examples)
    tokenizer = AutoTokenizer.from_pretrained(engine.teacher.model)
    model = AutoModelForCausalLM.from_pretrained(engine.teacher.model, dtype=torch.float32)
    asked = [row for row in read_questions(questions["train"].path) if row.question_id in written][:GREEDY_ROWS]
    assert len(asked) == GREEDY_ROWS
    for question in asked:
        text = prompt_of(question, prompts=plain.prompts, candidates=candidates, engine=engine, rationales={})
        prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        made = model.generate(**prompt, max_new_tokens=GREEDY_TOKENS, do_sample=False)[
            0, prompt["input_ids"].shape[1] :
        ]
        own = tokenizer.decode(made, skip_special_tokens=True).strip()
        assert own and written[question.question_id].startswith(own)


def losses() -> list[float]:
    """The answers' training loss of each step of the student that learned from the teacher."""
    (folder,) = (FOLDER / "trials").glob("all_teachers-*")
    lines = [json.loads(line) for file in sorted(folder.glob("metrics/*.jsonl")) for line in file.open()]
    by_step: dict[int, float] = {line["step"]: line["train/loss/label"] for line in lines if "train/loss/label" in line}
    return [by_step[step] for step in sorted(by_step)]


def test_the_student_starts_from_the_pretrained_weights_and_its_loss_falls() -> None:
    found = losses()
    assert found[0] < 0.6 * CHANCE
    quarter = len(found) // 4
    if quarter:  # a short run has two steps
        assert sum(found[-quarter:]) < 0.8 * sum(found[:quarter])


def test_the_report_compares_the_methods() -> None:
    page = (FOLDER / "report" / "report.html").read_text(encoding="utf-8")
    assert "smollm2" in page and "No method has been scored" not in page
