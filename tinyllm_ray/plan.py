"""What a run would do, without an engine: counts, stores, pools, and one teacher's prompt.

In: an Experiment. Out: lines for people, numbers for programs.
"""

from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.capacity import check_capacity
from tinyllm_ray.config import UserError, output_dir
from tinyllm_ray.data import store
from tinyllm_ray.data.prompts import build_prompt, choose_examples, load_template
from tinyllm_ray.data.questions import QuestionFile, prepare_questions, read_questions
from tinyllm_ray.methods import comparison
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers.rationales import rationale_store


def make_plan(experiment: Experiment) -> dict[str, Any]:
    """Rows wanted and found by teacher, trainings, pools; raises UserError for what could not run."""
    questions = _questions(experiment)
    counts = {split: file.rows for split, file in questions.items()}
    teachers = {t.name: _teacher_rows(experiment, t.name, questions) for t in experiment.teachers}
    trainings = len(comparison(experiment)) * len(experiment.seeds)
    lines = [f"questions: {counts}"]
    lines += [
        f"teacher {name}: {rows['wanted']} rationales wanted, {rows['found']} found" for name, rows in teachers.items()
    ]
    lines += [f"methods x seeds: {trainings} trainings of {experiment.training.steps} steps"]
    if experiment.search.space:
        lines += [f"search: {experiment.search.num_samples} samples over {', '.join(experiment.search.space)}"]
    lines += [*check_capacity(experiment), f"output: {output_dir(experiment)}"]
    return {"questions": counts, "teachers": teachers, "trainings": trainings, "lines": lines}


def prompt_of(experiment: Experiment, *, teacher: str, row: int) -> str:
    """The very prompt of one training question."""
    questions = read_questions(_questions(experiment)["train"].path)
    experiment.teacher(teacher)
    if not 0 <= row < len(questions):
        raise UserError(f"--row {row}: the training split has rows 0 to {len(questions) - 1}")
    settings = experiment.prompts
    examples = choose_examples(questions[row], candidates=questions, in_context=settings.in_context, seed=settings.seed)
    template = load_template(settings.template)
    return build_prompt(questions[row], template=template, examples=examples, teacher_forcing=settings.teacher_forcing)


def _questions(experiment: Experiment) -> dict[str, QuestionFile]:
    folder = output_dir(experiment)
    if experiment.dataset.format == "miniature":
        from tinyllm_ray.miniature.models import prepare

        prepare(experiment, output_dir=folder)
    return prepare_questions(experiment.dataset, output_dir=folder)


def _teacher_rows(experiment: Experiment, name: str, questions: dict[str, QuestionFile]) -> dict[str, int]:
    folder = rationale_store(experiment, name, output_dir=output_dir(experiment))
    splits = [split for split in experiment.prompts.rationale_splits if split in questions]
    wanted = sum(questions[split].rows for split in splits) * experiment.teacher(name).samples_per_question
    there = storage.exists(storage.join(folder, "manifest.json"))
    return {"wanted": wanted, "found": sum(len(store.read(folder, split, ["key"])) for split in splits) if there else 0}
