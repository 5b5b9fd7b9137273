"""The schema described: every key with what is allowed, its default and its meaning; as rows, tables, JSON schema.

In: the Pydantic models of this package. Out, for example:
Key("training.steps", allowed="integer ≥ 0", default="1000", description="optimizer steps; 0 is inference only")

`python -m tinyllm_ray.schema.describe docs/configuration.md` writes the tables of that page again.
"""

import difflib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Column, Table

from tinyllm_ray.schema import Experiment
from tinyllm_ray.schema.base import NAME_PATTERN, UserError

MARK = "<!-- The tables below are written by tinyllm_ray/schema/describe.py. -->"
NEEDED = "needed"
EXTENDS = "path of an experiment file, relative to this one, whose keys hold where this file says nothing"
Schema = dict[str, Any]


@dataclass(frozen=True)
class Key:
    path: str  # entries of a list or mapping stand as <name>: teachers.<name>.model
    allowed: str
    default: str
    description: str
    only_for: str = ""  # the alternatives that have this key, such as "type: vllm"


def list_keys(section: str = "") -> list[Key]:
    """Every key, or those at and below one section such as `training` or `teachers.sampling`."""
    schema = _with_extends(Experiment.model_json_schema())
    found = _merged(_walk(schema, "", schema["$defs"]))
    if not section:
        return found
    inside = [key for key in found if f"{_plain(key.path)}.".startswith(f"{_plain(section)}.")]
    if not inside:
        known = sorted({_plain(key.path) for key in found})
        near = difflib.get_close_matches(_plain(section), known, n=3)
        sections = ", ".join(name for name in known if "." not in name)
        raise UserError(
            f"there is no section or key {section!r}; {f'near: {near}' if near else f'there is {sections}'}"
        )
    return inside


def json_schema() -> Schema:
    """For editors. What is needed may stand in the extended file or on the command line, so no section demands it."""
    schema = _with_extends(Experiment.model_json_schema())
    sections = [schema["$defs"][_name(prop)] for prop in schema["properties"].values() if "$ref" in prop]
    for section in (schema, *sections):
        section.pop("required", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def rich_table(rows: list[Key]) -> Table:
    table = Table(Column("key", overflow="fold"), "allowed", Column("default", overflow="fold"), "meaning", box=SIMPLE)
    for key in rows:
        table.add_row(*(escape(cell.replace("`", "")) for cell in (key.path, key.allowed, key.default, _meaning(key))))
    return table


def page(text: str) -> str:
    """The page with its tables written again below the mark."""
    top = next(iter(text.split(MARK)))
    parts = [_table("The experiment", [key for key in list_keys() if "." not in key.path])]
    for name in Experiment.model_fields:
        below = [key for key in list_keys(name) if "." in key.path]
        if below:
            parts.append(_table(f"`{name}`", below))
    return f"{top}{MARK}\n\n" + "\n".join(parts)


def _with_extends(schema: Schema) -> Schema:
    """The file's own key, which is gone when the schema sees the experiment."""
    extends = {"type": "string", "default": None, "description": EXTENDS}
    return {**schema, "properties": {"extends": extends, **schema["properties"]}}


def _walk(model: Schema, above: str, defs: Schema, only_for: str = "") -> Iterator[Key]:
    needed = set(model.get("required", []))
    for name, prop in model.get("properties", {}).items():
        below = list(_models(prop))
        yield Key(
            path=above + name,
            allowed=_allowed(prop, defs),
            default=NEEDED if name in needed else _default(prop, holds_models=bool(below)),
            description=prop.get("description", ""),
            only_for=only_for,
        )
        for suffix, reference, tag in below:
            yield from _walk(defs[_name(reference)], f"{above}{name}{suffix}.", defs, tag or only_for)


def _models(prop: Schema, suffix: str = "") -> Iterator[tuple[str, Schema, str]]:
    """The models below a property: what stands between in the path, the reference, and the alternative's tag."""
    if "$ref" in prop:
        yield suffix, prop, ""
    tags = {target: tag for tag, target in prop.get("discriminator", {}).get("mapping", {}).items()}
    for option in [*prop.get("anyOf", []), *prop.get("oneOf", []), *prop.get("allOf", [])]:
        for below, reference, tag in _models(option, suffix):
            own = tags.get(reference["$ref"])
            yield below, reference, f"{prop['discriminator']['propertyName']}: {own}" if own else tag
    for entries in (prop.get("items"), prop.get("additionalProperties"), *prop.get("patternProperties", {}).values()):
        if isinstance(entries, dict):
            yield from _models(entries, f"{suffix}.<name>")


def _merged(found: Iterator[Key]) -> list[Key]:
    """A key that several alternatives have is listed once, with all their tags."""
    tags: dict[Key, list[str]] = {}
    for key in found:
        tags.setdefault(replace(key, only_for=""), []).append(key.only_for)
    return [replace(key, only_for=" or ".join(dict.fromkeys(filter(None, only)))) for key, only in tags.items()]


def _allowed(prop: Schema, defs: Schema) -> str:
    """What a value may be, in words: "integer ≥ 1", "`asha` or `none`", "list of text"."""
    if "const" in prop:
        return f"`{prop['const']}`"
    if "enum" in prop:
        *rest, last = [f"`{value}`" for value in prop["enum"]]
        return f"{', '.join(rest)} or {last}" if rest else last
    options = prop.get("anyOf") or prop.get("oneOf")
    if options:
        return " or ".join(dict.fromkeys(_allowed(option, defs) for option in options))
    if "$ref" in prop:
        target = defs[_name(prop)]
        return "section" if "properties" in target else _allowed(target, defs)
    return {"array": _array, "object": _object}.get(prop.get("type", ""), _single)(prop, defs)


def _array(prop: Schema, defs: Schema) -> str:
    if "prefixItems" in prop:
        return f"[{', '.join(_allowed(item, defs) for item in prop['prefixItems'])}]"
    least = f" of at least {prop['minItems']}:" if "minItems" in prop else " of"
    return f"list{least} {_allowed(prop.get('items', {}), defs)}"


def _object(prop: Schema, defs: Schema) -> str:
    values = [prop.get("additionalProperties"), *prop.get("patternProperties", {}).values()]
    allowed = [_allowed(value, defs) for value in values if isinstance(value, dict)]
    names = prop.get("propertyNames", {}).get("enum")
    keys = f"of {', '.join(f'`{name}`' for name in names)} " if names else ""
    return f"mapping {keys}to {' or '.join(allowed) or 'any value'}"


def _single(prop: Schema, defs: Schema) -> str:
    kind = prop.get("type", "any value")
    text = {"string": "text", "boolean": "`true` or `false`"}.get(kind, kind)
    if kind == "string" and prop.get("pattern") == NAME_PATTERN:
        return "name (letters, digits, `_`, `.`, `-`)"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {prop[bound]:.10g}" for bound, sign in bounds.items() if bound in prop)
    return f"{text} {limits}".rstrip()


def _default(prop: Schema, *, holds_models: bool) -> str:
    """As one would write it in YAML; empty where the keys below or the description say it."""
    if "default" not in prop:  # made by a function
        return {"array": "[]", "object": "{}"}.get(prop.get("type", ""), "")
    default = prop["default"]
    if isinstance(default, dict) and default and holds_models:
        tag = prop.get("discriminator", {}).get("propertyName")
        return f"{{{tag}: {default[tag]}}}" if tag else ""
    return json.dumps(default, ensure_ascii=False)


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _plain(path: str) -> str:
    return path.replace(".<name>", "")


def _meaning(key: Key) -> str:
    return f"{key.description} ({key.only_for})" if key.only_for else key.description


def _table(title: str, rows: list[Key]) -> str:
    lines = [f"## {title}", "", "| key | allowed | default | meaning |", "|---|---|---|---|"]
    for key in rows:
        default = f"`{key.default}`" if key.default not in ("", NEEDED) else key.default
        lines.append(f"| `{key.path}` | {_cell(key.allowed)} | {default} | {_cell(_meaning(key))} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Safe in a Markdown table: no bar splits it, and <name> outside of code is no HTML tag."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub("<", "&lt;", part) for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
