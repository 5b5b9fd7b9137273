"""An experiment file and the files that it extends -> one mapping, not validated yet.

In: arc.yaml holding `extends: paper.yaml`, `name: arc`. Out: paper.yaml's mapping with `name` set to "arc".
The file's own keys win. Mappings are merged key by key, and the entries of `teachers` by their `name`. Everything else
(single values, other lists, an entry of `search.space`, a mapping whose `type` differs) replaces what was there.
"""

import os
from pathlib import Path
from typing import Any

from tinyllm_ray.config.strict_yaml import read_yaml
from tinyllm_ray.schema.base import UserError

LARGEST_KIB = 1024
_WHOLE_BELOW = ("search", "space")  # {choice: ...} and {uniform: ...} are alternatives, not parts


def read_experiment_file(path: str | Path) -> dict[str, Any]:
    """Raises UserError for a file that is missing, broken or extends itself."""
    return _read(Path(path), above=())


def _read(path: Path, *, above: tuple[Path, ...]) -> dict[str, Any]:
    raw = _mapping(path, extended_by=above[-1] if above else None)
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str) or not base or "://" in base:
        raise UserError(f"{path}: extends takes the path of one file on this machine, and {base!r} was given")
    chain = (*above, path)
    target = path.parent / os.path.expanduser(base)
    if os.path.realpath(target) in {os.path.realpath(file) for file in chain}:
        raise UserError(f"{path} extends {base}, which leads back to itself: {' -> '.join(map(str, [*chain, target]))}")
    return merge(_read(target, above=chain), raw)


def merge(base: dict[str, Any], over: dict[str, Any], *, at: tuple[str, ...] = ()) -> dict[str, Any]:
    """`over` laid over `base` by the rule above; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        there = base.get(key)
        if not at and key == "teachers" and _are_named(there) and _are_named(value):
            merged[key] = _merge_by_name(there, value)
        elif isinstance(there, dict) and isinstance(value, dict) and at != _WHOLE_BELOW and _one_type(there, value):
            merged[key] = merge(there, value, at=(*at, key))
        else:
            merged[key] = value
    return merged


def _merge_by_name(base: Any, over: Any) -> list[dict[str, Any]]:
    """Those of the base keep their places; new ones follow."""
    names = [item["name"] for item in base]
    merged = list(base)
    for item in over:
        if item["name"] in names:
            place = names.index(item["name"])
            merged[place] = merge(base[place], item, at=("teachers", item["name"]))
        else:
            merged.append(item)
    return merged


def _are_named(items: Any) -> bool:
    """Two of one name stay as they are, for the schema to refuse."""
    if not isinstance(items, list) or not all(isinstance(item, dict) and "name" in item for item in items):
        return False
    names = [item["name"] for item in items]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _one_type(there: dict[str, Any], value: dict[str, Any]) -> bool:
    return "type" not in value or "type" not in there or value["type"] == there["type"]


def _mapping(path: Path, *, extended_by: Path | None) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_KIB * 1024 + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        who = (
            f"{extended_by} extends {path}, which is not there"
            if extended_by
            else f"there is no experiment file {path}"
        )
        raise UserError(f"{who}; there is: {', '.join(near) or 'none in that folder'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as an experiment file: {error}") from None
    if len(data) > LARGEST_KIB * 1024:
        raise UserError(f"{path} is larger than {LARGEST_KIB} KiB, which no experiment file is")
    try:
        raw = read_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{path} holds {type(raw).__name__}, but an experiment is a mapping of sections such as `name:`"
        )
    return raw
