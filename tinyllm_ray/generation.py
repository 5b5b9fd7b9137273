"""The teachers' side of a run: they write before the trainings begin, or, with pools.schedule overlap, meanwhile.

In: a Session. Out: the teachers' reports, and what a training reads while they write.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data.arrivals import Arrivals
from tinyllm_ray.session import Session

if TYPE_CHECKING:
    from tinyllm_ray.tuning.overlap import Overlap
    from tinyllm_ray.tuning.training import Inputs, Training

MANIFEST_POLL_S = 0.2


@contextmanager
def teachers_at_work(session: Session) -> Iterator[Callable[[], dict[str, Any]]]:
    """Gives what returns the teachers' reports: at once where they have written before, else when they have."""
    if not session.experiment.overlaps:
        generated = write_all(session)
        yield lambda: generated
        return
    from tinyllm_ray.tuning.overlap import Overlap

    prepare_miniature(session)
    with Overlap(
        session.experiment,
        output_dir=session.dir,
        questions=session.questions,
        stores=_rationale_folders(session),
        write=None if session.experiment.pools.overlap.arrivals else lambda: write_all(session),
        connect=lambda: session.connect("student"),
    ) as session.overlap:
        _open_records(session, session.overlap)
        session.overlap.wait_for_window()
        try:
            yield session.overlap.result
        except UserError:
            session.overlap.raise_failure()  # the cause, where trainings ended because the teachers did
            raise
        session.tracker.retag(session.store_digests())


def _open_records(session: Session, overlap: "Overlap") -> None:
    """Open the records while the engines start, as soon as the stores have their manifests; it takes some seconds."""
    folders = _rationale_folders(session).values()
    while not all(storage.exists(storage.join(folder, "manifest.json")) for folder in folders):
        overlap.raise_failure()
        time.sleep(MANIFEST_POLL_S)
    assert session.tracker


def _rationale_folders(session: Session) -> dict[str, str]:
    """By teacher, also those that hold nothing yet."""
    from tinyllm_ray.teachers.manifest import rationale_store

    experiment = session.experiment
    return {t.name: rationale_store(experiment, t.name, output_dir=session.dir) for t in experiment.teachers}


def rows_generated(generated: Mapping[str, Any]) -> int:
    return sum(report["generated"] for report in generated.values())


def prepare_miniature(session: Session) -> None:
    """The demo's own teachers are trained before they teach."""
    if session.experiment.dataset.format == "miniature":
        from tinyllm_ray.miniature.models import prepare_teachers

        session.write_config()
        prepare_teachers(session.experiment, output_dir=session.dir)


def write_all(session: Session) -> dict[str, Any]:
    from tinyllm_ray.teachers.pipeline import generate as fill_stores

    prepare_miniature(session)
    reports = fill_stores(
        session.experiment,
        output_dir=session.dir,
        questions=session.questions,
        before_engines=lambda: session.connect("teacher"),
    )
    judge = session.experiment.rationales.judge
    if judge:
        from tinyllm_ray.teachers.judge import judge_rationales

        report, verdicts = judge_rationales(
            session.experiment,
            judge,
            output_dir=session.dir,
            questions=session.questions,
            before_engines=lambda: session.connect("teacher"),
        )
        reports[judge.by.name] = report
        for verdict in verdicts:
            session.say(str(verdict))
    generated = {name: asdict(report) for name, report in reports.items()}
    storage.write_json(storage.join(session.dir, "generation.json"), generated)
    if any(report.generated for report in reports.values()):
        name = f"{digest(generated)}.json"  # of every run that made rows, so that their cost is not forgotten
        storage.write_json(storage.join(session.dir, "generation", name), generated)
    return generated


def hold_back_for(session: Session, trainings: "Mapping[str, Training]") -> None:
    """Where the teachers still write, they are not to be too far ahead of these; how far they are is shown."""
    if session.overlap:
        from tinyllm_ray.tuning.live import foremost

        session.overlap.progress = partial(foremost, trainings)
        session.overlap.log = lambda figures, second: session.tracker.log_live(figures, step=second)


def search_inputs(session: Session) -> "Inputs":
    """What the trials of a search read: the stores when they are whole, or the same finished part of them for all."""
    experiment, overlap = session.experiment, session.overlap
    if overlap is None:
        return session.inputs
    fraction = experiment.search.start_at_fraction
    if fraction is None:
        return when_whole(session)
    train, stores = overlap.finished_part(fraction)
    return replace(session.inputs, overlap=None, questions=session.questions | {"train": train}, stores=stores)


def when_whole(session: Session) -> "Inputs":
    """The stores once the teachers have ended."""
    if session.overlap:
        session.overlap.result()
    return replace(session.inputs, overlap=None)


def what_overlap_brings(session: Session) -> list[str]:
    """Lines for `plan`, from the rates that are given or were measured in the output folder."""
    from tinyllm_ray.tuning.expectation import Rates, expect, measured

    experiment = session.experiment
    rates = Rates(None, None)
    for folder in {uri.rpartition("/parts/")[0] for uri in storage.list_files(f"{session.dir}/arrivals", "/part.json")}:
        rates = measured(Arrivals(folder), output_dir=session.dir)
    return expect(experiment, rates, rows=session.questions["train"].rows)
