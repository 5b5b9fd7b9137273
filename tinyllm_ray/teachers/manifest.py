"""What makes a rationale, as a readable dictionary; its digest names the store and counts in every row's key."""

from pathlib import Path
from typing import Any

from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data.prompts import load_template
from tinyllm_ray.data.store import read_manifest, store_folder
from tinyllm_ray.data.vocabulary import vocabulary_digest
from tinyllm_ray.schema import Experiment, Teacher
from tinyllm_ray.teachers.engines.registry import make_engine
from tinyllm_ray.teachers.engines.soft import teacher_vocabulary
from tinyllm_ray.teachers.examples import read_rationales


def rationale_store(experiment: Experiment, teacher_name: str, *, output_dir: str, answers: bool = False) -> str:
    """Folder of a teacher's rationales, or of its own answers (no teacher forcing)."""
    teacher = experiment.teacher(teacher_name)
    if teacher.store:
        return given_store(teacher, dataset=experiment.dataset.name)
    return store_folder(output_dir, store_manifest(experiment, teacher, output_dir=output_dir, answers=answers))


def store_manifest(
    experiment: Experiment, teacher: Teacher, *, output_dir: str, answers: bool = False
) -> dict[str, Any]:
    """The parts of a store's key. In-context examples count by their rule, not by the rows that were drawn."""
    prompts = experiment.prompts
    file_rationales = read_rationales(prompts)
    engine = make_engine(teacher, pool=experiment.pools.teacher, prompts=prompts, output_dir=output_dir)
    return {
        "dataset": experiment.dataset.name,
        "task": experiment.dataset.task,
        "teacher": teacher.name,
        **engine.key(),
        "template": digest(load_template(prompts.template)),
        "teacher_forcing": prompts.teacher_forcing and not answers,
        "chat_template": prompts.chat_template,
        "in_context": prompts.in_context.model_dump() | {"rationales": prompts.in_context.rationales.partition(":")[0]},
        "in_context_rationales": digest(file_rationales) if file_rationales else None,
        "prompt_seed": prompts.seed,
        "system_prompt": teacher.system_prompt,
        "chat_template_kwargs": teacher.chat_template_kwargs,
        "reasoning": teacher.reasoning,
        "sampling": engine.teacher.sampling.model_dump(),
        **_soft_targets(engine.teacher),
    }


def _soft_targets(teacher: Teacher) -> dict[str, Any]:
    """A key of its own, so that stores without soft targets keep their names."""
    if not teacher.soft_targets:
        return {}
    vocabulary = vocabulary_digest(teacher_vocabulary(teacher)) if teacher.model else ""
    return {"soft_targets": {"top_k": teacher.soft_targets.top_k, "vocabulary": vocabulary}}


def soft_vocabulary(experiment: Experiment, teacher: Teacher, *, output_dir: str) -> dict[str, int] | str:
    """Token -> id of a teacher with soft targets; of one that comes with a store, the digest that the store holds."""
    if teacher.store:
        held = read_manifest(given_store(teacher, dataset=experiment.dataset.name)).get("soft_targets") or {}
        return str(held.get("vocabulary", ""))
    engine = make_engine(teacher, pool=experiment.pools.teacher, prompts=experiment.prompts, output_dir=output_dir)
    return teacher_vocabulary(engine.teacher)


def given_store(teacher: Teacher, *, dataset: str) -> str:
    """The folder that `teachers.<name>.store` names, after a look at its manifest."""
    assert teacher.store is not None
    folder = teacher.store if "://" in teacher.store else str(Path(teacher.store).expanduser().resolve())
    stored = read_manifest(folder)
    if "dataset" not in stored or stored["dataset"] != dataset:
        raise UserError(
            f"teachers.{teacher.name}.store: {folder} holds rationales for the dataset {stored.get('dataset')!r}, but "
            f"dataset.name is {dataset!r}; name the folder of that dataset's rationales"
        )
    return folder
