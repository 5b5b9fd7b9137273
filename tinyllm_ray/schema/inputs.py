"""What goes in: `dataset`, `prompts` and `teachers`."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tinyllm_ray.schema.base import Fraction, Name, Section, TaskName, without_credentials


class Columns(Section):
    id: str | None = Field(None, description="column of the question id; null numbers the rows")
    question: str = Field("question", description="column of the question text")
    choices: str = Field("choices", description="column of the list of choice texts")
    answer: str = Field(
        "answer",
        description="column of the answer: its text, its letter or its position from 0; the name or the number of a "
        "label; for task text a list of accepted answers too",
    )
    context: str | None = Field(
        None, description="column of a passage that the question is about; null: `context`, where a row has it as text"
    )


class Miniature(Section):
    """Sizes of the generated world and of its teachers' schooling (dataset.format: miniature)."""

    seed: int = Field(0, ge=0, description="seed of the world and of its teachers' own training")
    entities: int = Field(120, ge=4, le=2000, description="number of animals")
    kinds: int = Field(10, ge=2, le=24, description="number of kinds; every animal is of one kind")
    attributes: int = Field(8, ge=1, le=8, description="number of habits of a kind that questions ask for")
    values: int = Field(5, ge=4, le=6, description="number of values of a habit, shared by the kinds")
    train: int = Field(300, ge=1, description="number of training questions")
    validation: int = Field(150, ge=1, description="number of validation questions")
    test: int = Field(500, ge=1, description="number of test questions")
    teacher_steps: int = Field(900, ge=1, description="optimizer steps of each teacher's own training")
    teacher_batch_size: int = Field(32, ge=1, description="examples of each such step")


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
    task: TaskName = Field(
        "choice",
        description="kind of question. choice: one of its own choices; label: one of `labels`, the same for all rows; "
        "number: a value or an arithmetic expression; text: a short text, compared after normalization",
    )
    labels: list[str] = Field(
        [], description="task label: the labels, in the order of their numbers where a file numbers them from 0"
    )
    columns: Columns = Field(Columns(), description="names of the file's columns (formats jsonl, json and parquet)")
    max_rejected_fraction: Fraction = Field(
        0.01, description="share of a split's rows that may be bad; more stop the run"
    )
    drop_leaked: bool = Field(
        False, description="leave out of train every question whose text validation or test has too"
    )
    max_rows: int | None = Field(None, ge=1, description="read at most this many rows of each split")
    miniature: Miniature = Field(Miniature(), description="sizes of the generated world (format: miniature)")

    @model_validator(mode="after")
    def _labels_for_labels(self) -> "Dataset":
        if self.task == "label" and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"task is label, so `labels` must name two different labels or more; given: {self.labels}")
        if self.task != "label" and self.labels:
            raise ValueError(f"labels are given, but task is {self.task}; set task to label, or take the labels out")
        return self


class InContext(Section):
    examples: int = Field(2, ge=0, description="solved examples in a teacher's prompt")
    pool: int | None = Field(
        None, ge=1, description="number of example sets that all questions share; null: drawn for each question"
    )


class Prompts(Section):
    template: str = Field("paper", description="name of a packaged template or path of a file that holds {question}")
    in_context: InContext = Field(InContext(), description="the solved examples in a teacher's prompt")
    teacher_forcing: bool = Field(True, description="show the gold answer in the teacher's prompt")
    chat_template: Literal["auto", "always", "never"] = Field(
        "auto", description="the tokenizer's chat template; auto: where it has one"
    )
    rationale_splits: list[Literal["train", "validation", "test"]] = Field(
        ["train", "validation"], description="splits for which the teachers write rationales"
    )
    answer_splits: list[Literal["train", "validation", "test"]] = Field(
        [], description="splits that the teachers also answer without teacher forcing, which scores them"
    )
    seed: int = Field(0, description="seed of the in-context choice")


class Sampling(Section):
    max_tokens: int = Field(128, ge=1, description="new tokens a rationale may have")
    temperature: float = Field(0.0, ge=0, description="0 always takes the likeliest token; higher draws more freely")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens of this total probability")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens that were written less likely")
    stop: list[str] = Field([], description="texts that end a rationale")
    seed: int = Field(0, ge=0, description="seed of the sampling; unused where temperature is 0")


class Endpoint(Section):
    url: str = Field(description="base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    api_key_env: str | None = Field(
        None, description="environment variable that holds the key; the key itself is never written"
    )
    concurrency: int = Field(16, ge=1, description="requests under way at once")
    timeout_s: float = Field(120, gt=0, description="seconds to wait for one answer")
    max_retries: int = Field(5, ge=0, description="tries after the first, with exponential backoff")

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, url: str) -> str:
        return without_credentials(url, "put the key in an environment variable and name it in api_key_env")


def _prefix_of_name(given: dict[str, Any]) -> str:
    return f"{given.get('name', '')}: "


class Teacher(Section):
    name: Name = Field(description="the teacher's name in weights, stores, metrics and overrides")
    model: str | None = Field(None, description="hub id or folder; null only with `store`")
    revision: str | None = Field(None, description="hub revision: a branch, tag or commit; null: the hub's default")
    kind: Literal["auto", "vllm", "seq2seq", "endpoint"] = Field("auto", description="auto reads the model's config")
    adapter: str | None = Field(
        None, description="folder of a LoRA adapter for the model (engines in_process and seq2seq)"
    )
    engine: Literal["auto", "in_process", "ray_data_llm"] = Field(
        "auto", description="vLLM engine; auto: in_process on CPU, ray_data_llm on GPU"
    )
    store: str | None = Field(None, description="folder of existing rationales (holds <split>/); nothing is generated")
    task_prefix: str = Field(
        default_factory=_prefix_of_name,
        description="what the student's input starts with for this teacher's rationale; by default the teacher's name "
        "and `: `; no two teachers share one",
    )
    sampling: Sampling = Field(Sampling(), description="how the teacher's tokens are drawn")
    samples_per_question: int = Field(1, ge=1, description="rationales per question; more than one needs a temperature")
    batch_size: int = Field(256, ge=1, description="prompts handed to the engine at once")
    batch_tokens: int = Field(16384, ge=1, description="seq2seq: padded source tokens of one batch")
    engine_kwargs: dict[str, Any] = Field(default_factory=dict, description="passed to vLLM as they are")
    endpoint: Endpoint | None = Field(None, description="the server that writes the rationales (kind: endpoint)")
    max_attempts: int = Field(2, ge=1, description="tries of a failed row within one run")
    max_failed_fraction: Fraction = Field(
        0.01, description="share of rows that may end without a rationale; more stop the run"
    )
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
