"""The `rationales` section: which of the teachers' rationales the student is trained on."""

from typing import Literal

from pydantic import Field, model_validator

from tinyllm_ray.schema.base import Section, Seed
from tinyllm_ray.schema.teachers import Teacher

NEEDS_OWN_ANSWERS = ("best_teacher", "majority", "agree", "correct", "router")
SELECT_MODES = ("random_one", *NEEDS_OWN_ANSWERS)  # one teacher for each question
GROWN = "first_"  # what the variants are called that choose among the first teachers: first_2_majority


class Router(Section):
    """RouterDC (arXiv 2409.19886)."""

    encoder: str | None = Field(
        None,
        description="folder or hub id of a model whose vectors of the questions the router reads, such as a "
        "sentence-transformers model; null: the encoder of student.model as it is before training, or the words alone "
        "where the student is made from scratch",
    )
    max_tokens: int = Field(256, ge=1, description="tokens of a question that the encoder reads; more are cut off")
    steps: int = Field(1000, ge=0, description="optimizer steps")
    batch_size: int = Field(64, ge=1, description="questions of a step")
    learning_rate: float = Field(5e-5, gt=0, description="AdamW's learning rate")
    best: int = Field(3, ge=1, description="teachers with the highest scores above 0 that a question is drawn to")
    worst: int = Field(3, ge=1, description="teachers with the lowest scores of at most 0.5 that it is drawn away from")


class Judge(Section):
    by: Teacher = Field(description="the model that judges, with the keys of a teacher and a name of its own")
    prompt: str = Field(
        "default",
        description="`default`, or path of a file that asks for a score from 1 to 5 and holds {question} and "
        "{rationale}; it may hold {context}, {choices} and {answer}",
    )
    threshold: int = Field(
        3, ge=1, le=5, description="lowest score of a rationale that is used; one without a score is not used"
    )

    @model_validator(mode="after")
    def _judges_once(self) -> "Judge":
        if self.by.store or self.by.samples_per_question > 1:
            raise ValueError("by: a judge reads each rationale once; leave out store and samples_per_question")
        return self


class Rationales(Section):
    select: Literal["all", "random_one", "best_teacher", "majority", "agree", "correct", "router"] = Field(
        "all",
        description="all: those of every teacher; the others take one teacher for each training question and go, but "
        "for random_one, by the teachers' own answers without teacher forcing (prompts.answer_splits: [train]). "
        "best_teacher: the one that is right most often; majority: one whose answer most teachers give; agree: one, "
        "where all answer the same; correct: one whose answer is right; router: the one that a learned router finds "
        "likeliest to be right on such questions. A question without a teacher keeps its label",
    )
    judge: Judge | None = Field(
        None, description="an LLM that scores the rationales for training; null: none, and nothing is judged"
    )
    router: Router = Field(Router(), description="how the router of `select: router` is trained")
    keep: Literal["all", "correct"] = Field(
        "all",
        description="correct: only rationales that state a right answer themselves; they must be written without "
        "teacher forcing",
    )
    pick: Literal["all", "shortest", "first"] = Field(
        "all", description="of several rationales that a teacher has for a question: all, the shortest or the first"
    )
    per_question: int = Field(1, ge=1, description="how many rationales of a teacher and question `pick` takes at most")
    seed: Seed = Field(0, description="seed of the choice where several teachers are equally good")
