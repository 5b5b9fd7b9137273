"""Which engine a teacher gets, and the Ray Data pass through it: prompt files in, batches with outcomes out."""

import importlib
import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data.gguf import is_gguf, unpack
from tinyllm_ray.data.prompts import load_template, next_example
from tinyllm_ray.schema import (
    AutoSettings,
    CustomSettings,
    EndpointSettings,
    Pool,
    Prompts,
    RayDataLlmSettings,
    Sampling,
    Seq2SeqSettings,
    Teacher,
    VllmSettings,
)
from tinyllm_ray.teachers.engines.base import Engine, Setting
from tinyllm_ray.teachers.engines.models import find_shape, read_config

LOG = logging.getLogger(__name__)


def make_engine(teacher: Teacher, *, pool: Pool, prompts: Prompts, output_dir: str) -> Engine:
    """The engine that `teachers[].engine` names, or the one that suits the model and the pool."""
    if teacher.model and is_gguf(teacher.model):
        folder = unpack(teacher.model, key=f"teachers.{teacher.name}.model", output_dir=output_dir)
        teacher = teacher.model_copy(update={"model": folder})
    if isinstance(teacher.engine, AutoSettings):
        teacher = teacher.model_copy(update={"engine": _choose(teacher, pool)})
    log_file = None
    if storage.is_local(output_dir):
        log_file = str(storage.local_path(output_dir) / "logs" / f"{teacher.name}.log")
    path = teacher.engine.path if isinstance(teacher.engine, CustomSettings) else teacher.engine.engine_class
    _check_loops(teacher)
    teacher = teacher.model_copy(update={"sampling": _with_stop(teacher, prompts)})
    engine = _load(path, teacher)
    return engine(teacher, Setting(pool, prompts, output_dir, log_file))


def _check_loops(teacher: Teacher) -> None:
    if teacher.sampling.stop_at_repeats and isinstance(teacher.engine, Seq2SeqSettings | EndpointSettings):
        raise UserError(
            f"teachers.{teacher.name}.sampling.stop_at_repeats: {teacher.sampling.stop_at_repeats} was given, and an "
            f"engine of type {teacher.engine.type} cannot end a text that loops; leave it out (vllm and ray_data_llm "
            "can)"
        )


def _with_stop(teacher: Teacher, prompts: Prompts) -> Sampling:
    """By default a decoder-only model stops where it goes on with an example of its own."""
    sampling = teacher.sampling
    if sampling.stop is not None:
        return sampling
    decodes = isinstance(teacher.engine, VllmSettings | RayDataLlmSettings)
    start = next_example(load_template(prompts.template)) if decodes else None
    return sampling.model_copy(update={"stop": [start] if start else []})


def log_foreign_code(teacher: Teacher) -> None:
    """Say whose code runs where it is neither this package's nor its libraries'."""
    if isinstance(teacher.engine, CustomSettings):
        LOG.warning("teacher %s: the engine is %s, from outside this package", teacher.name, teacher.engine.path)
    if teacher.trust_remote_code:
        LOG.warning("teacher %s: trust_remote_code is on, so code that comes with %s runs", teacher.name, teacher.model)


def run_files(engine: Engine, files: Sequence[str], *, longest_prompt: int) -> Iterator[pa.Table]:
    """Batches with outcomes, as they come. Raises UserError where the engine does not start."""
    import ray.data
    from ray.exceptions import RayError

    names = ray.data.from_items([{"file": uri} for uri in files], override_num_blocks=len(files))
    dataset = engine.run(names, longest_prompt=longest_prompt)
    dataset.context.enable_progress_bars = False  # the driver has bars of its own
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # which remarks that the bars are off
    started = False
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            started = True
            yield batch
    except RayError as error:
        if started:
            raise
        said = str(error).strip().splitlines()[-1]
        raise UserError(
            f"teacher {engine.teacher.name}: its engine does not start: {said}; what it printed is in the folder logs "
            "below output.dir"
        ) from error


def _choose(teacher: Teacher, pool: Pool) -> VllmSettings | RayDataLlmSettings | Seq2SeqSettings:
    if find_shape(teacher, read_config(teacher)) == "encoder_decoder":
        return Seq2SeqSettings(type="seq2seq")
    if pool.gpus_per_worker and not teacher.soft_targets:
        return RayDataLlmSettings(type="ray_data_llm")
    return VllmSettings(type="vllm")


def _load(path: str, teacher: Teacher) -> type[Engine]:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"teachers.{teacher.name}.engine.path: {path} cannot be imported ({error}); it names a module on Python's "
            "path and a class in it"
        ) from None
