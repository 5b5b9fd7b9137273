"""Experiment files: YAML and dotted overrides in, a validated `Experiment` out; UserError where something is wrong.

In: experiments/obqa.yaml, ["loss.label_weight=0.5", "student.model=google/flan-t5-base"]
Out: schema.Experiment
"""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tinyllm_ray.config.experiment_file import read_experiment_file
from tinyllm_ray.config.strict_yaml import DEEPEST, read_yaml
from tinyllm_ray.redact import keep_secret, redact, redact_text
from tinyllm_ray.schema import Choice, Experiment, Grid, LogUniform, Uniform
from tinyllm_ray.schema.base import UserError

__all__ = ["UserError", "digest", "flatten", "load_experiment", "output_dir", "public", "validate", "with_overrides"]


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read one experiment file, with what it extends, and apply `key.path=value` overrides (values are YAML).

    Raises UserError for a missing or broken file, an unknown key or a value that is not allowed.
    """
    raw = read_experiment_file(path)
    keep_secret(variables=_variables_in(raw))
    given: dict[str, Any] = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise UserError(
                f"override {redact_text(override)!r} is not of the form key.path=value, such as loss.label_weight=0.5"
            )
        if key == "extends":
            raise UserError("extends is a key of the experiment file, and no override")
        try:
            parsed = read_yaml(value)
        except UserError as error:
            reason = str(error).removeprefix("line 1: ")
            raise UserError(f"override {redact_text(override)!r}: {reason}") from None
        given[key] = parsed
        _set_path(raw, key.split("."), parsed)
    keep_secret(variables=_variables_in(raw))
    experiment = _fill_output_dir(validate(raw))
    _refuse_secrets(given)
    check_space(experiment)
    return experiment


def with_overrides(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The same experiment with the dotted paths of `values` set; validated again."""
    raw = experiment.model_dump(mode="json")
    for key, value in values.items():
        _set_path(raw, key.split("."), value)
    return validate(raw)


def validate(raw: dict[str, Any]) -> Experiment:
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(_explain(e) for e in error.errors()[:5])) from None


def check_space(experiment: Experiment) -> None:
    """Refuse a search path that does not exist or a value that the schema does not allow, before anything runs."""
    for model, changes in experiment.search.by_model.items():
        try:
            with_overrides(experiment, {"student.model": model, **changes})
        except UserError as error:
            raise UserError(f"search.by_model: {model}: {error}") from None
    for key, domain in experiment.search.space.items():
        for value in domain_values(domain):
            try:
                with_overrides(experiment, {key: value})
            except UserError as error:
                raise UserError(f"search.space: {key}: {error}") from None


def domain_values(domain: Choice | Grid | Uniform | LogUniform) -> list[Any]:
    """The listed values of a choice or grid; of an interval its bounds and a number between them."""
    match domain:
        case Choice():
            return domain.choice
        case Grid():
            return domain.grid
        case Uniform():
            return [*domain.uniform, _between(*domain.uniform)]
        case LogUniform():
            return [*domain.loguniform, _between(*domain.loguniform)]


def _between(low: float, high: float) -> float:
    """Not whole where the bounds are, so that a key that takes whole numbers only refuses it."""
    return low + (high - low) / math.pi


def digest(value: Any, length: int = 12) -> str:
    """Hex digest of a JSON value; equal values have equal digests on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:length]


def output_dir(experiment: Experiment) -> str:
    """Where everything of a run lies: an absolute path, or a cloud URI as given."""
    given = experiment.output.dir or f"outputs/{experiment.name}"
    return given if "://" in given else os.path.realpath(os.path.expanduser(given))


def public(experiment: Experiment) -> dict[str, Any]:
    """The resolved config as it may be written down: secrets are blanked."""
    return redact(experiment.model_dump(mode="json"))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"label_weight": 1}} -> {"loss.label_weight": 1}; teachers go by their names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if key == "teachers":
            value = {teacher["name"]: teacher for teacher in value}
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _variables_in(node: Any) -> list[str]:
    """Environment variables that a config names: values of keys such as api_key_env, and ${NAME} in a text."""
    if isinstance(node, dict):
        named = [value for key, value in node.items() if key.endswith("_env") and isinstance(value, str)]
        return named + [name for value in node.values() for name in _variables_in(value)]
    if isinstance(node, list):
        return [name for value in node for name in _variables_in(value)]
    return re.findall(r"\$\{(\w+)\}", node) if isinstance(node, str) else []


def _refuse_secrets(overrides: dict[str, Any]) -> None:
    """Everyone on the machine sees the words of a command, and everyone on a cluster those of its jobs."""
    for key, value in overrides.items():
        named = {key.rpartition(".")[2]: value}
        if redact(named) != named:
            raise UserError(
                f"override {key}: the value is a secret by its name or its shape, and the words of a command are seen "
                "by everyone on the machine; set an environment variable for it where there is one (api_key_env names "
                "the key of an endpoint, HF_TOKEN is the hub's), else write it into the experiment file"
            )


def _fill_output_dir(experiment: Experiment) -> Experiment:
    """`${output.dir}` in a path stands for the run's output folder."""
    folder = output_dir(experiment)
    changes = {"dataset.path": experiment.dataset.path, "student.model": experiment.student.model}
    changes["rationales.router.encoder"] = experiment.rationales.router.encoder
    if experiment.rationales.judge:
        changes["rationales.judge.by.model"] = experiment.rationales.judge.by.model
    for teacher in experiment.teachers:
        changes |= {f"teachers.{teacher.name}.model": teacher.model, f"teachers.{teacher.name}.store": teacher.store}
    filled = {
        key: value.replace("${output.dir}", folder)
        for key, value in changes.items()
        if value and "${output.dir}" in value
    }
    return with_overrides(experiment, filled) if filled else experiment


def _set_path(node: Any, path: list[str], value: Any, done: tuple[str, ...] = ()) -> None:
    head, rest = path[0], path[1:]
    if len(done) > DEEPEST:
        raise UserError(f"{'.'.join(done[:5])}...: a key of more than {DEEPEST} parts")
    if isinstance(node, list):
        items, rest = _list_items(node, path, done)
        for item in items:
            _set_path(item, rest, value, done if rest == path else (*done, head))
        return
    if not isinstance(node, dict):
        raise UserError(f"{'.'.join((*done, *path))}: {'.'.join(done)} is a single value and has no keys below it")
    if not rest or ".".join(done) in _NAMES_WITH_DOTS:
        node[".".join(path)] = value
        return
    if node.get(head) is None:
        node[head] = {}
    _set_path(node[head], rest, value, (*done, head))


def _list_items(items: list[Any], path: list[str], done: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    """`teachers.<name>.key` and `teachers.0.key` mean one item, `teachers.key` all of them; with the path below it."""
    above, names = ".".join(done), [item["name"] for item in items if isinstance(item, dict) and "name" in item]
    for item in items:
        parts = str(item["name"]).split(".") if isinstance(item, dict) and "name" in item else []
        if parts and path[: len(parts)] == parts and path[len(parts) :]:
            return [item], path[len(parts) :]
    if items and not any(isinstance(item, dict) for item in items):
        raise UserError(f"{above} is a list of values; give it whole, such as {above}=[...]")
    if re.fullmatch(r"[0-9]{1,4}", path[0]) and int(path[0]) < len(items) and path[1:]:
        return [items[int(path[0])]], path[1:]
    if path[0] in _fields_at(done):
        return items, path
    if ".".join(path) in [*names, *map(str, range(len(items)))]:
        raise UserError(
            f"{above}.{'.'.join(path)}: name a key below it, such as {above}.{path[0]}.{_fields_at(done)[1]}"
        )
    raise UserError(f"{above}.{path[0]}: no entry of {above} is named {path[0]!r}; there is {names}")


def _fields_at(path: Iterable[Any]) -> list[str]:
    """Names of the keys that the schema allows at a path; empty where any key goes."""
    models = _models_at(path)
    return list(models[0].model_fields) if models else []


def _models_at(path: Iterable[Any]) -> list[type[BaseModel]]:
    """The sections that may stand at a path: several where a `type` chooses among them, none where any key goes."""
    models: list[type[BaseModel]] = [Experiment]
    for part in path:
        chosen = [model for model in models if part in _tags(model)]
        if chosen:
            models = chosen
        elif models and not isinstance(part, int) and part in models[0].model_fields:
            models = _models_in(models[0].model_fields[part].annotation)
        elif not models:
            return []
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of `type` by which a section is chosen among others, such as ("vllm",)."""
    return get_args(model.model_fields["type"].annotation) if "type" in model.model_fields else ()


def _explain(error: ErrorDetails) -> str:
    path = [part for part in error["loc"] if not (isinstance(part, str) and part in _UNION_TAGS)]
    location = [part for i, part in enumerate(path) if not any(part in _tags(m) for m in _models_at(path[:i]))]
    key = ".".join(str(part) for part in location) or "experiment"
    if error["type"].startswith("union_tag"):
        types = ", ".join(str(tag) for model in _models_at(path) for tag in _tags(model))
        given = error["input"].get("type") if isinstance(error["input"], dict) else error["input"]
        return f"{key}.type: {_short(redact(given))} was given; it is one of {types}"
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(path[:-1])
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"; did you mean {'.'.join(map(str, [*location[:-1], near[0]]))}?" if near else ""
        others = [_tags(m)[0] for m in _models_at(location[:-1]) if _tags(m) and location[-1] in m.model_fields]
        if others:
            hint = f" of type {path[-2]}; it is one of type {', '.join(others)}"
        return (
            f"{key}: unknown key{hint}; allowed here: {', '.join(allowed)}" if allowed else f"{key}: unknown key{hint}"
        )
    if error["type"] == "missing":
        return f"{key}: missing; this key is needed"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return message if not location else f"{key}: {message}"
    given = redact(error["input"]) if not isinstance(error["input"], dict | list) else type(error["input"]).__name__
    return f"{key}: {_short(given)} was given; {error['msg'][0].lower()}{error['msg'][1:]}"


_UNION_TAGS = {"Choice", "Grid", "Uniform", "LogUniform"}
_NAMES_WITH_DOTS = {"loss.rationale_weights", "search.space", "pools.teacher.labels", "pools.student.labels"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
