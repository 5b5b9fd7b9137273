"""A training: what is wanted (a specification), resolved once to the trial that does it.

In: an experiment whose method and sample are applied, a seed, and what every training of a run reads.
Out: a Training, whose trial holds values only; its folder <output_dir>/trials/<key>/ is its whole state.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tinyllm_ray import storage
from tinyllm_ray.config import digest, public, with_overrides
from tinyllm_ray.data.arrivals import Arrivals
from tinyllm_ray.data.feature_parts import can_follow
from tinyllm_ray.data.features import build_features
from tinyllm_ray.data.gguf import is_gguf, unpack
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.routing.prepare import prepare_router
from tinyllm_ray.schema import Experiment
from tinyllm_ray.student.checks import with_shards
from tinyllm_ray.student.model import prepare_tokenizer
from tinyllm_ray.student.records import read_whole
from tinyllm_ray.student.train import Trial, read_result

RESULT, STOPPED, FAILURE = "result.json", "stopped.json", "failure.json"


class AtWork(Protocol):
    """Teachers that still write; overlap.py has the one class that is."""

    arrivals: Arrivals

    def features(self, experiment: Experiment) -> tuple[str, str]:
        """Tokenizer and features that grow."""

    def result(self) -> dict[str, Any]:
        """Wait until all is written."""


@dataclass(frozen=True)
class Inputs:
    """What every training of a run reads."""

    output_dir: str
    questions: dict[str, QuestionFile]  # by split
    stores: dict[StoreId, str]  # folders
    judged: str | None = None  # folder of the judge's scores, where there is a judge
    overlap: AtWork | None = None


@dataclass(frozen=True)
class TrainingSpec:
    """A training that is wanted, with the name it has in tables and in MLflow."""

    variant: str
    experiment: Experiment
    seed: int
    ranks: int
    score_test: bool
    overrides: dict[str, Any] = field(default_factory=dict)  # what a search sampled


@dataclass(frozen=True)
class Training:
    """A specification and the trial that it was resolved to."""

    spec: TrainingSpec
    trial: Trial
    arrivals: str | None = None  # folder of the order that its first epoch follows; see data/arrivals.py

    @property
    def name(self) -> str:
        """`only_north seed 0`; a trial of a search is named by what was sampled: `search lw=0.3 north=1 base`."""
        if self.spec.variant == "search":
            return " ".join(["search", *(_sampled(key, value) for key, value in self.spec.overrides.items())])
        return f"{self.spec.variant} seed {self.spec.seed}"

    def done(self) -> bool:
        """Whether nothing is left to do: it has its result, or the scheduler of its search stopped it."""
        scheduled = self.spec.variant == "search" and self.spec.experiment.search.scheduler != "none"
        stopped = scheduled and storage.exists(storage.join(self.trial.dir, STOPPED))
        return stopped or read_result(self.trial.dir) is not None

    def end(self) -> dict[str, Any] | None:
        """Its result, where a scheduler stopped it, or its failure; None while it is under way."""
        for name in (RESULT, STOPPED, FAILURE):
            found = read_whole(storage.join(self.trial.dir, name), dict)
            if found is not None:
                return found
        return None


def _sampled(key: str, value: Any) -> str:
    if key == "student.model":
        return str(value).rpartition("/")[2]
    name = "lw" if key == "loss.label_weight" else key.removeprefix("loss.rationale_weights.").rpartition(".")[2]
    return f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"


def resolve(spec: TrainingSpec, inputs: Inputs) -> Training:
    """Make tokenizer, router and features (unless they are there) and write the trial down in its folder.

    Equal settings and data have an equal key on every machine.
    """
    experiment = _with_folder(with_shards(spec.experiment, spec.ranks), output_dir=inputs.output_dir)
    tokenizer, features = _read(experiment, inputs)
    matters = experiment.model_dump(mode="json", include={"student", "loss", "training", "evaluation"})
    del matters["training"]["keep_checkpoints"]  # it changes no result
    if is_gguf(spec.experiment.student.model):
        matters["student"]["model"] = Path(experiment.student.model).name  # holds the digest of the file
    key = f"{spec.variant}-seed{spec.seed}-{digest([matters, features.rpartition('/')[2], spec.score_test])}"
    trial = Trial(
        key=key,
        experiment=experiment.model_dump(mode="json"),
        seed=spec.seed,
        features=features,
        tokenizer=tokenizer,
        questions={split: file.path for split, file in inputs.questions.items()},
        dir=_folder(inputs.output_dir, key),
        score_test=spec.score_test,
    )
    storage.write_json(storage.join(trial.dir, "trial.json"), asdict(trial) | {"experiment": public(experiment)})
    followed = inputs.overlap.arrivals.folder if inputs.overlap and can_follow(experiment) else None
    return Training(spec, trial, followed)


def _read(experiment: Experiment, inputs: Inputs) -> tuple[str, str]:
    """The folders of the tokenizer and of the features, which grow where the teachers still write."""
    if inputs.overlap and can_follow(experiment):
        return inputs.overlap.features(experiment)
    if inputs.overlap:
        inputs.overlap.result()  # the stores are whole then
    questions, stores, output_dir = inputs.questions, inputs.stores, inputs.output_dir
    tokenizer = prepare_tokenizer(experiment, questions=questions, stores=stores, output_dir=output_dir)
    router = prepare_router(
        experiment, questions=questions, stores=stores, tokenizer_folder=tokenizer, output_dir=output_dir
    )
    features = build_features(
        experiment,
        questions=questions,
        stores=stores,
        tokenizer_folder=tokenizer,
        output_dir=output_dir,
        router=router,
        judged=inputs.judged,
    )
    return tokenizer, features


def _with_folder(experiment: Experiment, *, output_dir: str) -> Experiment:
    """A student in a .gguf file is unpacked; every other one stays what it is."""
    model = experiment.student.model
    if not is_gguf(model):
        return experiment
    return with_overrides(experiment, {"student.model": unpack(model, key="student.model", output_dir=output_dir)})


def read_trial(output_dir: str, key: str) -> Trial:
    """What `resolve` wrote down."""
    return Trial(**storage.read_json(storage.join(_folder(output_dir, key), "trial.json")))


def results(trainings: Mapping[str, Training]) -> dict[tuple[str, int], dict[str, Any]]:
    """The ends that there are, by variant and seed."""
    ends = {(t.spec.variant, t.spec.seed): t.end() for t in trainings.values()}
    return {name: end for name, end in ends.items() if end}


def _folder(output_dir: str, key: str) -> str:
    return storage.join(output_dir, "trials", key)
