"""What a run would do, without an engine: counts, stores, pools, and one teacher's prompt.

In: an Experiment. Out: lines for people, numbers for programs.
"""

from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.cluster.capacity import check_capacity
from tinyllm_ray.config import UserError, output_dir
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile, describe, prepare_questions, read_questions
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers.engines.registry import choose_engine
from tinyllm_ray.teachers.pending import prompt_of, read_candidates
from tinyllm_ray.teachers.pipeline import rationale_store
from tinyllm_ray.tuning.methods import comparison


def make_plan(experiment: Experiment) -> dict[str, Any]:
    """Rows wanted and found by teacher, trainings, pools; raises UserError for what could not run."""
    questions = _questions(experiment)
    counts = {split: file.rows for split, file in questions.items()}
    teachers = {t.name: _teacher_rows(experiment, t.name, questions) for t in experiment.teachers}
    trainings = len(comparison(experiment)) * len(experiment.seeds)
    lines = describe(questions)
    lines += [
        f"teacher {name}: {rows['wanted']} rationales wanted, {rows['found']} found" for name, rows in teachers.items()
    ]
    lines += [f"methods x seeds: {trainings} trainings of {experiment.training.steps} steps"]
    if experiment.search.space:
        lines += [f"search: {experiment.search.num_samples} samples over {', '.join(experiment.search.space)}"]
    lines += [*check_capacity(experiment), f"output: {output_dir(experiment)}"]
    return {"questions": counts, "teachers": teachers, "trainings": trainings, "lines": lines}


def show_prompt(experiment: Experiment, *, teacher: str, row: int) -> str:
    """The very prompt of one training question, as `teacher`'s model reads it or its server gets it."""
    questions = _questions(experiment)
    train = read_questions(questions["train"].path)
    chosen = experiment.teacher(teacher)
    if chosen.store:
        raise UserError(f"teacher {teacher} comes with a store, so it is asked nothing here")
    if not 0 <= row < len(train):
        raise UserError(f"--row {row}: the training split has rows 0 to {len(train) - 1}")
    settings, folder = experiment.prompts, output_dir(experiment)
    engine = choose_engine(chosen, pool=experiment.pools.teacher, prompts=settings, output_dir=folder)
    candidates = read_candidates(questions, examples=settings.in_context.examples)
    return prompt_of(train[row], prompts=settings, candidates=candidates, engine=engine)


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
