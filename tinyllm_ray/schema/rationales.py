"""The `rationales` section: which of the teachers' rationales the student is trained on."""

from typing import Literal

from pydantic import Field

from tinyllm_ray.schema.base import Section, Seed

NEEDS_OWN_ANSWERS = ("best_teacher", "majority", "agree", "correct")
SELECT_MODES = ("random_one", *NEEDS_OWN_ANSWERS)  # one teacher for each question


class Rationales(Section):
    select: Literal["all", "random_one", "best_teacher", "majority", "agree", "correct"] = Field(
        "all",
        description="all: those of every teacher; the others take one teacher for each training question and go, but "
        "for random_one, by the teachers' own answers without teacher forcing (prompts.answer_splits: [train]). "
        "best_teacher: the one that is right most often; majority: one whose answer most teachers give; agree: one, "
        "where all answer the same; correct: one whose answer is right. A question without a teacher keeps its label",
    )
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
