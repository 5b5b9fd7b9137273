"""A saved student answers: its model folder and rows of question, choices and context in, predictions out.

<folder>/student.json holds what a model's own files do not say, in the experiment's words:
{"student": {"label_prefix": "predict: ", ...}, "evaluation": {"by": "ranking", ...}, "task_prefixes": {"llama": ...}}
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tinyllm_ray import storage
from tinyllm_ray.cluster.arithmetic import lay_out_for_onednn
from tinyllm_ray.config import UserError
from tinyllm_ray.data.fit import as_plain, check_counts, count_scored
from tinyllm_ray.data.questions import read_questions
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.rows import Prediction, Question
from tinyllm_ray.schema import LABEL, Evaluation, Experiment, Student, TaskName
from tinyllm_ray.schema.base import counted
from tinyllm_ray.student.checks import check_dtype
from tinyllm_ray.student.evaluate import Reader, answer_questions, confidence, evaluate, latency
from tinyllm_ray.student.model import load_folder, parameter_count
from tinyllm_ray.student.records import ANSWERING
from tinyllm_ray.tasks.choice import MAX_CHOICES
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.terminal.progress import step

STUDENT_KEYS = {"label_prefix", "max_input_tokens", "max_label_tokens", "max_rationale_tokens", "dtype"}
EVALUATION_KEYS = {"by", "batch_size", "max_new_tokens"}
_CHOICES = re.compile(r"\n\s*(?:Answer Choices|Options|Choices):[ \t]*\n", re.IGNORECASE)
_CHOICE = re.compile(r"^\s*\(?[A-Za-z][).]\s+", re.MULTILINE)


@dataclass(frozen=True)
class SavedStudent:
    """A student that has been loaded, and how it answers."""

    reader: Reader
    evaluation: Evaluation
    task_prefixes: dict[str, str]  # teacher -> prefix with which the student writes as that teacher
    task: TaskName
    labels: list[str]  # of the task `label`


def answering_of(experiment: Experiment) -> dict[str, Any]:
    """What `student.json` holds. Teachers without a weight taught the student nothing, so they have no prefix."""
    weights = experiment.loss.rationale_weights
    return {
        "student": experiment.student.model_dump(mode="json", include=STUDENT_KEYS),
        "evaluation": experiment.evaluation.model_dump(mode="json", include=EVALUATION_KEYS),
        "dataset": experiment.dataset.model_dump(mode="json", include={"task", "labels"}),
        "task_prefixes": {t.name: t.task_prefix for t in experiment.teachers if weights.get(t.name)},
    }


def read_answering(folder: str) -> dict[str, Any] | None:
    """None where the folder is not one of ours, such as a hub's model: the schema's defaults hold then."""
    uri = storage.join(folder, ANSWERING)
    return storage.read_json(uri) if storage.exists(uri) else None


def open_student(model: str, *, batch_size: int | None = None) -> SavedStudent:
    """A model folder or a hub id, on the GPU where there is one."""
    saved = read_answering(model) or {"student": {}, "evaluation": {}, "dataset": {}, "task_prefixes": {}}
    kind = {"task": "choice", "labels": []} | saved["dataset"]
    name = str(storage.local_folder(model)) if storage.exists(model) else model
    student = Student(model=name, **saved["student"])
    evaluation = Evaluation(**saved["evaluation"] | ({"batch_size": batch_size} if batch_size else {}))
    loaded, tokenizer, _ = _load(student)
    reader = Reader(loaded, tokenizer, student, evaluation.batch_size)
    if "ranking" not in task_of(kind["task"]).SCORINGS:
        evaluation = evaluation.model_copy(update={"by": "generation"})
    return SavedStudent(reader, evaluation, saved["task_prefixes"], **kind)


def evaluate_folder(folder: str, experiment: Experiment, *, questions: str) -> dict[str, float]:
    """Metrics of a saved student on a question file."""
    saved: dict[str, Any] = {
        "model": str(storage.local_folder(folder)),
        "tokenizer": None,
        "from_scratch": {},
        "lora": None,
    }
    student = experiment.student.model_copy(update=saved)
    model, tokenizer, parameters = _load(student)
    asked = read_questions(questions)
    limits = student.model_dump(include={"max_input_tokens", "max_label_tokens"})
    counts = count_scored(questions, {"prefixes": [student.label_prefix], **limits}, tokenizer)
    check_counts(as_plain(counts, ["input", LABEL]), questions, experiment)
    evaluation = experiment.evaluation
    passes = 2 if evaluation.by == "both" else 1
    with step("evaluate", total=passes * len(asked), unit="questions") as bar:
        metrics, _ = evaluate(
            model, tokenizer, questions=asked, student=student, evaluation=evaluation, on_batch=bar.advance
        )
    metrics |= latency(Reader(model, tokenizer, student, evaluation.batch_size), asked, evaluation)
    return {**metrics, "questions": len(asked), "parameters": parameters}


def _load(student: Student) -> tuple[Any, StudentTokenizer, int]:
    """A saved student that only answers from now on, on the GPU where there is one, and the number of its parameters,
    which cannot be counted any longer once they lie in oneDNN's order."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_dtype(student.dtype, device)
    model, tokenizer = load_folder(student)
    parameters = parameter_count(model)
    model.to(device)
    if student.dtype == "float32":
        lay_out_for_onednn(model)
    return model, tokenizer, parameters


def predict(saved: SavedStudent, questions: Sequence[Question], *, rationales: bool = False) -> list[Prediction]:
    """The student's answers by the same scoring as `evaluate`; on request with its own rationale as each teacher."""
    return answer_questions(
        saved.reader,
        questions,
        evaluation=saved.evaluation,
        rationale_prefixes=saved.task_prefixes,
        rationale_questions=len(questions) if rationales else 0,
    )


def answer_row(prediction: Prediction) -> dict[str, Any]:
    """What a user of a student gets for one question."""
    scores = prediction.choice_scores
    return {
        "answer": prediction.predicted,
        "confidence": confidence(scores) if scores else None,
        "scores": scores,
        "rationales": prediction.rationales,
    }


def read_rows(rows: Iterable[str | Mapping[str, Any]], *, task: TaskName, labels: Sequence[str]) -> list[Question]:
    """Rows as users have them: a mapping of `question`, `choices` and perhaps `context`, or all of it as one text.

    Raises UserError, which names the row, where something is missing or of another type.
    """
    return [_question(number, row, task, labels) for number, row in enumerate(rows)]


def _question(number: int, row: str | Mapping[str, Any], task: TaskName, labels: Sequence[str]) -> Question:
    if isinstance(row, str):
        row = _parse(row) if task == "choice" else {"question": row}
    question, context, listed = map(row.get, ("question", "context", "choices"))
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"row {number}: `question` must be a text; the row has {', '.join(map(str, row)) or 'nothing'}")
    given = list(listed) if isinstance(listed, Iterable) and not isinstance(listed, str) else []
    used = {"choice": [str(choice) for choice in given], "label": list(labels), "number": [], "text": []}[task]
    if task == "choice" and not 2 <= len(used) <= MAX_CHOICES:
        raise UserError(
            f"row {number}: {counted(len(used), 'choice')} given; a question needs 2 to {MAX_CHOICES}, as a list in "
            "`choices`, or in a plain text as lines (a) ..., (b) ... below a line `Answer Choices:`"
        )
    return Question(str(number), question, used, "", context if isinstance(context, str) else "", [], task)


def _parse(text: str) -> dict[str, Any]:
    """ "What floats?\\nAnswer Choices:\\n(a) iron\\n(b) cork" -> {"question": "What floats?", "choices": [...]}."""
    question, *rest = _CHOICES.split(text)
    listed = _CHOICE.split("\n".join(rest))[1:] if rest else []
    return {"question": question, "choices": [choice.strip() for choice in listed]}
