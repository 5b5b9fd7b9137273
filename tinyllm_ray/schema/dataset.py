"""The `dataset` section: which files, which columns of them, and what kind of task they are."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from tinyllm_ray.schema.base import FREE_TASKS, OUTSIDE_PATTERN, Fraction, Name, Section, Seed, TaskName

Split = Literal["train", "validation", "test"]
Paths = str | Annotated[list[str], Field(min_length=1)]
LAYOUTS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("layouts.yaml").read_text("utf-8"))


def task_given(section: dict[str, Any]) -> Any:
    """The task that a section names before it is validated, itself or by its format."""
    named = LAYOUTS.get(section["format"]) if isinstance(section.get("format"), str) else None
    return section.get("task", named["dataset"].get("task") if named else None)


class Columns(Section):
    """Names of the columns. A dot goes into a column (`question.stem`), `a | b` is the first that a row has."""

    id: str | None = Field(None, description="the question's id; null: the column id where there is one, else its row")
    question: str = Field("question", description="the question's text; of NLI the hypothesis")
    context: Paths | None = Field(
        None,
        description="the passage beside the question; of NLI the premise; null: the column `context` if it holds text",
    )
    choices: Paths | None = Field(
        "choices",
        description="a list of texts, {text, label}, [{label, text}], {A: .., B: ..}, any of these as JSON text, or "
        "several columns with a choice each; null: none, or those of dataset.labels",
    )
    distractors: Paths | None = Field(
        None,
        description="the wrong choices where the right one is in `answer` alone; they are put in a fixed mixed order",
    )
    answer: str = Field("answer", description="the right answer")
    answer_is: Literal["text", "letter", "label", "index0", "index1", "value"] | None = Field(
        None,
        description="how `answer` names a choice: its text, its letter from A, the label that it carries, its position "
        "from 0 or from 1; value: a free answer as it is (tasks number and text). null: the one that fits all rows",
    )
    answer_after: str | None = Field(
        None,
        min_length=1,
        description="only what stands after the last of these marks is the answer, such as ####; of a mark that ends "
        "with {, as of LaTeX's boxed, what stands up to its closing brace",
    )
    accepted: str | None = Field(None, description="further right answers, a text or a list (task text)")


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
        "reference",
        "columns",
        "jsonl",
        "json",
        "parquet",
        "csv",
        "tsv",
        "miniature",
        "arc",
        "obqa",
        "commonsenseqa",
        "riddle",
        "piqa",
        "pubmedqa",
        "bioasq",
        "medqa",
        "medmcqa",
        "mmlu",
        "sciq",
        "race",
        "hellaswag",
        "logiqa",
        "socialiqa",
        "winogrande",
        "boolq",
        "gpqa",
        "truthfulqa",
        "anli",
        "esnli",
        "svamp",
        "gsm8k",
    ] = Field(
        "reference",
        description="`reference` reads the TinyLLM repository's files; a dataset's name sets the keys of this section "
        "for that dataset's files; the others read the columns named here, and csv and tsv whatever a file's name is",
    )
    reader: str | None = Field(
        None,
        pattern=OUTSIDE_PATTERN,
        description="`my_package.module:function` for files of another kind: it gets the address of one file and gives "
        "its rows, each a mapping of columns to values; null: the kinds of files that are known",
    )
    task: TaskName = Field(
        "choice",
        description="choice: each question has its own choices; label: one list for all; number: a value or an "
        "arithmetic expression; text: a short free text",
    )
    labels: list[str] = Field(
        default_factory=list,
        description="task label: the labels, in the order of their positions where a file gives positions",
    )
    path: str | None = Field(
        None,
        description="folder that holds the splits' files, or the one file of train; a local path, http(s), hf:// or "
        "cloud URI",
    )
    splits: dict[Split, Paths] = Field(
        default_factory=dict,
        description="file of each split, relative to `path`; a pattern with * or ?, a folder or a list of these means "
        "several files; empty: the format's own names",
    )
    split_from_train: dict[Literal["validation", "test"], Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict,
        description="share of train that becomes a split that has no file, such as {validation: 0.1}",
    )
    split_seed: Seed = Field(0, description="seed of split_from_train")
    where: dict[str, str | int | bool | list[str | int | bool]] = Field(
        default_factory=dict, description="column: value or values; rows that have another one are skipped"
    )
    columns: Columns = Field(Columns(), description="names of the files' columns")
    repeated_ids: Literal["reject", "number"] = Field(
        "reject", description="rows whose id was there before are rejected, or their id gets a number"
    )
    max_rejected_fraction: Fraction = Field(
        0.01, description="share of a split's rows that may be bad; more stop the run"
    )
    drop_leaked: bool = Field(
        False, description="leave out of train every question whose text validation or test has too"
    )
    max_rows: int | None = Field(None, ge=1, description="read at most this many rows of each split")
    miniature: Miniature = Field(Miniature(), description="sizes of the generated world (format: miniature)")

    @property
    def has_free_answers(self) -> bool:
        return self.task in FREE_TASKS

    @model_validator(mode="before")
    @classmethod
    def _with_layout(cls, given: Any) -> Any:
        """A named layout is a section of its own; what is given here goes before it."""
        layout = (
            LAYOUTS.get(given["format"]) if isinstance(given, dict) and isinstance(given.get("format"), str) else None
        )
        if layout is None:
            return given
        columns = given.get("columns", {})
        if not isinstance(columns, dict):
            return given
        return {**layout["dataset"], **given, "columns": {**layout["dataset"]["columns"], **columns}}

    @model_validator(mode="after")
    def _fits_the_task(self) -> "Dataset":
        if self.task == "label" and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"task is label, so `labels` must name two different labels or more; given: {self.labels}")
        if self.task != "label" and self.labels:
            raise ValueError(f"labels are given, but task is {self.task}; set task to label, or take the labels out")
        if self.has_free_answers and self.columns.answer_is not in (None, "value"):
            raise ValueError(
                f"task {self.task} takes columns.answer_is: value; {self.columns.answer_is} is for choices"
            )
        if not self.has_free_answers and self.columns.answer_is == "value":
            raise ValueError(f"columns.answer_is value is for the tasks number and text; task {self.task} has choices")
        if self.labels and self.columns.answer_is == "label":
            raise ValueError(
                "columns.answer_is label looks at the labels of a row's own choices; for `labels` set text"
            )
        if not (self.has_free_answers or self.labels or self.columns.choices or self.columns.distractors):
            raise ValueError("no choices: set columns.choices, columns.distractors or labels")
        taken = sorted(set(self.split_from_train) & set(self.splits))
        if taken:
            raise ValueError(f"splits and split_from_train both name {taken[0]}; take it out of one of them")
        if sum(self.split_from_train.values()) >= 1:
            raise ValueError("split_from_train takes all of train; its shares must sum to less than 1")
        return self
