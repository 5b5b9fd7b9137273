"""What makes a rationale, as a readable dictionary; its digest names the store and counts in every row's key."""

from pathlib import Path
from typing import Any

from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data.prompts import load_template
from tinyllm_ray.data.store import read_manifest, store_folder
from tinyllm_ray.schema import Experiment, Prompts, Teacher
from tinyllm_ray.teachers.engines.models import find_kind, folder_digest, is_folder, model_revision

# Settings of vLLM that change how fast a text is made, not the text.
_SPEED = {
    "block_size",
    "data_parallel_size",
    "disable_custom_all_reduce",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "pipeline_parallel_size",
    "swap_space",
    "tensor_parallel_size",
}


def store_manifest(teacher: Teacher, *, dataset: str, prompts: Prompts, teacher_forcing: bool) -> dict[str, Any]:
    """The parts of a store's key. In-context examples count by their rule, not by the rows that were drawn."""
    assert teacher.model is not None
    return {
        "dataset": dataset,
        "teacher": teacher.name,
        "model": Path(teacher.model).name if is_folder(teacher.model) else teacher.model,
        "revision": model_revision(teacher),
        "kind": find_kind(teacher),
        "adapter": folder_digest(teacher.adapter) if teacher.adapter else None,
        "template": digest(load_template(prompts.template)),
        "teacher_forcing": teacher_forcing,
        "chat_template": prompts.chat_template,
        "in_context": prompts.in_context.model_dump(),
        "prompt_seed": prompts.seed,
        "sampling": teacher.sampling.model_dump(),
        "engine_kwargs": {name: value for name, value in teacher.engine_kwargs.items() if name not in _SPEED},
    }


def rationale_store(experiment: Experiment, teacher_name: str, *, output_dir: str, answers: bool = False) -> str:
    """Folder of a teacher's rationales, or of its own answers (no teacher forcing)."""
    teacher = experiment.teacher(teacher_name)
    if teacher.store:
        return given_store(teacher, dataset=experiment.dataset.name)
    return store_folder(output_dir, target_manifest(experiment, teacher, answers=answers))


def target_manifest(experiment: Experiment, teacher: Teacher, *, answers: bool) -> dict[str, Any]:
    prompts = experiment.prompts
    return store_manifest(
        teacher,
        dataset=experiment.dataset.name,
        prompts=prompts,
        teacher_forcing=prompts.teacher_forcing and not answers,
    )


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
