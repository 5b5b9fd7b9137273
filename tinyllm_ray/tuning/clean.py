"""What of an output folder can be made again: found, measured and removed.

In: an output folder. Out: kinds of files with their sizes; results, models, rationales, questions and records stay.
"""

from dataclasses import dataclass

from tinyllm_ray import storage
from tinyllm_ray.schema.base import counted
from tinyllm_ray.tuning.training import RESULT, STOPPED


@dataclass(frozen=True)
class Spare:
    """Files of one kind."""

    kind: str
    again: str  # how they come back
    folders: list[str]
    files: int
    bytes: int


def find_spare(output_dir: str) -> list[Spare]:
    """Only kinds that there are. Checkpoints of a training that may still go on are not among them."""
    trials = storage.join(output_dir, "trials")
    ended = [folder for folder in _folders(trials) if _ended(folder)]
    kinds = [
        (
            "checkpoints of ended trainings",
            "of no use once a training has its result",
            ended,
            "checkpoints",
        ),
        ("state of Ray Train in ended trainings", "of no use after the training", ended, "ray_train"),
        ("features", "made from questions and rationales when next needed", [output_dir], "features"),
        ("prompts of stopped generations", "written again when teachers next run", [output_dir], "pending"),
        ("state of Ray Tune", "of no use after the search", [output_dir], "tune"),
    ]
    spare = [_measure(kind, again, [storage.join(base, name) for base in bases]) for kind, again, bases, name in kinds]
    return [item for item in spare if item.files]


def remove(spare: list[Spare]) -> None:
    for item in spare:
        for folder in item.folders:
            storage.remove_folder(folder)


def describe(spare: list[Spare], *, removed: bool) -> list[str]:
    lines = [f"{item.kind}: {counted(item.files, 'file')}, {_mib(item.bytes)} ({item.again})" for item in spare]
    total = _mib(sum(item.bytes for item in spare))
    return [*lines, f"{total} {'freed' if removed else 'can be freed'}"]


def _folders(base: str) -> list[str]:
    names = {uri.removeprefix(f"{base}/").partition("/")[0] for uri in storage.list_files(base)}
    return [storage.join(base, name) for name in sorted(names)]


def _ended(trial: str) -> bool:
    """A failed training may go on from its checkpoint with the next run."""
    return any(storage.exists(storage.join(trial, name)) for name in (RESULT, STOPPED))


def _measure(kind: str, again: str, folders: list[str]) -> Spare:
    files = [uri for folder in folders for uri in storage.list_files(folder)]
    return Spare(kind, again, folders, len(files), sum(storage.size(uri) for uri in files))


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
