"""Published rationales by the layout of the repository that they come from: a folder in, Parquet stores out."""

from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.data.reference import import_reference
from tinyllm_ray.data.step_by_step import import_step_by_step
from tinyllm_ray.schema.base import did_you_mean

_READERS = {"tinyllm": import_reference, "distilling-step-by-step": import_step_by_step}


def import_published(folder: str, *, dataset: str, out: str, layout: str) -> dict[str, Any]:
    """Returns what was imported and what was not. Raises UserError where nothing is found."""
    if layout not in _READERS:
        raise UserError(
            f"--layout: {layout!r} was given{did_you_mean(layout, _READERS)}; allowed are {', '.join(_READERS)}"
        )
    return _READERS[layout](folder, dataset=dataset, out=out)
