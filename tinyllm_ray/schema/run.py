"""How it runs: `search`, `pools`, `tracking` and `output`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tinyllm_ray.schema.base import Name, Section, without_credentials


class Choice(Section):
    choice: list[Any] = Field(min_length=1)


class Grid(Section):
    grid: list[Any] = Field(min_length=1)


class Uniform(Section):
    uniform: tuple[float, float]


class LogUniform(Section):
    loguniform: tuple[Annotated[float, Field(gt=0)], float]


class Search(Section):
    space: dict[str, Choice | Grid | Uniform | LogUniform] = Field(
        default_factory=dict, description="dotted path -> one of choice, grid, uniform, loguniform"
    )
    searcher: Literal["random", "grid", "optuna"] = Field("random", description="grid needs `grid` entries only")
    scheduler: Literal["none", "asha", "hyperband"] = "asha"
    objectives: list[Literal["accuracy", "parameters"]] = Field(
        ["accuracy"], min_length=1, description="two need searcher optuna"
    )
    num_samples: int = Field(8, ge=1, description="trials (times the grid)")
    ranks_per_trial: int = Field(
        1, ge=1, description="DDP ranks of one trial; the winner is trained on the whole student pool"
    )
    by_model: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="overrides that go with a value of student.model"
    )
    rung_metric: Literal["loss", "accuracy"] = Field(
        "loss", description="what a scheduler stops by; the answers' validation loss tells trials apart before accuracy"
    )
    grace_steps: int = Field(100, ge=1, description="steps before a scheduler may stop a trial")
    reduction_factor: int = Field(3, ge=2)
    max_hours: float | None = Field(None, gt=0)
    max_gpu_hours: float | None = Field(None, gt=0)
    patience_trials: int | None = Field(None, ge=1, description="stop when this many trials in a row were no better")
    max_failures: int = Field(1, ge=0, description="restarts of a crashed trial")
    final_seeds: list[int] = Field([0], min_length=1, description="seeds over which the winner is scored on test")
    seed: int = 0


class Pool(Section):
    workers: int = Field(1, ge=1, description="teacher replicas or student ranks")
    min_workers: int | None = Field(None, ge=1, description="student pool: elastic down to this many ranks")
    gpus_per_worker: float = Field(0, ge=0)
    cpus_per_worker: float = Field(1, ge=0)
    memory_gib_per_worker: float = Field(0, ge=0, description="0: not reserved")
    resource: Name | None = Field(None, description="custom resource that marks the pool's nodes, one unit a worker")
    labels: dict[str, str] = Field(
        default_factory=dict, description="label selector, where the cluster's nodes have labels"
    )


class Pools(Section):
    address: str | None = Field(None, description="Ray address; null joins the job's cluster or starts a local one")
    teacher: Pool = Pool(resource="teacher_pool")
    student: Pool = Pool(resource="student_pool")
    schedule: Literal["parallel", "sequential"] = Field(
        "sequential", description="teachers share the pool, or follow one another"
    )
    pending_timeout_s: float = Field(120, gt=0, description="say what a pending worker waits for after this long")


class Tracking(Section):
    uri: str | None = Field(
        None,
        description="MLflow server; null: SQLite under output.dir. Credentials: MLFLOW_TRACKING_USERNAME, _PASSWORD",
    )
    experiment: str | None = Field(None, description="MLflow experiment; null: the experiment's name")
    system_metrics: bool = False
    sync_every_s: float = Field(5, gt=0, description="pause between uploads of the trials' metrics")
    flush_timeout_s: float = Field(300, ge=0, description="at the end, wait this long for a server that is away")
    connect_timeout_s: float = Field(15, gt=0)
    register_champion: bool = Field(True, description="log the winner as a model and register it")

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, uri: str | None) -> str | None:
        return uri and without_credentials(uri, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


class Output(Section):
    dir: str | None = Field(None, description="everything a run makes; null: outputs/<name>")
