"""Checkpoints of a trial: trained weights, optimizer state and step, as safetensors, the two newest kept.

<folder>/<step>/model.safetensors, optimizer.safetensors, and state.json, written last: without it a checkpoint does not
count. It holds the digests of both files: {"step": 200, "digests": {"model.safetensors": "5f3c...", ...}}
Data order, schedule and generators are functions of (seed, step), so the step stands for all of them.
"""

import hashlib
import json
import logging
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from tinyllm_ray import storage
from tinyllm_ray.config import UserError

KEPT = 2
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
log = logging.getLogger(__name__)


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing or not what was written."""


def save_checkpoint(
    folder: str, step: int, *, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """`parameters`: all that is trained, by name."""
    target = storage.join(folder, f"{step:09d}")
    state = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }
    files = {
        MODEL: save({name: p.detach().contiguous() for name, p in parameters.items()}),
        OPTIMIZER: save(state),
    }
    for name, data in files.items():
        storage.write_bytes(storage.join(target, name), data)
    digests = {name: _digest(data) for name, data in files.items()}
    storage.write_json(storage.join(target, STATE), {"step": step, "digests": digests})
    for old in _steps(folder)[:-KEPT]:
        storage.remove_folder(storage.join(folder, f"{old:09d}"))


def load_newest(folder: str, *, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """The step of the newest whole checkpoint, which is now in parameters and optimizer; 0 where there is none.

    A damaged one is passed over, and said. Raises UserError where the checkpoint is of another student.
    """
    for step in reversed(_steps(folder)):
        source = storage.join(folder, f"{step:09d}")
        try:
            files = _read(source)
        except DamagedCheckpoint as damage:
            log.warning("the checkpoint %s is damaged (%s); an older one is used, or none", source, damage)
            continue
        _restore(source, files, parameters=parameters, optimizer=optimizer)
        return step
    return 0


def _read(source: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of both files."""
    try:
        digests = storage.read_json(storage.join(source, STATE))["digests"]
        files = {name: storage.read_bytes(storage.join(source, name)) for name in (MODEL, OPTIMIZER)}
        for name, data in files.items():
            if _digest(data) != digests[name]:
                raise DamagedCheckpoint(f"{name} is not as it was written")
        return {name: load(data) for name, data in files.items()}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from None


def _restore(
    source: str,
    files: dict[str, dict[str, torch.Tensor]],
    *,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    weights = files[MODEL]
    _check_shapes(
        source, {n: tuple(w.shape) for n, w in weights.items()}, {n: tuple(p.shape) for n, p in parameters.items()}
    )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in files[OPTIMIZER].items():
        name, _, field = key.rpartition("/")
        optimizer.state[parameters[name]][field] = value.to(parameters[name].device)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _steps(folder: str) -> list[int]:
    """Steps of complete checkpoints, ascending."""
    return sorted(int(uri.split("/")[-2]) for uri in storage.list_files(folder, STATE))


def _check_shapes(source: str, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if not names:
        return
    name = names[0]
    raise UserError(
        f"the checkpoint {source} is of another student: {name} is {found.get(name, 'missing')} there and "
        f"{wanted.get(name, 'missing')} in student.model; use another output.dir, or remove the trial's folder"
    )
