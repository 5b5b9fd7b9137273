"""Functions and classes from outside this package, which an experiment names by `module:name`.

In: "my_package.module:Engine" and the key that named it. Out: the object; its use is logged, since its code runs here.
"""

import functools
import importlib
import logging
from typing import Any

from tinyllm_ray.schema.base import UserError

LOG = logging.getLogger(__name__)


@functools.cache
def load_outside(path: str, *, key: str) -> Any:
    """Raises UserError where it cannot be imported or called; its use is logged once."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{key}: {path} cannot be imported ({error}); it names a module on Python's path (an installed package, or "
            "a folder in PYTHONPATH), a colon and what the module holds"
        ) from None
    if not callable(found):
        raise UserError(f"{key}: {path} is neither a function nor a class")
    LOG.warning("%s: %s runs, from outside tinyllm_ray", key, path)
    return found
