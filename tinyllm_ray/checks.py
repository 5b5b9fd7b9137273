"""Everything that can be known about an experiment before an engine starts.

In: a Session and the command that is to run. Out: a line for each thing that was looked at; one UserError that holds
every mistake that was found. `plan`, `run`, `submit` and the other commands call it first.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tinyllm_ray import storage
from tinyllm_ray.cluster.arithmetic import slow_number_formats
from tinyllm_ray.cluster.capacity import POOLS, check_capacity
from tinyllm_ray.cluster.connect import check_output
from tinyllm_ray.config import UserError, output_dir
from tinyllm_ray.data import store
from tinyllm_ray.data.arrivals import Arrivals
from tinyllm_ray.data.judging import load_judge_prompt
from tinyllm_ray.data.vocabulary import difference, meet, vocabulary_digest
from tinyllm_ray.outside import load_outside
from tinyllm_ray.schema import Choice, Experiment, Grid, Teacher
from tinyllm_ray.schema.base import counted
from tinyllm_ray.session import Session
from tinyllm_ray.student.checks import check_model, check_ranks, check_student
from tinyllm_ray.teachers.manifest import rationale_store
from tinyllm_ray.tracking.address import tracking_uri, wait_for_answer
from tinyllm_ray.tuning.methods import ablation, apply_method, comparison
from tinyllm_ray.tuning.space import apply_sample, check_search, draw_samples

Look = Callable[[Session, str], Iterator[str]]
POOLS_OF = {"generate": ("teacher",), "run": POOLS}  # the other commands train only, but for `train` that overlaps
PREVIEWED_SAMPLES = 50


def check(session: Session, command: str) -> list[str]:
    """Lines on what was found. Raises UserError with all mistakes at once."""
    lines, mistakes = [], []
    for name, look in CHECKS[command].items():
        try:
            lines += [f"{name}: {line}" for line in look(session, command)]
        except UserError as mistake:
            mistakes.append(str(mistake))
            if name == "output":
                break  # what lies below it cannot be looked at
    if mistakes:
        raise UserError("\n".join(dict.fromkeys(mistakes)))
    return lines


def teacher_rows(session: Session, name: str) -> dict[str, int]:
    """Rationales that a teacher is to write over all splits, and those that its store holds."""
    experiment = session.experiment
    teacher = experiment.teacher(name)
    splits = [split for split in experiment.prompts.rationale_splits if split in session.questions]
    wanted = sum(session.questions[split].rows for split in splits) * teacher.samples_per_question
    if _is_made_later(experiment, teacher):
        return {"wanted": wanted, "found": 0}
    folder = rationale_store(experiment, name, output_dir=session.dir)
    there = storage.exists(storage.join(folder, "manifest.json"))
    return {"wanted": wanted, "found": sum(len(store.read(folder, split, ["key"])) for split in splits) if there else 0}


def _has_written_all(session: Session, name: str) -> bool:
    """By number alone: a question that was changed since is found by `generate`, before its engine starts."""
    rows = teacher_rows(session, name)
    return not session.experiment.prompts.answer_splits and rows["found"] >= rows["wanted"]


def _output(session: Session, command: str) -> Iterator[str]:
    check_output(session.dir, given=session.experiment.output.dir)
    yield f"{session.dir} can be written"


def _questions(session: Session, command: str) -> Iterator[str]:
    yield ", ".join(f"{file.rows} {split}" for split, file in session.questions.items())


def _splits(session: Session, command: str) -> Iterator[str]:
    for split in ("train", "validation"):
        if split not in session.questions:
            raise UserError(
                f"dataset.splits: the dataset has no {split} split, which training needs; name its file in "
                f"dataset.splits.{split}"
            )
    yield "test is scored once" if "test" in session.questions else "there is no test split, so no test accuracy"


def _teachers(session: Session, command: str) -> Iterator[str]:
    from tinyllm_ray.teachers.engines.registry import make_engine

    experiment = session.experiment
    for teacher in experiment.teachers:
        if teacher.store:
            folder = rationale_store(experiment, teacher.name, output_dir=session.dir)
            yield f"{teacher.name} comes with the store {folder}"
        elif _is_made_later(experiment, teacher):
            yield f"{teacher.name} is made by the first run"
        elif _has_written_all(session, teacher.name):
            yield f"{teacher.name} has written everything, so its engine is not asked"
        else:
            engine = make_engine(
                teacher, pool=experiment.pools.teacher, prompts=experiment.prompts, output_dir=session.dir
            )
            engine.check()
            yield f"{teacher.name} is run by {engine.teacher.engine.type}"


def _judge(session: Session, command: str) -> Iterator[str]:
    from tinyllm_ray.teachers.engines.registry import make_engine
    from tinyllm_ray.teachers.judge import named_as_judge

    experiment, judge = session.experiment, session.experiment.rationales.judge
    if judge is None:
        yield "none"
        return
    load_judge_prompt(judge.prompt)
    try:
        yield f"{judge.by.name} has scored everything in {session.judged}, so its engine is not asked"
    except UserError:  # it has not
        if not _is_made_later(experiment, judge.by):
            pool, prompts = experiment.pools.teacher, experiment.prompts
            with named_as_judge(judge):
                make_engine(judge.by, pool=pool, prompts=prompts, output_dir=session.dir).check()
        yield f"{judge.by.name} will score the rationales, and those below {judge.threshold} are not used"


def _stores(session: Session, command: str) -> Iterator[str]:
    if command == "train" and session.experiment.overlaps:
        yield from _arrivals(session)
        yield from _teachers(session, command)
        return
    yield ", ".join(str(i) for i in session.stores) or "no teacher"


def _arrivals(session: Session) -> Iterator[str]:
    """Where the order of the first epoch comes from, with pools.schedule overlap."""
    given = session.experiment.pools.overlap.arrivals
    if given is None:
        yield "the teachers write while the student trains"
        return
    if Arrivals(given).closed() is None:
        raise UserError(
            f"pools.overlap.arrivals: {given} is no folder of arrivals that are complete (it has no closed.json); name "
            "a folder below output.dir/arrivals of a run that has ended, or leave the key out"
        )
    yield f"the first epoch follows {given}"


def _method(session: Session, command: str) -> Iterator[str]:
    experiment = session.experiment
    method = apply_method(experiment).training.method
    variants = {"run": comparison, "submit": comparison, "ablate": ablation}
    yield ", ".join(variants[command](experiment)) if command in variants else method


def _students(session: Session, command: str) -> Iterator[str]:
    experiment = session.experiment
    names = {experiment.student.model}
    domain = experiment.search.space.get("student.model")
    if command in ("run", "tune") and domain is not None:
        names |= set(domain.choice if isinstance(domain, Choice) else domain.grid if isinstance(domain, Grid) else [])
    for name in sorted(names):
        student = experiment.student.model_copy(update={"model": name})
        yield check_student(student, output_dir=session.dir)
        if student.tokenizer or Path(name).is_dir():
            from tinyllm_ray.student.model import load_tokenizer

            load_tokenizer(student)


def _router(session: Session, command: str) -> Iterator[str]:
    """Where a router may be needed: by the experiment itself, by `ablate`, which walks every mode, or by a search."""
    experiment = session.experiment
    encoder = experiment.rationales.router.encoder
    domain = experiment.search.space.get("rationales.select")
    searched = domain.choice if isinstance(domain, Choice) else domain.grid if isinstance(domain, Grid) else []
    if "router" not in (experiment.rationales.select, *searched) and command != "ablate":
        yield "none"
    elif encoder:
        yield check_model("rationales.router.encoder", encoder)
    else:
        made_here = experiment.student.model in experiment.student.from_scratch
        yield "reads the words of the questions" if made_here else "reads the questions with student.model's encoder"


def _loss(session: Session, command: str) -> Iterator[str]:
    for name, term in session.experiment.loss.custom.items():
        load_outside(term.path, key=f"loss.custom.{name}.path")
    for name, term in session.experiment.loss.custom.items():
        yield f"{name} from outside this package ({term.path}), weight {term.weight:g}"
    if session.experiment.loss.weighting != "fixed":
        yield f"weights vary during training: {session.experiment.loss.weighting}"


def _soft_targets(session: Session, command: str) -> Iterator[str]:
    """The vocabularies of teachers and student, token by token."""
    experiment = session.experiment
    teachers = [teacher for teacher in experiment.teachers if teacher.soft_targets]
    if not teachers:
        return
    from tinyllm_ray.student.model import student_vocabulary
    from tinyllm_ray.teachers.manifest import soft_vocabulary

    student = student_vocabulary(experiment.student, output_dir=session.dir)
    for teacher in teachers:
        if _is_made_later(experiment, teacher):
            yield f"{teacher.name} is compared with the student when the first run has made it"
            continue
        held = soft_vocabulary(experiment, teacher, output_dir=session.dir)
        if student is None:
            how = "the student's tokenizer is trained on the dataset"
        elif isinstance(held, str):
            how = "" if held == vocabulary_digest(student) else "not every token has the same id in both"
        else:
            how = difference(held, student)
        same = meet(teacher, how)
        yield (
            f"{teacher.name} has the student's vocabulary"
            if same
            else (f"{teacher.name} has another vocabulary than the student ({how}), so it is learned from as text")
        )


def _ranks(session: Session, command: str) -> Iterator[str]:
    """Every rank needs questions of each step; the winner of a search is trained on the whole student pool."""
    experiment = session.experiment
    on_pool, of_trial = experiment.pools.student.workers, experiment.search.ranks_per_trial
    wanted = {"train": [on_pool], "ablate": [of_trial]}.get(command, [of_trial, on_pool])
    if "train" in session.questions:
        for ranks in dict.fromkeys(wanted):
            check_ranks(experiment, ranks, rows=session.questions["train"].rows)
    yield ", then ".join(str(ranks) for ranks in dict.fromkeys(wanted))


def _search(session: Session, command: str) -> Iterator[str]:
    experiment = session.experiment
    if command in ("run", "submit") and not experiment.search.space:
        yield "none"
        return
    check_search(experiment)
    samples = draw_samples(experiment.search) if experiment.search.searcher != "optuna" else []
    for overrides in samples[:PREVIEWED_SAMPLES]:
        apply_sample(experiment, overrides)
    yield f"{counted(len(samples) or experiment.search.num_samples, 'trial')} over {', '.join(experiment.search.space)}"


def _tracking(session: Session, command: str) -> Iterator[str]:
    settings = session.experiment.tracking
    uri = tracking_uri(session.experiment, output_dir=session.dir)
    if uri.startswith("http"):
        wait_for_answer(uri, timeout_s=settings.connect_timeout_s)
    yield f"records at {uri}"


def _pools(session: Session, command: str) -> Iterator[str]:
    both = command == "train" and session.experiment.overlaps
    yield from check_capacity(session.experiment, POOLS if both else POOLS_OF.get(command, ("student",)))


def _number_formats(session: Session, command: str) -> Iterator[str]:
    yield from slow_number_formats(session.experiment)


def _is_made_later(experiment: Experiment, teacher: Teacher) -> bool:
    """The miniature's own teachers, before its first run has trained them."""
    folder = storage.join(output_dir(experiment), "miniature")
    made = storage.exists(storage.join(folder, "complete.json"))
    return experiment.dataset.format == "miniature" and not made and (teacher.model or "").startswith(folder)


_FIRST: dict[str, Look] = {"output": _output, "questions": _questions, "number formats": _number_formats}
_TRAINING: dict[str, Look] = {
    "splits": _splits,
    "method": _method,
    "student": _students,
    "router": _router,
    "loss": _loss,
    "soft targets": _soft_targets,
    "ranks": _ranks,
    "tracking": _tracking,
}
CHECKS: dict[str, dict[str, Look]] = {
    "generate": {**_FIRST, "teachers": _teachers, "judge": _judge, "pools": _pools},
    "train": {**_FIRST, **_TRAINING, "stores": _stores, "pools": _pools},
    "ablate": {**_FIRST, **_TRAINING, "stores": _stores, "pools": _pools},
    "tune": {**_FIRST, **_TRAINING, "search": _search, "stores": _stores, "pools": _pools},
    "submit": {"method": _method, "search": _search},  # the rest is known on the cluster only
    "run": {**_FIRST, **_TRAINING, "teachers": _teachers, "judge": _judge, "search": _search, "pools": _pools},
}
