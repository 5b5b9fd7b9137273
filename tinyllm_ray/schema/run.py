"""How it runs: `search`, `pools`, `tracking` and `output`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tinyllm_ray.schema.base import OUTSIDE_PATTERN, Name, Section, Seed, Seeds, storage_address


class Choice(Section):
    choice: list[Any] = Field(min_length=1, description="one of these values is drawn for a trial")


class Grid(Section):
    grid: list[Any] = Field(min_length=1, description="each of these values is tried")


class Uniform(Section):
    uniform: tuple[float, float] = Field(description="lowest and highest value, every value between as likely")

    @field_validator("uniform")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        return _lower_first(bounds)


class LogUniform(Section):
    loguniform: tuple[Annotated[float, Field(gt=0)], float] = Field(
        description="lowest and highest value, both above 0, every order of magnitude as likely"
    )

    @field_validator("loguniform")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        return _lower_first(bounds)


def _lower_first(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"{list(bounds)} was given; the lower bound comes first, and they differ")
    return bounds


class Search(Section):
    space: dict[str, Choice | Grid | Uniform | LogUniform] = Field(
        default_factory=dict,
        description="by the dotted path of a key: the values to try, as one of choice, grid, uniform, loguniform",
    )
    searcher: Literal["random", "grid", "optuna", "custom"] = Field(
        "random", description="how values are drawn; grid needs `grid` entries only, custom a `searcher_path`"
    )
    searcher_path: str | None = Field(
        None,
        pattern=OUTSIDE_PATTERN,
        description="searcher custom: `my_package.module:function`; it gets this section and gives the samples in "
        "order, each a mapping of the paths in `space` to values; at most `num_samples` are taken",
    )
    scheduler: Literal["none", "asha", "hyperband"] = Field(
        "asha",
        description="what stops weak trials early; asha stops none before three have reached a rung, and never the two "
        "best of a rung; none trains each to its end",
    )
    objectives: list[Literal["accuracy", "parameters"]] = Field(
        ["accuracy"], min_length=1, description="what is best: accuracy up, parameters down; both need searcher optuna"
    )
    num_samples: int = Field(8, ge=1, description="trials (times the grid)")
    ranks_per_trial: int = Field(
        1, ge=1, description="DDP ranks of one trial; the winner is trained on the whole student pool"
    )
    by_model: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="by a value of student.model: the keys that are set with it, such as training.batch_size",
    )
    rung_metric: Literal["loss", "accuracy"] = Field(
        "loss",
        description="what a scheduler stops by; the answers' validation loss tells trials apart earlier than accuracy",
    )
    grace_steps: int = Field(100, ge=1, description="steps before a scheduler may stop a trial")
    reduction_factor: int = Field(3, ge=2, description="a scheduler lets one trial in this many go on at each rung")
    max_hours: float | None = Field(None, gt=0, description="stop the search after this many hours; null: no limit")
    max_gpu_hours: float | None = Field(
        None, gt=0, description="stop the search after this many GPU hours of all trials together; null: no limit"
    )
    patience_trials: int | None = Field(None, ge=1, description="stop when this many trials in a row were no better")
    max_failures: int = Field(1, ge=0, description="restarts of a crashed trial")
    start_at_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="with pools.schedule overlap: the search starts when this share of the training questions is "
        "ready, and all of its trials train on these alone; null: it starts when the teachers have ended",
    )
    final_seeds: Seeds = Field([0], description="seeds over which the winner is scored on test")
    seed: Seed = Field(0, description="seed of the search's own draws")


class Pool(Section):
    workers: int = Field(1, ge=1, description="teacher replicas or student ranks")
    min_workers: int | None = Field(None, ge=1, description="student pool: elastic down to this many ranks")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of one worker; a fraction shares a GPU")
    cpus_per_worker: float = Field(1, ge=0, description="CPU cores of one worker")
    memory_gib_per_worker: float = Field(0, ge=0, description="GiB of memory reserved for one worker; 0: none")
    resource: Name | None = Field(None, description="custom resource that marks the pool's nodes, one unit a worker")
    labels: dict[str, str] = Field(
        default_factory=dict, description="label selector, where the cluster's nodes have labels"
    )


class TeacherPool(Pool):
    resource: Name | None = Field(
        "teacher_pool", description="custom resource that marks the pool's nodes, one unit a worker; null: any node"
    )


class StudentPool(Pool):
    resource: Name | None = Field(
        "student_pool", description="custom resource that marks the pool's nodes, one unit a worker; null: any node"
    )


class Overlap(Section):
    window_rows: int = Field(
        256,
        ge=1,
        description="questions whose rationales must all be there before training starts; the first epoch is shuffled "
        "through a buffer of as many",
    )
    max_waiting_rows: int = Field(
        16384, ge=1, description="questions that may wait to be trained; while more do, the teachers pause"
    )
    teacher_rate: float | None = Field(
        None,
        gt=0,
        description="questions a second that the teacher pool writes rationales for, for `plan`; null: as measured in "
        "output.dir",
    )
    student_rate: float | None = Field(
        None,
        gt=0,
        description="questions a second that a training reads, for `plan`; null: as measured in output.dir",
    )
    arrivals: str | None = Field(
        None,
        description="folder of a run's recorded order, output.dir/arrivals/..., that is followed again in place of "
        "teachers; null: the order is that of this run",
    )


class Pools(Section):
    address: str | None = Field(None, description="Ray address; null joins the job's cluster or starts a local one")
    teacher: TeacherPool = Field(TeacherPool(), description="the pool of the teachers' replicas")
    student: StudentPool = Field(StudentPool(), description="the pool of the student's DDP ranks")
    schedule: Literal["parallel", "sequential", "overlap"] = Field(
        "sequential",
        description="parallel: the teachers share the pool; sequential: one works after the other; overlap: they share "
        "the pool, and training starts while they write",
    )
    overlap: Overlap = Field(Overlap(), description="what schedule overlap needs to know")
    pending_timeout_s: float = Field(
        120, gt=0, description="seconds after which a run says what a waiting worker waits for"
    )


class Tracking(Section):
    uri: str | None = Field(
        None,
        description="MLflow server; null: SQLite under output.dir. Credentials: MLFLOW_TRACKING_USERNAME, _PASSWORD",
    )
    experiment: str | None = Field(None, description="MLflow experiment; null: the experiment's name")
    system_metrics: bool | None = Field(
        None, description="log the machine's CPU, memory and GPU use to MLflow; null: where the run joins a cluster"
    )
    sync_every_s: float = Field(5, gt=0, description="seconds between two uploads of the trials' metrics")
    flush_timeout_s: float = Field(300, ge=0, description="seconds to wait at the end for a server that is away")
    connect_timeout_s: float = Field(15, gt=0, description="seconds to wait for the server at the start")
    register_champion: bool = Field(True, description="log the winner as a model and register it")


class Output(Section):
    dir: str | None = Field(
        None, description="folder or cloud URI of everything that a run makes; null: outputs/<name>"
    )

    @field_validator("dir")
    @classmethod
    def _known_storage(cls, address: str | None) -> str | None:
        return None if address is None else storage_address(address)
