"""The whole YAML schema: every key of an experiment, its default, its unit and what is allowed.

In: plain dicts from YAML. Out: frozen Pydantic models. `config.py` reads files and overrides into them.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
LABEL_TASK = "label"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_credentials(url: str, instead: str) -> str:
    if re.search(r"://[^/]*@", url):
        raise ValueError(f"the address holds credentials; {instead}")
    return url


class Columns(Section):
    id: str | None = Field(None, description="column of the question id; null numbers the rows")
    question: str = Field("question", description="column of the question text")
    choices: str = Field("choices", description="column of the list of choice texts")
    answer: str = Field("answer", description="column of the answer: its text, its letter or its position from 0")


class Miniature(Section):
    """Sizes of the generated world and of its teachers' schooling (dataset.format: miniature)."""

    seed: int = Field(0, ge=0)
    entities: int = Field(120, ge=4, le=2000, description="animals")
    kinds: int = Field(10, ge=2, le=24, description="an animal is of one kind")
    attributes: int = Field(8, ge=1, le=8, description="habits of a kind that questions ask for")
    values: int = Field(5, ge=4, le=6, description="values of an attribute, shared by the kinds")
    train: int = Field(300, ge=1, description="questions")
    validation: int = Field(150, ge=1, description="questions")
    test: int = Field(500, ge=1, description="questions")
    teacher_steps: int = Field(600, ge=1, description="optimiser steps of each teacher's own training")
    teacher_batch_size: int = Field(32, ge=1, description="lessons per step")


class Dataset(Section):
    name: Name = Field(
        description="names the stores; obqa, arc, piqa, riddle, pubmedqa and bioasq have published numbers"
    )
    format: Literal[
        "reference", "obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq", "jsonl", "json", "parquet", "miniature"
    ] = Field(
        "reference",
        description="`reference` reads the TinyLLM repository's files; a dataset name reads the original's files",
    )
    path: str | None = Field(
        None, description="folder that holds the splits' files; a local path, http(s) or cloud URI"
    )
    splits: dict[Literal["train", "validation", "test"], str] = Field(
        default_factory=dict, description="file of each split, relative to `path`; empty: the format's own names"
    )
    columns: Columns = Columns()
    max_rejected_fraction: Fraction = Field(0.01, description="stop when more of a split's rows than this are bad")
    max_rows: int | None = Field(None, ge=1, description="read at most this many rows of each split")
    miniature: Miniature = Miniature()


class InContext(Section):
    examples: int = Field(2, ge=0, description="solved examples in a teacher's prompt")
    pool: int | None = Field(None, ge=1, description="number of seeded example sets to share; null draws per question")


class Prompts(Section):
    template: str = Field("paper", description="name of a packaged template or path of a file that holds {question}")
    in_context: InContext = InContext()
    teacher_forcing: bool = Field(True, description="show the gold answer in the teacher's prompt")
    chat_template: Literal["auto", "on", "off"] = Field("auto", description="auto: on where the tokenizer has one")
    rationale_splits: list[Literal["train", "validation", "test"]] = Field(
        ["train", "validation"], description="splits for which the teachers write rationales"
    )
    answer_splits: list[Literal["train", "validation", "test"]] = Field(
        [], description="splits that the teachers answer without teacher forcing"
    )
    seed: int = Field(0, description="seed of the in-context choice")


class Sampling(Section):
    max_tokens: int = Field(128, ge=1, description="new tokens a rationale may have")
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    stop: list[str] = Field([], description="texts that end a rationale")
    seed: int = Field(0, ge=0)


class Endpoint(Section):
    url: str = Field(description="base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(
        None, description="environment variable that holds the key; the key itself is never written"
    )
    concurrency: int = Field(16, ge=1, description="requests under way at once")
    timeout_s: float = Field(120, gt=0)
    max_retries: int = Field(5, ge=0, description="tries after the first, with exponential backoff")

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, url: str) -> str:
        return _without_credentials(url, "put the key in an environment variable and name it in api_key_env")


class Teacher(Section):
    name: Name
    model: str | None = Field(None, description="hub id or folder; null only with `store`")
    revision: str | None = Field(None, description="hub revision")
    kind: Literal["auto", "vllm", "seq2seq", "endpoint"] = Field("auto", description="auto reads the model's config")
    adapter: str | None = Field(
        None, description="folder of a LoRA adapter for the model (engines in_process and seq2seq)"
    )
    engine: Literal["auto", "in_process", "ray_data_llm"] = Field(
        "auto", description="vLLM engine; auto: in_process on CPU, ray_data_llm on GPU"
    )
    store: str | None = Field(None, description="folder of existing rationales (holds <split>/); nothing is generated")
    task_prefix: str = Field("rationale: ", description="what the student's input starts with for this teacher's task")
    sampling: Sampling = Sampling()
    samples_per_question: int = Field(1, ge=1, description="rationales per question; more than one needs a temperature")
    batch_size: int = Field(256, ge=1, description="prompts handed to the engine at once")
    batch_tokens: int = Field(8192, ge=1, description="seq2seq: padded source tokens of one batch")
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="passed to vLLM as they are")
    endpoint: Endpoint | None = None
    max_attempts: int = Field(2, ge=1, description="tries of a failed row within one run")
    max_failed_fraction: Fraction = Field(0.01, description="fail the run when more rows than this have no rationale")
    trust_remote_code: bool = Field(False, description="run code that comes with the model; logged when on")

    @model_validator(mode="after")
    def _source(self) -> "Teacher":
        if not self.model and not self.store:
            raise ValueError(f"teacher {self.name!r} has neither `model` nor `store`; give one of them")
        if self.kind == "endpoint" and self.endpoint is None:
            raise ValueError(f"teacher {self.name!r} is of kind endpoint; give `endpoint.url`")
        if self.samples_per_question > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"teacher {self.name!r}: samples_per_question is {self.samples_per_question} and temperature 0, so all "
                "would be equal; set sampling.temperature above 0"
            )
        return self


class FromScratch(Section):
    architecture: Literal["t5", "llama"] = "t5"
    width: int = Field(64, ge=8, description="hidden size")
    layers: int = Field(2, ge=1, description="layers of each stack")
    heads: int = Field(4, ge=1)
    ff_width: int = Field(128, ge=8, description="feed-forward size")
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary_size: int = Field(4096, ge=64, description="at most; the tokenizer is trained on the dataset")


class Lora(Section):
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] | None = Field(None, description="null: peft's choice for the model type")


class Student(Section):
    model: str = Field(description="hub id, folder, or a name under `from_scratch`")
    revision: str | None = None
    tokenizer: str | None = Field(None, description="hub id or folder; null: the model's own")
    from_scratch: dict[Name, FromScratch] = Field(default_factory=dict, description="students made here, by name")
    lora: Lora | None = Field(None, description="train low-rank adapters instead of all weights")
    label_prefix: str = Field("predict: ", description="what the student's input starts with for the label task")
    max_input_tokens: int = Field(512, ge=8)
    max_label_tokens: int = Field(64, ge=1)
    max_rationale_tokens: int = Field(256, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False

    @field_validator("dtype", mode="before")
    @classmethod
    def _no_float16(cls, dtype: Any) -> Any:
        if dtype in ("float16", "fp16", "half"):
            raise ValueError(
                "float16 overflows in T5's feed-forward layers and is not offered; use bfloat16 or float32"
            )
        return dtype


class Loss(Section):
    label_weight: float = Field(1.0, ge=0, description="the paper's gamma")
    rationale_weights: dict[str, float] = Field(
        default_factory=dict, description="by teacher name, 1 where not named; the paper's alpha and beta"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> "Loss":
        bad = {name: weight for name, weight in self.rationale_weights.items() if not weight >= 0}
        if bad:
            raise ValueError(f"rationale_weights {bad} must be numbers of at least 0")
        return self


class UseRationales(Section):
    drop: list[str] = Field([], description="quality flags whose rationales are masked, row by row")


class Training(Section):
    method: str = Field(
        "tinyllm",
        description="inference, label_only, lora, standard_kd[:teacher], step_by_step[:teacher], tinyllm, without:teacher, shuffled_rationales",
    )
    label_source: str = Field("gold", description="`gold`, or `teacher:<name>` for standard knowledge distillation")
    shuffle_rationales: bool = Field(False, description="control: permute each teacher's rationales among questions")
    use_rationales: UseRationales = UseRationales()
    steps: int = Field(1000, ge=0, description="optimiser steps; 0 is inference only")
    batch_size: int = Field(16, ge=1, description="questions per optimiser step over all ranks")
    micro_batch_tokens: int = Field(4096, ge=1, description="padded tokens of one forward pass")
    micro_batch_examples: int = Field(64, ge=1, description="sequences of one forward pass at most")
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    max_gradient_norm: float | None = Field(1.0, gt=0)
    eval_every_steps: int = Field(200, ge=1)
    checkpoint_every_steps: int = Field(200, ge=1)
    log_every_steps: int = Field(10, ge=1)
    gradient_checkpointing: bool = False
    compile: bool = Field(False, description="torch.compile the student")
    max_truncated_fraction: Fraction = Field(
        0.0, description="stop when more inputs than this lose question text or choices"
    )
    max_unknown_fraction: Fraction = Field(
        0.01, description="refuse a store when more of its rows have unknown question ids"
    )


class Evaluation(Section):
    by: Literal["ranking", "generation", "both"] = Field(
        "ranking", description="what `eval/accuracy` is measured by; both: ranking decides"
    )
    batch_size: int = Field(64, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    max_questions: int | None = Field(None, ge=1, description="validation questions scored during training; null: all")
    student_rationales: int = Field(
        20, ge=0, description="test questions for which the student's own rationales are written"
    )


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
        return uri and _without_credentials(uri, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


class Output(Section):
    dir: str | None = Field(None, description="everything a run makes; null: outputs/<name>")


class Experiment(Section):
    name: Name
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    dataset: Dataset
    prompts: Prompts = Prompts()
    teachers: list[Teacher] = []
    student: Student
    loss: Loss = Loss()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    search: Search = Search()
    pools: Pools = Pools()
    tracking: Tracking = Tracking()
    output: Output = Output()

    @model_validator(mode="after")
    def _teachers_agree(self) -> "Experiment":
        names = [teacher.name for teacher in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teachers: two teachers are named {twice[0]!r}; names must differ")
        reserved = {LABEL_TASK, "gold", "all"} & set(names)
        if reserved:
            raise ValueError(f"teachers: the name {reserved.pop()!r} is taken by the label task; choose another")
        unknown = sorted(set(self.loss.rationale_weights) - set(names))
        if unknown:
            raise ValueError(f"loss.rationale_weights: no teacher is named {unknown[0]!r}; the teachers are {names}")
        if self.training.steps and not self.loss.label_weight and not any(self.loss.rationale_weights.values()):
            raise ValueError(
                "loss: all weights are zero; set loss.label_weight or one of loss.rationale_weights above 0"
            )
        return self

    def teacher(self, name: str) -> Teacher:
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher
        raise ValueError(f"no teacher is named {name!r}; the teachers are {[t.name for t in self.teachers]}")
