"""An LLM as judge: stores of rationales in, a score from 1 to 5 for each rationale of the training split out.

A judgement is made as an answer is: the judge's whole prompt for one rationale becomes a question, so engines, retries,
resuming and the store of what the judge wrote are the teachers' own. The scores lie beside, keyed by what made them:
    <output_dir>/judgements/<dataset>/<digest>/judged.parquet    Judged rows
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.judging import judge_prompt, load_judge_prompt, read_score
from tinyllm_ray.data.questions import QuestionFile, read_questions
from tinyllm_ray.rows import Judged, Question, to_table
from tinyllm_ray.schema import Experiment, InContext, Judge, Prompts
from tinyllm_ray.teachers.manifest import rationale_store, store_manifest
from tinyllm_ray.teachers.meter import TeacherReport
from tinyllm_ray.teachers.pipeline import generate


@dataclass(frozen=True)
class Verdict:
    """Of one teacher's rationales for the training split, those that are not good enough."""

    teacher: str
    rationales: int
    below: int  # the threshold
    unread: int  # for which the judge wrote no score

    def __str__(self) -> str:
        return (
            f"judge: of {self.rationales} rationales of {self.teacher} {self.below} are below the threshold and "
            f"{self.unread} have no score; they are not used"
        )


def judge_rationales(
    experiment: Experiment,
    judge: Judge,
    *,
    output_dir: str,
    questions: Mapping[str, QuestionFile],
    before_engines: Callable[[], None] | None = None,
) -> tuple[TeacherReport, list[Verdict]]:
    """Let the judge score every rationale that it has not scored yet. Raises UserError as `generate` does."""
    folder = judged_folder(experiment, judge, output_dir=output_dir, questions=questions)
    asked = {question.question_id: question for question in read_questions(questions["train"].path)}
    wanted = list(_judged_texts(experiment, judge, asked, output_dir=output_dir))
    prompts = {prompt.question_id: prompt for _, _, prompt in wanted}
    path = storage.join(folder, "prompts.parquet")
    storage.write_table(path, to_table(prompts.values(), Question))
    files = {"train": QuestionFile(path, len(prompts), 0, "", digest(sorted(prompts)))}
    asking = as_teacher(experiment, judge)
    with named_as_judge(judge):
        reports = generate(asking, output_dir=output_dir, questions=files, before_engines=before_engines)
    table = store.read(rationale_store(asking, judge.by.name, output_dir=output_dir), "train")
    said = dict(zip(table["question_id"].to_pylist(), table["rationale"].to_pylist(), strict=True))
    rows = [
        Judged(teacher, key, read_score(said.get(prompt.question_id, "")))  # it may have failed
        for teacher, key, prompt in wanted
    ]
    storage.write_table(storage.join(folder, "judged.parquet"), to_table(rows, Judged))
    return reports[judge.by.name], _verdicts(experiment, rows, judge.threshold)


@contextmanager
def named_as_judge(judge: Judge) -> Iterator[None]:
    """Messages about a teacher name the keys of `rationales.judge.by` instead."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(f"teachers.{judge.by.name}.", "rationales.judge.by.")) from None


def judged_folder(
    experiment: Experiment, judge: Judge, *, output_dir: str, questions: Mapping[str, QuestionFile]
) -> str:
    """By the judge, its prompt, the questions and the rationales; other ones have another folder."""
    stores = _stores(experiment, output_dir=output_dir)
    made_from = {
        "judge": store_manifest(as_teacher(experiment, judge), judge.by, output_dir=output_dir),
        "prompt": load_judge_prompt(judge.prompt),
        "questions": questions["train"].digest,
        "rationales": {name: store.content_digest(folder) for name, folder in stores.items()},
    }
    return storage.join(output_dir, "judgements", experiment.dataset.name, digest(made_from))


def as_teacher(experiment: Experiment, judge: Judge) -> Experiment:
    """The experiment in which the judge is the only teacher; a judgement is read as a number."""
    prompts = Prompts(
        template="bare",
        in_context=InContext(examples=0),
        teacher_forcing=False,
        chat_template=experiment.prompts.chat_template,
        rationale_splits=["train"],
    )
    dataset = experiment.dataset.model_copy(update={"task": "number"})
    return experiment.model_copy(update={"teachers": [judge.by], "prompts": prompts, "dataset": dataset})


def _stores(experiment: Experiment, *, output_dir: str) -> dict[str, str]:
    return {
        teacher.name: rationale_store(experiment, teacher.name, output_dir=output_dir)
        for teacher in experiment.teachers
    }


def _judged_texts(
    experiment: Experiment, judge: Judge, asked: Mapping[str, Question], *, output_dir: str
) -> Iterator[tuple[str, str, Question]]:
    """Teacher, key of the rationale, and the judge's prompt as a question; equal prompts have one id."""
    form = load_judge_prompt(judge.prompt)
    for teacher, folder in _stores(experiment, output_dir=output_dir).items():
        for table in store.iterate(folder, "train", ["key", "question_id", "rationale"]):
            for row in table.filter(pc.is_valid(table["rationale"])).to_pylist():
                if row["question_id"] in asked and row["rationale"].strip():
                    text = judge_prompt(asked[row["question_id"]], row["rationale"], form=form)
                    yield teacher, row["key"], Question(digest(text, 24), text, [], "", task="number")


def _verdicts(experiment: Experiment, rows: list[Judged], threshold: int) -> list[Verdict]:
    verdicts = []
    for teacher in experiment.teachers:
        scores = [row.score for row in rows if row.teacher == teacher.name]
        below = sum(0 < score < threshold for score in scores)
        verdicts.append(Verdict(teacher.name, len(scores), below, scores.count(0)))
    return verdicts
