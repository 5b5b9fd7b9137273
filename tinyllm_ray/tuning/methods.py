"""Methods as presets of one mechanism: weights, targets and flags of the same experiment.

In: an experiment with `training.method`. Out: the experiment with that method's loss, label source and adapters set.
"""

from tinyllm_ray.config import UserError, digest, validate, with_overrides
from tinyllm_ray.schema import LABEL, Experiment
from tinyllm_ray.schema.base import did_you_mean
from tinyllm_ray.schema.rationales import GROWN, SELECT_MODES
from tinyllm_ray.schema.student import SOFT_TARGET_WEIGHT

LEAVE_OUT = ("majority", "correct")  # ways to choose that leave out rationales of a single teacher
METHODS = (
    "inference",
    "label_only",
    "lora",
    "standard_kd[:teacher]",
    "hard_kd[:teacher]",
    "step_by_step[:teacher]",
    "tinyllm",
    "without:teacher",
    "shuffled_rationales",
)


def apply_method(experiment: Experiment) -> Experiment:
    """Resolve `training.method`; a teacher without a weight in `loss.rationale_weights` has weight 1, and where it has
    soft targets 0.9 of it is theirs.

    Raises UserError for an unknown method or teacher, or a target that no stage makes.
    """
    method, _, given = experiment.training.method.partition(":")
    names = [teacher.name for teacher in experiment.teachers]
    weights = {name: 1.0 for name in names} | experiment.loss.rationale_weights
    none = {name: 0.0 for name in names}
    soft = {teacher.name: SOFT_TARGET_WEIGHT for teacher in experiment.teachers if teacher.soft_targets}
    soft |= experiment.loss.soft_target_weights
    match method:
        case "inference":
            changes = {"training.steps": 0, "loss.rationale_weights": none}
        case "label_only":
            changes = {"loss.rationale_weights": none}
        case "lora":
            adapters = experiment.student.lora.model_dump() if experiment.student.lora else {}
            changes = {"loss.rationale_weights": none, "student.lora": adapters}
        case "standard_kd" | "hard_kd":
            teacher = _answering_teacher(experiment, given)
            changes = {"loss.rationale_weights": none, "training.label_source": f"teacher:{teacher}"}
            soft = {LABEL: SOFT_TARGET_WEIGHT} | soft if method == "standard_kd" else soft | {LABEL: 0.0}
        case "step_by_step":
            teacher = _one_teacher(experiment, given)
            changes = {"loss.rationale_weights": none | {teacher: weights[teacher]}}
        case "without":
            teacher = _one_teacher(experiment, given)
            changes = {"loss.rationale_weights": weights | {teacher: 0.0}}
        case "tinyllm":
            changes = {"loss.rationale_weights": weights}
        case "shuffled_rationales":
            changes = {"loss.rationale_weights": weights, "training.shuffle_rationales": True}
        case _:
            near = did_you_mean(method, [name.partition("[")[0].partition(":")[0] for name in METHODS])
            raise UserError(f"training.method: {method!r} was given{near}; allowed are {', '.join(METHODS)}")
    return with_overrides(experiment, changes | {"loss.soft_target_weights": soft})


def comparison(experiment: Experiment) -> dict[str, Experiment]:
    """Label only, each teacher alone, all teachers: the variants that `run` compares."""
    names = [teacher.name for teacher in experiment.teachers]
    methods = {"label_only": "label_only"}
    if len(names) > 1:
        methods |= {f"only_{name}": f"step_by_step:{name}" for name in names}
    return {
        variant: _with_method(experiment, method) for variant, method in (methods | {"all_teachers": "tinyllm"}).items()
    }


def ablation(experiment: Experiment) -> dict[str, Experiment]:
    """The comparison, all teachers but one, the shuffled control, and where the teachers' own answers are there every
    way to choose one teacher for a question; equal trainings are named once."""
    methods = {f"without_{teacher.name}": f"without:{teacher.name}" for teacher in experiment.teachers}
    methods |= {"shuffled_rationales": "shuffled_rationales"}
    variants = comparison(experiment) | {name: _with_method(experiment, method) for name, method in methods.items()}
    if len(experiment.teachers) > 1 and "train" in experiment.prompts.answer_splits:
        whole = variants["all_teachers"]
        variants |= {f"select_{mode}": with_overrides(whole, {"rationales.select": mode}) for mode in SELECT_MODES}
    first: dict[str, str] = {}
    for name, variant in variants.items():
        differs = [variant.loss.model_dump(), variant.training.shuffle_rationales, variant.rationales.model_dump()]
        first.setdefault(digest(differs), name)
    return {name: variants[name] for name in first.values()}


def growth(experiment: Experiment) -> dict[str, Experiment]:
    """Every way to choose among the first one, two, ... teachers, as `first_2_majority`.

    `agree` is left out, and with one teacher the ways that can only take it. Raises UserError where the teachers' own
    answers are not there.
    """
    if len(experiment.teachers) < 2 or "train" not in experiment.prompts.answer_splits:
        raise UserError(
            "ablate --growing compares ways to choose among teachers by their own answers; it needs two teachers or "
            "more and train in prompts.answer_splits"
        )
    chosen = [mode for mode in SELECT_MODES if mode != "agree"]
    variants = {}
    for count in range(1, len(experiment.teachers) + 1):
        whole = _with_method(_first_teachers(experiment, count), "tinyllm")
        for mode in ["all", *(chosen if count > 1 else [mode for mode in chosen if mode in LEAVE_OUT])]:
            variants[f"{GROWN}{count}_{mode}"] = with_overrides(whole, {"rationales.select": mode})
    return variants


def _first_teachers(experiment: Experiment, count: int) -> Experiment:
    values = experiment.model_dump(mode="json")
    values["teachers"] = values["teachers"][:count]
    kept = {LABEL, *(teacher["name"] for teacher in values["teachers"])}
    for key in ("rationale_weights", "soft_target_weights"):
        values["loss"][key] = {name: weight for name, weight in values["loss"][key].items() if name in kept}
    return validate(values)


def _with_method(experiment: Experiment, method: str) -> Experiment:
    return apply_method(with_overrides(experiment, {"training.method": method}))


def _answering_teacher(experiment: Experiment, given: str) -> str:
    """The teacher whose own answers become the labels, as text or, in standard_kd, with their soft targets too."""
    teacher, method = _one_teacher(experiment, given), experiment.training.method
    if "train" not in experiment.prompts.answer_splits:
        raise UserError(f"training.method {method} needs the teacher's own answers; add train to prompts.answer_splits")
    if method.startswith("standard_kd") and not experiment.teacher(teacher).soft_targets:
        raise UserError(
            f"training.method {method} learns from how likely the teacher holds each answer; set "
            f"teachers.{teacher}.soft_targets, or take hard_kd, which learns from its answers as text"
        )
    return teacher


def _one_teacher(experiment: Experiment, given: str) -> str:
    names = [teacher.name for teacher in experiment.teachers]
    if given in names:
        return given
    if not given and len(names) == 1:
        return names[0]
    method = experiment.training.method.partition(":")[0]
    raise UserError(f"training.method {method} needs one teacher's name, as in {method}:NAME; the teachers are {names}")
