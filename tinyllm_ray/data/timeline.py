"""When both pools worked: what the arrivals and the trainings recorded in, segments and shares of idle time out.

<output_dir>/arrivals/<digest>/timeline.json: {"teachers": [[1767225600.0, 1767225660.0]], "paused": [[..., ...]]}, one
pair for each run that had teachers at work, and one for each pause of all of them; in seconds since 1970.
A training's side is in its folder: the steps of its first epoch, with what it had waited before each, and its metrics.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinyllm_ray import storage

FILE = "timeline.json"
Segment = tuple[float, float]  # from, to; seconds since 1970


@dataclass(frozen=True)
class Timeline:
    teachers: list[Segment]  # at work
    students: list[Segment]  # at steps; those of trainings that ran at once lie over each other
    first_step: float | None

    @property
    def start(self) -> float:
        return min(first for first, _ in [*self.teachers, *self.students])

    @property
    def end(self) -> float:
        return max(last for _, last in [*self.teachers, *self.students])

    @property
    def one_after_the_other_s(self) -> float:
        """What generating and then training would take, by what both sides took here."""
        return covered_s(self.teachers) + covered_s(self.students)

    def idle_share(self, segments: Sequence[Segment]) -> float:
        """Share of the whole time in which a pool was at nothing of this."""
        return 1 - covered_s(segments) / max(self.end - self.start, 1e-9)


def covered_s(segments: Sequence[Segment]) -> float:
    """Seconds that lie in one segment at least."""
    total, reached = 0.0, float("-inf")
    for first, last in sorted(segments):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def without(segments: Sequence[Segment], holes: Sequence[Segment]) -> list[Segment]:
    """What is left of the segments outside of the holes."""
    left = list(segments)
    for start, end in holes:
        cut = [piece for first, last in left for piece in ((first, min(last, start)), (max(first, end), last))]
        left = [(first, last) for first, last in cut if last > first]
    return left


def newest_timeline(output_dir: str) -> Timeline | None:
    """Of the arrivals that were followed last, with all trainings that record a first epoch."""
    recorded = storage.list_files(storage.join(output_dir, "arrivals"), FILE)
    if not recorded:
        return None
    newest = max(recorded, key=storage.modified_s)
    trials = storage.list_files(storage.join(output_dir, "trials"), ".jsonl")
    folders = sorted({uri.partition("/first_epoch/")[0] for uri in trials if "/first_epoch/" in uri})
    return read_timeline(newest.rpartition("/")[0], folders)


def read_timeline(arrivals_folder: str, trial_folders: Sequence[str]) -> Timeline | None:
    """None where the teachers' times were not recorded."""
    uri = storage.join(arrivals_folder, FILE)
    if not storage.exists(uri):
        return None
    recorded = storage.read_json(uri)
    teachers = without([tuple(pair) for pair in recorded["teachers"]], [tuple(pair) for pair in recorded["paused"]])
    steps = [list(_lines(storage.join(folder, "first_epoch"))) for folder in trial_folders]
    students = [
        segment
        for folder, lines in zip(trial_folders, steps, strict=True)
        for segment in _at_steps(lines, list(_lines(storage.join(folder, "metrics"))))
    ]
    first_steps = [lines[0]["time"] / 1000 for lines in steps if lines]
    return Timeline(teachers, students, min(first_steps, default=None))


def _lines(folder: str) -> Iterator[dict[str, Any]]:
    for uri in storage.list_files(folder, ".jsonl"):
        yield from map(json.loads, storage.read_bytes(uri).splitlines())


def _at_steps(first_epoch: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]) -> Iterator[Segment]:
    """From each step of the first epoch to the next, less what was waited for rows; then to the last metric."""
    if not first_epoch:
        return
    for line, after in itertools.pairwise(first_epoch):
        begun, waited_s = line["time"] / 1000, after["waited_s"] - line["waited_s"]
        if waited_s >= 0:  # else the training was started again between the two
            yield begun, max(begun, after["time"] / 1000 - waited_s)
    last = first_epoch[-1]["time"] / 1000
    yield last, max([last, *(row["time"] / 1000 for row in metrics)])
