"""One experiment and its output folder, as the stages share them.

In: an Experiment. Out: its questions, stores, Ray connection and tracker, each made when it is first asked for, once.
"""

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, output_dir, public
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import QuestionFile, describe, prepare_questions
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.schema import Experiment
from tinyllm_ray.terminal.progress import step
from tinyllm_ray.terminal.texts import text_of_records

if TYPE_CHECKING:
    from tinyllm_ray.tuning.overlap import Overlap
    from tinyllm_ray.tuning.training import Inputs


class Session:
    """Use as a context manager: what was opened is closed at its end. `say` gets lines for the user."""

    def __init__(self, experiment: Experiment, *, say: Callable[[str], None]) -> None:
        self.experiment = experiment
        self.dir = output_dir(experiment)
        self.say = say
        self.overlap: Overlap | None = None  # while the teachers write and trainings follow
        self._opened = ExitStack()
        self._pools: set[str] = set()  # those that were compared with the cluster
        self._connecting = threading.Lock()  # teachers in parallel ask at the same time

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(error_type, error, trace)

    @property
    def questions(self) -> dict[str, QuestionFile]:
        """The question file of every split that there is; bad rows are set aside and counted. Raises UserError."""
        if isinstance(self._questions, UserError):
            raise self._questions
        return self._questions

    @functools.cached_property
    def _questions(self) -> dict[str, QuestionFile] | UserError:
        """Mistakes are kept too: who asks again must not wait again for a server that does not answer."""
        try:
            return self._prepare_questions()
        except UserError as mistake:
            return mistake

    def _prepare_questions(self) -> dict[str, QuestionFile]:
        if self.experiment.dataset.format == "miniature":
            from tinyllm_ray.miniature.world import prepare_world

            prepare_world(self.experiment, output_dir=self.dir)
        with step("questions"):
            files = prepare_questions(self.experiment.dataset, output_dir=self.dir)
        for line in describe(files):
            self.say(line)
        return files

    @functools.cached_property
    def stores(self) -> dict[StoreId, str]:
        """Folder of each teacher's rationales, and of its own answers where they are asked for.

        Raises UserError where a teacher has written nothing yet.
        """
        from tinyllm_ray.teachers.manifest import rationale_store

        kinds = [False, True] if self.experiment.prompts.answer_splits else [False]
        ids = [StoreId(teacher.name, answers) for answers in kinds for teacher in self.experiment.teachers]
        folders = {i: rationale_store(self.experiment, i.teacher, output_dir=self.dir, answers=i.answers) for i in ids}
        for i, folder in folders.items():
            if not storage.exists(storage.join(folder, "manifest.json")):
                raise UserError(
                    f"teacher {i.teacher} has no {'answers' if i.answers else 'rationales'} yet; run "
                    f"`tinyllm-ray generate` first, or set teachers.{i.teacher}.store"
                )
        return folders

    @functools.cached_property
    def tracker(self) -> Any:
        """The records of this output folder in MLflow; closed with the session."""
        from tinyllm_ray.tracking.tracker import Tracker

        lineage = self.store_digests()
        lineage |= {f"rationales.{i}": folder for i, folder in self.stores.items()}
        lineage |= {f"teacher.{t.name}.revision": self._revision(t.name) for t in self.experiment.teachers}
        tracker = Tracker(self.experiment, output_dir=self.dir, lineage=lineage)
        files = {split: (file.path, file.digest, file.rows) for split, file in self.questions.items()}
        tracker.log_questions(files, name=self.experiment.dataset.name)
        for uri in storage.list_files(storage.join(self.dir, "generation"), ".json"):
            tracker.log_generation(storage.read_json(uri))
        return self._opened.enter_context(tracker)

    def store_digests(self) -> dict[str, str]:
        """What the stores hold, as tags; while the teachers write, what they hold by now."""
        say = self.say if self.overlap is None else lambda _: None  # stores that grow have changed each time
        return {f"store.{i}": store.content_digest(folder, say=say) for i, folder in self.stores.items()}

    @property
    def inputs(self) -> "Inputs":
        """What every training of this experiment reads."""
        from tinyllm_ray.tuning.training import Inputs

        return Inputs(self.dir, self.questions, self.stores, self.judged, self.overlap)

    @property
    def judged(self) -> str | None:
        """Folder of the judge's scores; None without a judge. Raises UserError where it has written none yet."""
        judge = self.experiment.rationales.judge
        if judge is None:
            return None
        from tinyllm_ray.teachers.judge import judged_folder

        folder = judged_folder(self.experiment, judge, output_dir=self.dir, questions=self.questions)
        if not storage.exists(storage.join(folder, "judged.parquet")):
            raise UserError(
                f"the judge {judge.by.name} has not scored these rationales yet; run `tinyllm-ray generate` first, or "
                "leave rationales.judge out"
            )
        return folder

    def say_where_records_are(self) -> None:
        from tinyllm_ray.tracking.address import tracking_uri

        self.say(text_of_records(tracking_uri(self.experiment, output_dir=self.dir)))

    def flush_tracker(self) -> None:
        """Upload what the tracker still holds; nothing where there was none to ask for."""
        if "tracker" in self.__dict__:
            self.tracker.flush()

    def connect(self, *pools: str) -> None:
        """Join or start Ray, once, for work in the named pools. Raises UserError where they cannot be placed."""
        from tinyllm_ray.cluster import capacity, connect

        with self._connecting:
            if not self._pools:
                self.write_config()
                with step("starting Ray"):
                    connect.connect(self.experiment.pools, log_dir=storage.join(self.dir, "logs"))
                connect.check_visible(self.dir)
                self._opened.callback(capacity.watch_pending(self.experiment.pools, say=self.say))
            new = [name for name in pools if name not in self._pools]
            for line in capacity.check_capacity(self.experiment, new) if new else []:
                self.say(line)
            self._pools.update(new)

    def write_config(self) -> None:
        """The resolved experiment beside its results, without secrets. Refuses a folder that cannot be written."""
        from tinyllm_ray.cluster.connect import check_output

        check_output(self.dir, given=self.experiment.output.dir)
        text = yaml.safe_dump(public(self.experiment), sort_keys=False)
        storage.write_bytes(storage.join(self.dir, "config.yaml"), text.encode())

    def _revision(self, teacher: str) -> str:
        manifest = store.read_manifest(self.stores[StoreId(teacher)])
        return str(manifest["revision"]) if "revision" in manifest else "imported"
