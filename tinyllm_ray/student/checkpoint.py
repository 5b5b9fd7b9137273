"""Checkpoints of a trial: trained weights, optimizer state and step, as safetensors, the two newest kept.

<folder>/<step>/model.safetensors, optimizer.safetensors, state.json (last: without it a checkpoint does not count)
Data order, schedule and generators are functions of (seed, step), so the step stands for all of them.
"""

import torch
from safetensors.torch import load, save
from torch import nn

from tinyllm_ray import storage
from tinyllm_ray.config import UserError

KEPT = 2


def save_checkpoint(folder: str, step: int, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    target = storage.join(folder, f"{step:09d}")
    parameters = _trained(model)
    state = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }
    storage.write_bytes(
        storage.join(target, "model.safetensors"),
        save({name: p.detach().contiguous() for name, p in parameters.items()}),
    )
    storage.write_bytes(storage.join(target, "optimizer.safetensors"), save(state))
    storage.write_json(storage.join(target, "state.json"), {"step": step})
    for old in _steps(folder)[:-KEPT]:
        storage.remove_folder(storage.join(folder, f"{old:09d}"))


def newest_step(folder: str) -> int | None:
    steps = _steps(folder)
    return steps[-1] if steps else None


def load_checkpoint(folder: str, step: int, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raises UserError where the checkpoint is of another student."""
    source = storage.join(folder, f"{step:09d}")
    weights = load(storage.read_bytes(storage.join(source, "model.safetensors")))
    state = load(storage.read_bytes(storage.join(source, "optimizer.safetensors")))
    parameters = _trained(model)
    _check_shapes(
        source, {n: tuple(w.shape) for n, w in weights.items()}, {n: tuple(p.shape) for n, p in parameters.items()}
    )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in state.items():
        name, _, field = key.rpartition("/")
        optimizer.state[parameters[name]][field] = value.to(parameters[name].device)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _steps(folder: str) -> list[int]:
    """Steps of complete checkpoints, ascending."""
    return sorted(int(uri.split("/")[-2]) for uri in storage.list_files(folder, "state.json"))


def _check_shapes(source: str, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if not names:
        return
    name = names[0]
    raise UserError(
        f"the checkpoint {source} is of another student: {name} is {found.get(name, 'missing')} there and "
        f"{wanted.get(name, 'missing')} in student.model; use another output.dir, or remove the trial's folder"
    )
