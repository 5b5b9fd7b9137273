"""Both pools at work: the teachers write in a thread, and what they have written becomes the rows of trainings.

    stores that grow -> parts of arrivals (a thread of the driver) -> features of each part (Ray tasks) -> ranks

In: what lets the teachers write, and their stores. Out: for each training the folder of features that grow; in the end
the teachers' reports. See docs/overlap.md.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pyarrow as pa

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import feature_parts, store
from tinyllm_ray.data.arrivals import Arrivals, Awaited, Collector
from tinyllm_ray.data.pause import pause, resume
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.data.timeline import FILE
from tinyllm_ray.rows import Rationale, from_table
from tinyllm_ray.schema import Experiment
from tinyllm_ray.student.model import prepare_tokenizer
from tinyllm_ray.terminal.progress import Step, step
from tinyllm_ray.tuning.live import Live, Progress

LOOK_S = 0.5
LOOK_AT_TRAININGS_S = 2.0
TASKS_AT_ONCE = 2  # of Ray, that build features


@dataclass
class Growing:
    """Features that are built while the arrivals come."""

    folder: str
    tokenizer: str
    next: int = 0  # part
    tasks: list[Any] = field(default_factory=list)  # of Ray, under way
    closed: bool = False


class Overlap:
    """Use as a context manager: the teachers start with it. Threads may share it."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        output_dir: str,
        questions: Mapping[str, QuestionFile],
        stores: Mapping[str, str],
        write: Callable[[], dict[str, Any]] | None,
        connect: Callable[[], None],
    ) -> None:
        """`stores`: folders by teacher; `write`: what makes the teachers write, None where arrivals were given;
        `connect` joins Ray and is called where features must be built."""
        self.experiment, self.questions, self.output_dir = experiment, questions, output_dir
        given = experiment.pools.overlap.arrivals
        self.arrivals = Arrivals(given or arrivals_folder(experiment, questions, stores, output_dir=output_dir))
        self._write, self._connect = write, connect
        self.collector = None if given else self._collect(stores)
        self._growing: dict[str, Growing] = {}
        self._lock = threading.Lock()
        self._ended, self._leaving = threading.Event(), threading.Event()
        self._reports: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._paused: set[str] = set()
        self._looked_at = 0.0
        self._writes_new = self.collector is not None and self.arrivals.closed() is None
        self._times = self._known_times()
        self.progress: Callable[[], Progress | None] = lambda: None  # of the trainings that follow
        self.log: Callable[[dict[str, float], int], None] = lambda figures, second: None

    def __enter__(self) -> "Overlap":
        for name, work in (("teachers", self._run_teachers), ("arrivals", self._follow)):
            threading.Thread(target=work, name=name, daemon=True).start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        if error_type is not None and not self._ended.is_set():  # else the teachers would be waited for at the exit
            import ray

            ray.shutdown()

    def wait_for_window(self) -> None:
        """Until the first part is there. Raises what ended the teachers before it."""
        while not self.arrivals.there(0):
            self.raise_failure()
            time.sleep(LOOK_S)

    def features(self, experiment: Experiment) -> tuple[str, str]:
        """Tokenizer and features of a training; the parts that there are and that come are built from now on."""
        stores = self.arrivals.stores(0, [teacher.name for teacher in experiment.teachers])
        tokenizer = prepare_tokenizer(experiment, questions=self.questions, stores=stores, output_dir=self.output_dir)
        folder = feature_parts.plan_parts(
            experiment,
            questions=self.questions,
            arrivals=self.arrivals,
            tokenizer_folder=tokenizer,
            output_dir=self.output_dir,
        )
        with self._lock:
            if folder not in self._growing:
                feature_parts.allow_parts(folder)
                self._growing[folder] = Growing(folder, tokenizer)
        return tokenizer, folder

    def result(self) -> dict[str, Any]:
        """The teachers' reports, once they have ended. Raises what they raised."""
        self._ended.wait()
        self.raise_failure()
        return self._reports

    def finished_part(self, fraction: float) -> tuple[QuestionFile, dict[StoreId, str]]:
        """Training questions and stores of the first parts that hold this share of the rows, once they are there."""
        rows = math.ceil(fraction * self.questions["train"].rows)
        teachers = [teacher.name for teacher in self.experiment.teachers]
        while (found := finished_part(self.arrivals, teachers, rows=rows)) is None:
            self.raise_failure()
            time.sleep(LOOK_S)
        return found

    def _collect(self, stores: Mapping[str, str]) -> Collector:
        teachers = {teacher.name: teacher for teacher in self.experiment.teachers}
        awaited = {
            name: Awaited(folder, teachers[name].samples_per_question, grows=teachers[name].store is None)
            for name, folder in stores.items()
        }
        return Collector(
            self.arrivals,
            self.questions["train"],
            awaited,
            window_rows=self.experiment.pools.overlap.window_rows,
            rows=self.experiment.training.batch_size,
        )

    def raise_failure(self) -> None:
        """Raise what ended the teachers, or the work on what they wrote; nothing where all went well."""
        if self._error is not None:
            raise self._error

    def _run_teachers(self) -> None:
        try:
            self._reports = self._write() if self._write else {}
        except BaseException as error:  # noqa: BLE001 - whoever waits for the teachers raises it
            self._error = error
        self._ended.set()

    def _follow(self) -> None:
        """Look at the stores and build features until the context ends; show both pools while both have work."""
        rows = self.questions["train"].rows
        try:
            if self._writes_new:
                with step("both pools", total=rows, unit="rows") as bar:
                    live, through = Live(rows=rows), False
                    while not through and not self._leaving.wait(LOOK_S):
                        self._step()
                        through = self._look(live, bar)
            while not self._leaving.wait(LOOK_S):
                self._step()
        except BaseException as error:  # noqa: BLE001 - as above
            self._error = self._error or error
            self._stop()

    def _step(self) -> None:
        ended = self._ended.is_set()  # before the last look at the stores
        if self.collector:
            self.collector.poll()
            if ended and self._error is None:
                self.collector.close()
        with self._lock:
            growing = list(self._growing.values())
        for features in growing:
            self._build(features)
        if ended and self._error is not None:
            self._stop()

    def _build(self, features: Growing) -> None:
        """Start tasks for parts that have no features yet, and close where all are there."""
        import ray

        if features.tasks:  # asked for nothing, Ray would start another one
            done, features.tasks = ray.wait(features.tasks, num_returns=len(features.tasks), timeout=0)
            ray.get(done)
        while len(features.tasks) < TASKS_AT_ONCE and self.arrivals.there(features.next):
            if not feature_parts.is_built(features.folder, features.next):
                self._connect()
                build = ray.remote(num_cpus=0, max_retries=3)(feature_parts.build_part)
                task = build.remote(features.folder, self.arrivals.folder, features.next, features.tokenizer)
                features.tasks.append(task)
            features.next += 1
        closed = self.arrivals.closed()
        if closed and features.next == closed["parts"] and not features.tasks and not features.closed:
            feature_parts.close_parts(features.folder, self.arrivals)
            features.closed = True

    def _stop(self) -> None:
        """Nothing more comes: who waits for a row is told why."""
        message = (
            str(self._error) if isinstance(self._error, UserError) else f"{type(self._error).__name__}: {self._error}"
        )
        for features in self._growing.values():
            feature_parts.stop_parts(features.folder, message)
        self._leaving.set()

    def _look(self, live: Live, bar: Step) -> bool:
        """At the trainings, which is not for free: now and then. Whether all is written and trained."""
        if self.collector is None or time.monotonic() - self._looked_at < LOOK_AT_TRAININGS_S:
            return False
        self._looked_at = time.monotonic()
        progress = self.progress()
        self.hold_back(self.collector, progress)
        counts, ended = self.collector.counts, self._ended.is_set()
        resting = ended or not self._working() - self._paused
        note = live.look(
            counts, ready=self.collector.written, tokens=self.collector.tokens, resting=resting, progress=progress
        )
        bar.set(live.trained, note=note)
        self.log(live.figures, int(time.monotonic() - live.began))
        self._keep_times(resting)
        return ended and (live.trained >= self.collector.written or bool(progress and progress.ended))

    def hold_back(self, collector: Collector, progress: Progress | None) -> None:
        """Pause who is too far ahead of the foremost training; the slowest teacher only if whole rows wait."""
        working = {name: collector.counts[name] for name in self._working()}
        ahead: set[str] = set()
        if progress and not progress.ended and not self._ended.is_set():
            most = progress.rows + self.experiment.pools.overlap.max_waiting_rows
            ahead = {name for name, count in working.items() if count > most}
            if working and collector.written <= most:
                ahead.discard(min(working, key=lambda name: working[name]))
        for name in self._paused - ahead:
            resume(storage.join(self.output_dir, "pending", name))
        for name in ahead:
            pause(storage.join(self.output_dir, "pending", name))
        self._paused = ahead

    def _working(self) -> set[str]:
        """Teachers that have rows to write."""
        assert self.collector
        rows, at = self.questions["train"].rows, self.collector.stores
        return {name for name, count in self.collector.counts.items() if at[name].grows and count < rows}

    def _known_times(self) -> dict[str, list[list[float]]]:
        """Those of earlier runs, and the beginning of this one."""
        uri = storage.join(self.arrivals.folder, FILE)
        known = storage.read_json(uri) if storage.exists(uri) else {"teachers": [], "paused": []}
        return {**known, "teachers": [*known["teachers"], [time.time(), time.time()]]}

    def _keep_times(self, resting: bool) -> None:
        """Write down until when the teachers have worked, and their pauses; see timeline.py."""
        now, pauses = time.time(), self._times["paused"]
        if self._writes_new and not self._ended.is_set():
            self._times["teachers"][-1][1] = now
            if resting and pauses and now - pauses[-1][1] < 2 * LOOK_AT_TRAININGS_S:
                pauses[-1][1] = now
            elif resting:
                pauses.append([now, now])
            storage.write_json(storage.join(self.arrivals.folder, FILE), self._times)


def arrivals_folder(
    experiment: Experiment, questions: Mapping[str, QuestionFile], stores: Mapping[str, str], *, output_dir: str
) -> str:
    """Other questions, stores or windows have arrivals of their own."""
    teachers = {
        teacher.name: stores[teacher.name].rpartition("/")[2]
        if teacher.store is None
        else digest(store.read_manifest(stores[teacher.name]))
        for teacher in experiment.teachers
    }
    samples = {teacher.name: teacher.samples_per_question for teacher in experiment.teachers}
    key = [questions["train"].digest, teachers, samples, experiment.pools.overlap.window_rows]
    return storage.join(output_dir, "arrivals", digest(key))


def finished_part(
    arrivals: Arrivals, teachers: Sequence[str], *, rows: int
) -> tuple[QuestionFile, dict[StoreId, str]] | None:
    """Questions and stores of the first parts that hold so many rows, or of all; None while they are not there."""
    parts = held = 0
    for part in arrivals.iterate():
        parts, held = parts + 1, held + len(part["rows"])
        if held >= rows:
            break
    if held < rows and not arrivals.closed():
        return None
    folder = storage.join(arrivals.folder, "finished", f"{parts:06d}")
    file = QuestionFile(storage.join(folder, "questions.parquet"), held, 0, "", digest([folder]))
    stores = {StoreId(name): storage.join(folder, "stores", name) for name in teachers}
    for i, own in stores.items():
        store.open_store(own, store.read_manifest(arrivals.stores(0, teachers)[i]))
        for number in range(parts):
            store.append(own, "train", from_table(store.read(arrivals.stores(number, teachers)[i], "train"), Rationale))
    tables = [storage.read_table(arrivals.questions_path(number)) for number in range(parts)]
    storage.write_table(file.path, pa.concat_tables(tables))
    return file, stores
