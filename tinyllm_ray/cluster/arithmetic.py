"""What this machine's processor computes fast: whether bfloat16 is of use to it, and weights in the order it likes."""

import functools
import time
from typing import TYPE_CHECKING

from tinyllm_ray.schema import Experiment, RayDataLlmSettings, Seq2SeqSettings, VllmSettings

if TYPE_CHECKING:
    import torch

SIZE, REPEATS = 384, 5
LARGE_MATRIX = 2**17  # elements
SLOW = 1.5  # times float32's; where there is no arithmetic for it, it is 5 and more


@functools.cache
def bfloat16_slowdown() -> float:
    """Time of a matrix product in bfloat16 over that in float32, the fastest of several runs each."""
    import torch

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(SIZE, SIZE, dtype=dtype)
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def slow_number_formats(experiment: Experiment) -> list[str]:
    """A line for each key that asks a processor for bfloat16 where that is slower than float32."""
    keys = []
    if experiment.student.dtype == "bfloat16" and not experiment.pools.student.gpus_per_worker:
        keys.append("student.dtype")
    if not experiment.pools.teacher.gpus_per_worker:
        for teacher in experiment.working_teachers:
            match teacher.engine:
                case VllmSettings(engine_kwargs=arguments) | RayDataLlmSettings(engine_kwargs=arguments):
                    name = "engine_kwargs"
                case Seq2SeqSettings(model_kwargs=arguments):
                    name = "model_kwargs"
                case _:
                    continue
            if arguments.get("dtype") == "bfloat16":
                keys.append(f"teachers.{teacher.name}.engine.{name}.dtype")
    if not keys or bfloat16_slowdown() < SLOW:
        return []
    slow = f"{bfloat16_slowdown():.0f} times the time of float32 on this machine's processor"
    return [f"{key}=bfloat16: a matrix product takes {slow}; float32 is faster here" for key in keys]


def lay_out_for_onednn(model: "torch.nn.Module") -> None:
    """Put the weights of linear layers into oneDNN's own order, for a model that only computes forward from now on.

    oneDNN's products take AVX-512 on every processor that has it; those of MKL, which PyTorch takes for float32 by
    default, do so on Intel's alone. Nothing changes on a GPU, in another number format, and in a model whose matrices
    are small, where reordering each input costs more than it gains.
    """
    import torch
    from torch.utils.mkldnn import to_mkldnn

    weights = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    usual = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    largest = max((weight.numel() for weight in weights), default=0)
    if usual and largest >= LARGE_MATRIX and torch.backends.mkldnn.is_available():
        to_mkldnn(model)
