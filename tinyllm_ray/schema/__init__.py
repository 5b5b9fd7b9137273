"""The whole YAML schema: every key of an experiment, its default, its unit and what is allowed.

In: plain dicts from YAML. Out: frozen Pydantic models. `config.py` reads files and overrides into them.
"""

from typing import Any

from pydantic import Field, model_validator

from tinyllm_ray.schema.base import (
    FREE_TASKS,
    LABEL,
    Fraction,
    Name,
    Section,
    Seed,
    Seeds,
    TaskName,
    UserError,
    did_you_mean,
)
from tinyllm_ray.schema.dataset import LAYOUTS, Columns, Dataset, Miniature, task_given
from tinyllm_ray.schema.engines import (
    AutoSettings,
    CustomSettings,
    EndpointSettings,
    EngineSettings,
    RayDataLlmSettings,
    Seq2SeqSettings,
    VllmSettings,
)
from tinyllm_ray.schema.rationales import NEEDS_OWN_ANSWERS, Judge, Rationales, Router
from tinyllm_ray.schema.run import (
    Choice,
    Grid,
    LogUniform,
    Output,
    Pool,
    Pools,
    Search,
    StudentPool,
    TeacherPool,
    Tracking,
    Uniform,
)
from tinyllm_ray.schema.student import CustomTerm, Evaluation, FromScratch, Lora, Loss, Student, Training, UseRationales
from tinyllm_ray.schema.teachers import InContext, Prompts, Sampling, SoftTargets, Teacher

__all__ = [
    "LABEL",
    "LAYOUTS",
    "AutoSettings",
    "Choice",
    "Columns",
    "CustomSettings",
    "CustomTerm",
    "Dataset",
    "EndpointSettings",
    "EngineSettings",
    "Evaluation",
    "Experiment",
    "Fraction",
    "FromScratch",
    "Grid",
    "InContext",
    "Judge",
    "LogUniform",
    "Lora",
    "Loss",
    "Miniature",
    "Name",
    "Output",
    "Pool",
    "Pools",
    "Prompts",
    "Rationales",
    "RayDataLlmSettings",
    "Router",
    "Sampling",
    "Search",
    "Section",
    "Seed",
    "Seq2SeqSettings",
    "SoftTargets",
    "Student",
    "StudentPool",
    "TaskName",
    "Teacher",
    "TeacherPool",
    "Tracking",
    "Training",
    "Uniform",
    "UseRationales",
    "VllmSettings",
]


class Experiment(Section):
    name: Name = Field(description="names the output folder and the MLflow experiment")
    seeds: Seeds = Field([0], description="seeds of the training; each method is trained once for each seed")
    dataset: Dataset = Field(description="where the questions come from")
    prompts: Prompts = Field(Prompts(), description="what a teacher is shown")
    teachers: list[Teacher] = Field([], description="the models that write rationales, each with a name of its own")
    student: Student = Field(description="the small model that is trained")
    loss: Loss = Field(Loss(), description="weights of the components of the training loss")
    rationales: Rationales = Field(Rationales(), description="which rationales the student is trained on")
    training: Training = Field(Training(), description="one training: method, length, optimizer")
    evaluation: Evaluation = Field(Evaluation(), description="how a trained student is scored")
    search: Search = Field(Search(), description="the search for weights, sizes and any other key")
    pools: Pools = Field(Pools(), description="which nodes and devices the teachers and the student get")
    tracking: Tracking = Field(Tracking(), description="where MLflow keeps parameters, metrics and models")
    output: Output = Field(Output(), description="where everything that a run makes is written")

    @model_validator(mode="after")
    def _teachers_agree(self) -> "Experiment":
        names = [teacher.name for teacher in self.teachers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teachers: two teachers are named {twice[0]!r}; names must differ")
        reserved = {LABEL, "gold", "all"} & set(names)
        if reserved:
            raise ValueError(f"teachers: the name {reserved.pop()!r} is taken by the label task; choose another")
        unknown = sorted(set(self.loss.rationale_weights) - set(names))
        if unknown:
            raise ValueError(f"loss.rationale_weights: no teacher is named {unknown[0]!r}; the teachers are {names}")
        for name, term in self.loss.custom.items():
            if name in {LABEL, *names}:
                raise ValueError(f"loss.custom: {name!r} is the name of a component; choose another")
            strange = sorted(set(term.components or ()) - {LABEL, *names})
            if strange:
                raise ValueError(
                    f"loss.custom.{name}.components: there is no component {strange[0]!r}; there is {[LABEL, *names]}"
                )
        elsewhere = any(term.weight and term.components for term in self.loss.custom.values())
        weights = [self.loss.label_weight, *(self.loss.rationale_weights.get(name, 1) for name in names)]
        if self.training.steps and not any(weights) and not elsewhere:
            raise ValueError(
                "loss: all weights are zero; set loss.label_weight or one of loss.rationale_weights above 0"
            )
        return self

    @model_validator(mode="after")
    def _soft_targets_are_kept(self) -> "Experiment":
        """A weight of soft targets wants a teacher that keeps them; the label's come from the teacher that answers."""
        kept = [teacher.name for teacher in self.teachers if teacher.soft_targets]
        answering = self.training.label_source.removeprefix("teacher:")
        if kept and self.loss.weighting != "fixed":
            raise ValueError(
                f"loss.weighting: {self.loss.weighting} weighs components, and a teacher with soft_targets has two "
                f"terms ({', '.join(kept)}); set loss.weighting to fixed, or leave soft_targets out"
            )
        for name, weight in self.loss.soft_target_weights.items():
            teacher = answering if name == LABEL else name
            if weight and teacher not in kept:
                raise ValueError(
                    f"loss.soft_target_weights.{name} is {weight:g}, but {teacher!r} is no teacher with soft_targets; "
                    f"set teachers.NAME.soft_targets, or the weight to 0. Teachers with soft targets: {kept}"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _free_answers_are_generated(cls, given: Any) -> Any:
        """Without choices there is nothing to rank, so the default of `evaluation.by` follows from the task."""
        if not isinstance(given, dict):
            return given
        dataset, evaluation = given.get("dataset"), given.get("evaluation") or {}
        if isinstance(dataset, dict) and task_given(dataset) in FREE_TASKS and isinstance(evaluation, dict):
            return {**given, "evaluation": {"by": "generation", **evaluation}}
        return given

    @model_validator(mode="after")
    def _scored_as_its_task_can_be(self) -> "Experiment":
        if self.dataset.task in FREE_TASKS and self.evaluation.by != "generation":
            raise ValueError(
                f"evaluation.by: {self.evaluation.by!r} needs choices, which dataset.task {self.dataset.task} has not; "
                "set evaluation.by to generation, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _rationales_can_be_chosen(self) -> "Experiment":
        """With the answer shown, what a teacher states says nothing about what it knows."""
        chosen, prompts = self.rationales, self.prompts
        if chosen.judge and chosen.judge.by.name in [teacher.name for teacher in self.teachers]:
            raise ValueError(f"rationales.judge.by.name: {chosen.judge.by.name!r} is a teacher's name; choose another")
        if chosen.select in NEEDS_OWN_ANSWERS and "train" not in prompts.answer_splits:
            raise ValueError(
                f"rationales.select: {chosen.select} needs the teachers' own answers; add train to "
                "prompts.answer_splits"
            )
        if chosen.keep == "correct" and prompts.teacher_forcing and self.working_teachers:
            raise ValueError(
                "rationales.keep: correct needs rationales that were written without the answer; set "
                "prompts.teacher_forcing to false"
            )
        return self

    @model_validator(mode="after")
    def _prefixes_differ(self) -> "Experiment":
        """Two components with one prefix would give the student one input with two targets."""
        taken = {" ".join(self.student.label_prefix.split()): "student.label_prefix"}
        for teacher in self.teachers:
            prefix, key = " ".join(teacher.task_prefix.split()), f"teachers.{teacher.name}.task_prefix"
            if prefix in taken:
                raise ValueError(
                    f"{key}: {teacher.task_prefix!r} is {taken[prefix]} too, so the student would see one input with "
                    f"two targets; give {key} a text of its own, such as '{teacher.name}: '"
                )
            taken[prefix] = key
        return self

    @property
    def overlaps(self) -> bool:
        """Whether trainings of `run` and `train` follow teachers at work, or the recorded order of such a run.

        A judge reads all that they have written, so with one nothing is trained before.
        """
        pools, judge = self.pools, self.rationales.judge
        return pools.schedule == "overlap" and not judge and bool(self.working_teachers or pools.overlap.arrivals)

    @property
    def working_teachers(self) -> list[Teacher]:
        """Those that write their rationales here; the others come with a store."""
        return [teacher for teacher in self.teachers if teacher.store is None]

    def teacher(self, name: str) -> Teacher:
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher
        names = [teacher.name for teacher in self.teachers]
        raise UserError(f"no teacher is named {name!r}{did_you_mean(name, names)}; the teachers are {names}")
