"""What overlap is to bring, for `plan`: the rates of both sides in, sentences out. Pure but for `measured`.

overlap: the teachers write 12 questions/s, a training reads 40: the teachers are the bottleneck
overlap: 4 teacher workers would keep the ranks busy, where 1 is asked for
overlap: writing takes 83 s and a training 25 s, so that overlap saves at most 25 s
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tinyllm_ray import storage
from tinyllm_ray.data.arrivals import Arrivals
from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema.base import counted


@dataclass(frozen=True)
class Rates:
    """Questions a second; None where nobody knows."""

    teachers: float | None
    student: float | None


def measured(arrivals: Arrivals, *, output_dir: str) -> Rates:
    """From what the runs in this output folder have recorded so far."""
    parts = list(arrivals.iterate())
    seconds = parts[-1]["at"] - parts[0]["at"] if parts else 0.0
    written = sum(len(part["rows"]) for part in parts[1:])
    trained, busy_s = 0, 0.0
    for line, after in pairwise(_steps(output_dir)):
        waited_s = after["waited_s"] - line["waited_s"]
        if after["step"] == line["step"] + 1 and waited_s >= 0:
            trained += sum(map(len, line["shards"]))
            busy_s += (after["time"] - line["time"]) / 1000 - waited_s
    return Rates(written / seconds if seconds > 0 else None, trained / busy_s if busy_s > 0 else None)


def expect(experiment: Experiment, rates: Rates, *, rows: int) -> list[str]:
    """`rows`: training questions."""
    given = experiment.pools.overlap
    teachers, student = given.teacher_rate or rates.teachers, given.student_rate or rates.student
    if teachers is None or student is None:
        return [
            "overlap: it saves at most the shorter of writing and training; how long they take is known after a first "
            "run, or from pools.overlap.teacher_rate and pools.overlap.student_rate"
        ]
    slower = "teachers are" if teachers < student else "student is"
    writing, training = rows / teachers, experiment.training.steps * experiment.training.batch_size / student
    workers = experiment.pools.teacher.workers
    enough = math.ceil(workers * student / teachers)
    return [
        f"overlap: the teachers write {teachers:.3g} questions/s, a training reads {student:.3g}: the {slower} the "
        "bottleneck",
        f"overlap: {counted(enough, 'teacher worker')} would keep the ranks busy, where {workers} "
        f"{'is' if workers == 1 else 'are'} asked for",
        f"overlap: writing takes {writing:.0f} s and a training {training:.0f} s, so that overlap saves at most "
        f"{min(writing, training):.0f} s",
    ]


def _steps(output_dir: str) -> Iterator[dict]:
    for uri in storage.list_files(storage.join(output_dir, "trials"), ".jsonl"):
        if "/first_epoch/" in uri:
            yield from map(json.loads, storage.read_bytes(uri).splitlines())
