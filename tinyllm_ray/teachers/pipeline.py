"""The teachers write: question files in, one store of Rationale rows for each teacher out.

    questions -> rows that the store lacks (pending.py) -> actors in the teacher pool -> store.append, batch by batch

A row is never made twice: its key says whether the store has it. A row that fails is tried again, then recorded with
its reason, and the next run tries it again.
"""

import errno
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.compact import compact
from tinyllm_ray.data.questions import QuestionFile, iterate_questions
from tinyllm_ray.rows import SOFT_COLUMNS, Question, Rationale
from tinyllm_ray.schema import Experiment, Pool, Prompts, Teacher
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.teachers.engines.base import EMPTY_OUTPUT, Engine
from tinyllm_ray.teachers.engines.registry import log_foreign_code, make_engine, run_files
from tinyllm_ray.teachers.examples import (
    BOOTSTRAP,
    bootstrap_target,
    clean_rationales,
    read_rationales,
    without_rationales,
)
from tinyllm_ray.teachers.manifest import given_store, rationale_store, store_manifest
from tinyllm_ray.teachers.meter import Meter, TeacherReport
from tinyllm_ray.teachers.pending import READ_ROWS, Pending, Target, read_candidates, rewrite, write_pending
from tinyllm_ray.teachers.progress import Bars
from tinyllm_ray.teachers.rationales import make_rationale

__all__ = ["TeacherReport", "generate", "rationale_store", "store_manifest"]


def generate(
    experiment: Experiment,
    *,
    output_dir: str,
    questions: dict[str, QuestionFile],
    before_engines: Callable[[], None] | None = None,
) -> dict[str, TeacherReport]:
    """Let every teacher write what its store lacks. `before_engines` is called where one is needed, to join Ray.

    Raises UserError before any engine starts for what is wrong in the configuration, and after everything is stored
    where a teacher failed for more than `max_failed_fraction` of its rows.
    """
    targets = {
        teacher.name: _open_targets(experiment, teacher, output_dir=output_dir, questions=questions)
        for teacher in experiment.teachers
    }
    candidates = read_candidates(
        questions, examples=experiment.prompts.in_context.examples if any(targets.values()) else 0
    )
    with Bars() as bars, _said_when_full(output_dir):
        work = functools.partial(
            _run_teacher,
            experiment,
            targets=targets,
            candidates=candidates,
            output_dir=output_dir,
            bars=bars,
            before_engines=before_engines,
        )
        if experiment.pools.schedule != "sequential" and experiment.working_teachers:
            with ThreadPoolExecutor(len(experiment.teachers)) as threads:
                reports = list(threads.map(work, experiment.teachers))
        else:
            reports = [work(teacher) for teacher in experiment.teachers]
    _check_failures(experiment, reports)
    return {report.teacher: report for report in reports}


@contextmanager
def _said_when_full(output_dir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space is left below output.dir={output_dir} ({error.strerror}). What was stored is whole and "
            "stays; make room or set another output.dir, and run again"
        ) from None


def _open_targets(
    experiment: Experiment, teacher: Teacher, *, output_dir: str, questions: dict[str, QuestionFile]
) -> list[Target]:
    """The splits of the stores that a teacher has to fill; none where it comes with a store."""
    if teacher.store:
        given_store(teacher, dataset=experiment.dataset.name)
        return []
    # Without teacher forcing a split's rationales are its answers too: one target, counted as answers.
    targets: dict[tuple[str, str], Target] = {}
    for answers, splits in ((False, experiment.prompts.rationale_splits), (True, experiment.prompts.answer_splits)):
        manifest = store_manifest(experiment, teacher, output_dir=output_dir, answers=answers)
        folder = store.store_folder(output_dir, manifest)
        if splits:
            store.open_store(folder, manifest)
        for split in splits:
            if split in questions:
                targets[folder, split] = Target(
                    split, folder, answers, digest(manifest), manifest["teacher_forcing"], questions[split]
                )
    return list(targets.values())


def _run_teacher(
    experiment: Experiment,
    teacher: Teacher,
    *,
    targets: dict[str, list[Target]],
    candidates: Sequence[Question],
    output_dir: str,
    bars: Bars,
    before_engines: Callable[[], None] | None,
) -> TeacherReport:
    """Find what is missing, let the engine make it, try again what failed."""
    began = time.monotonic()
    report = TeacherReport(teacher.name, store=rationale_store(experiment, teacher.name, output_dir=output_dir))
    if not targets[teacher.name]:
        return report
    engine = make_engine(teacher, pool=_share_of_pool(experiment), prompts=experiment.prompts, output_dir=output_dir)
    work = _Work(experiment, teacher, engine, candidates, output_dir, bars, before_engines)
    pending, failures = _fill(
        work, targets[teacher.name], prompts=experiment.prompts, rationales=_example_rationales(work), report=report
    )
    report.wanted, report.found, report.shortened = pending.wanted, pending.found, pending.shortened
    for target in targets[teacher.name]:
        compact(target.folder, target.split)
    report.failed = dict(failures)
    report.accuracy = {t.split: _accuracy(t) for t in targets[teacher.name] if t.answers}
    report.answer_store = next((t.folder for t in targets[teacher.name] if t.answers), "")
    if teacher.soft_targets:
        _count_soft_targets(report, targets[teacher.name])
    report.wall_s = time.monotonic() - began
    return report


def _count_soft_targets(report: TeacherReport, targets: Sequence[Target]) -> None:
    sizes = [store.soft_size(target.folder, target.split) for target in targets]
    rows, tokens, size = (sum(found[name] for found in sizes) for name in ("rows", "tokens", "bytes"))
    report.soft_rows, report.soft_bytes_per_token = rows, round(size / max(tokens, 1), 2)


def pending_folder(output_dir: str, teacher: str) -> str:
    """Where the prompts of a teacher lie while it works; see data/pause.py."""
    return storage.join(output_dir, "pending", teacher)


@dataclass(frozen=True)
class _Work:
    """What both passes of a teacher share."""

    experiment: Experiment
    teacher: Teacher
    engine: Engine
    candidates: Sequence[Question]
    output_dir: str
    bars: Bars
    before_engines: Callable[[], None] | None


def _fill(
    work: _Work, targets: Sequence[Target], *, prompts: Prompts, rationales: Mapping[str, str], report: TeacherReport
) -> tuple[Pending, Counter[str]]:
    """Let the engine make what the targets lack; returns what was pending and what failed in the end, by reason."""
    folder = pending_folder(work.output_dir, work.teacher.name)
    pending = write_pending(
        targets,
        folder=folder,
        teacher=work.teacher,
        prompts=prompts,
        candidates=work.candidates,
        engine=work.engine,
        rationales=rationales,
    )
    failures = Counter(pending.failed)
    if pending.rows:
        work.engine.check()
        log_foreign_code(work.teacher)
        if work.before_engines:
            work.before_engines()
        bar = work.bars.add(work.teacher.name, total=pending.wanted, found=pending.found)
        failures += _run_pending(work.engine, pending, targets, Meter(report, bar), folder=folder)
        bar.finish()
    storage.remove_folder(folder)
    return pending, failures


def _example_rationales(work: _Work) -> dict[str, str]:
    """The rationales of the in-context examples; with `bootstrap` the teacher writes them first."""
    prompts, name = work.experiment.prompts, work.teacher.name
    if prompts.in_context.rationales != BOOTSTRAP or not prompts.in_context.examples:
        return read_rationales(prompts)
    first = without_rationales(prompts)
    manifest = store_manifest(
        work.experiment.model_copy(update={"prompts": first}), work.teacher, output_dir=work.output_dir
    )
    target = bootstrap_target(prompts, work.candidates, manifest=manifest, output_dir=work.output_dir)
    _fill(work, [target], prompts=first, rationales={}, report=TeacherReport(name))
    return clean_rationales(target, wanted=prompts.in_context.examples, teacher=name)


def _share_of_pool(experiment: Experiment) -> Pool:
    """Teachers that run at the same time share the pool's workers."""
    pool = experiment.pools.teacher
    if experiment.pools.schedule == "sequential":
        return pool
    return pool.model_copy(update={"workers": pool.workers // len(experiment.working_teachers)})


def _run_pending(
    engine: Engine, pending: Pending, targets: Sequence[Target], meter: Meter, *, folder: str
) -> Counter[str]:
    """Run all prompts, then again those that failed; returns how many failed in the end, by reason."""
    files, failures = pending.files, Counter[str]()
    for attempt in range(1, engine.teacher.max_attempts + 1):
        last = attempt == engine.teacher.max_attempts
        again: set[str] = set()
        for batch in run_files(engine, files, longest_prompt=pending.longest_prompt):
            retried = _retried(batch, engine) if not last else pa.array([False] * len(batch))
            again.update(batch.filter(retried)["key"].to_pylist())
            final = batch.filter(pc.invert(retried))
            stored = _store(final, targets, engine)
            failures.update(_reason(row.failure) for row in stored if row.failure)
            meter.count(final, stored)
        if not again:
            break
        rows = engine.teacher.batch_size
        files = rewrite(files, again, folder=storage.join(folder, f"again-{attempt}"), rows_per_file=rows)
    return failures


def _retried(batch: pa.Table, engine: Engine) -> pa.Array:
    """Failed rows that another try may help; the text of a greedy engine would be empty again."""
    same_again = engine.greedy_repeats and engine.teacher.sampling.temperature == 0
    hopeless = ["", EMPTY_OUTPUT] if same_again else [""]
    return pc.invert(pc.is_in(batch["failure"], value_set=pa.array(hopeless)))


def _reason(failure: str) -> str:
    """`engine error: RuntimeError ...` counts as `engine error`."""
    return failure.partition(":")[0]


def _store(batch: pa.Table, targets: Sequence[Target], engine: Engine) -> list[Rationale]:
    reasoning, opened = engine.teacher.reasoning, engine.opens_thought()
    stored = []
    for number in pc.unique(batch["target"]).to_pylist():
        rows = _plain_rows(batch.filter(pc.equal(batch["target"], number)))
        rationales = [make_rationale(row, reasoning=reasoning, opened=opened) for row in rows]
        store.append(targets[number].folder, targets[number].split, rationales)
        stored += rationales
    return stored


def _plain_rows(batch: pa.Table) -> list[dict[str, Any]]:
    """With the many numbers of soft targets as arrays, where the engine gives any."""
    soft = [name for name in (*SOFT_COLUMNS, "token_ends") if name in batch.column_names]
    rows = batch.drop_columns(soft).to_pylist()
    for name in soft:
        for row, cell in zip(rows, batch[name], strict=True):
            row[name] = store.array_of(cell)
    return rows


def _accuracy(target: Target) -> float:
    """Share of a split's questions that the teacher's own first answer gets right; unanswered ones count as wrong."""
    rows = store.read(target.folder, target.split, ["question_id", "sample", "predicted_answer"])
    rows = rows.filter(pc.equal(rows["sample"], 0))
    predicted = dict(zip(rows["question_id"].to_pylist(), rows["predicted_answer"].to_pylist(), strict=True))
    right = 0
    for batch in iterate_questions(target.questions.path, READ_ROWS):
        right += sum(task_of(q.task).is_right(predicted.get(q.question_id, ""), q) for q in batch)
    return right / max(target.questions.rows, 1)


def _check_failures(experiment: Experiment, reports: Sequence[TeacherReport]) -> None:
    for report in reports:
        allowed = experiment.teacher(report.teacher).max_failed_fraction
        failed = sum(report.failed.values())
        if failed > allowed * report.wanted:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(report.failed.items()))
            raise UserError(
                f"teacher {report.teacher} failed for {failed} of {report.wanted} rows ({reasons}), more than "
                f"teachers.{report.teacher}.max_failed_fraction={allowed} allows. All rows are stored, with the reason "
                f"in column `failure` of {report.store}; run again to try the failed ones again"
            )
