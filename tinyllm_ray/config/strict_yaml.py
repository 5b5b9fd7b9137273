"""YAML text -> plain values, by YAML 1.2's rules for numbers and truth values.

In: "steps: 10\nname: no"   Out: {"steps": 10, "name": "no"}
Refused with their line: a key given twice, 010 and 1:30 (octal and base 60 to YAML 1.1), numbers beyond 64 bits, tags
that make objects, nesting without end.
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tinyllm_ray.schema.base import UserError

DEEPEST, MOST_NODES, LONGEST_NUMBER = 50, 100_000, 64
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)$")
_NOT_A_NUMBER = re.compile(r"\.(nan|NaN|NAN)$")


def read_yaml(text: str) -> Any:
    """Raises UserError, whose message starts with the line where there is one."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{line}not valid YAML: {reason}") from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"nested deeper than {DEEPEST} levels") from None
    return None if node is None else _Reader().value(node, depth=0)


class _Reader:
    """Counts what it has read, for a few aliases of aliases can stand for any number of values."""

    def __init__(self) -> None:
        self.nodes = 0

    def value(self, node: Node, *, depth: int) -> Any:
        self.nodes += 1
        if depth > DEEPEST:
            raise _refusal(node, f"nested deeper than {DEEPEST} levels")
        if self.nodes > MOST_NODES:
            raise _refusal(node, f"more than {MOST_NODES} values, counting each alias with all it stands for")
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, depth=depth + 1) for item in node.value]
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self.mapping(node, depth=depth)
        raise _bad_tag(node)

    def mapping(self, node: MappingNode, *, depth: int) -> dict[str, Any]:
        """Keys are text as written. What `<<` brings in gives way to the mapping's own keys."""
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                items = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                for item in items:
                    if not isinstance(item, MappingNode):
                        raise _refusal(item, "`<<` takes a mapping, or a list of mappings")
                    merged = {**self.value(item, depth=depth + 1), **merged}
                continue
            if not isinstance(key_node, ScalarNode):
                raise _refusal(key_node, "a key must be a text")
            key = _text(key_node)
            if key in lines:
                raise _refusal(key_node, f"the key {key!r} stands on line {lines[key]} already; keep one of the two")
            lines[key] = _line(key_node)
            own[key] = self.value(value_node, depth=depth + 1)
        return {**merged, **own}


def _scalar(node: ScalarNode) -> Any:
    text = node.value
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":  # yes, no, on and off are texts, as in YAML 1.2
            return {"true": True, "false": False}.get(text.lower(), text)
        case "int" | "float":
            return _number(node)
        case "str" if node.style is None and _NUMBER.match(text) and text.strip("0123456789"):
            return _number(node)  # 1e-5, which YAML 1.1 takes for a text
        case "str" | "timestamp" | "value":
            return _text(node)
    raise _bad_tag(node)


def _number(node: ScalarNode) -> int | float:
    text = node.value
    if _NOT_A_NUMBER.match(text):
        return float("nan")
    if infinite := _INFINITE.match(text):
        return float(f"{infinite[1]}inf")
    if len(text) > LONGEST_NUMBER:
        raise _refusal(node, f"a number of {len(text)} characters; at most {LONGEST_NUMBER} are read")
    if node.tag != f"{_TAG}float" and _INTEGER.match(text):
        number = int(text, 16 if "0x" in text else 10)
        if not -(2**63) <= number < 2**63:
            raise _refusal(node, f"{text} does not fit 64 bits")
        return number
    whole = text.lstrip("+-").partition(".")[0].partition("e")[0].partition("E")[0]
    if _NUMBER.match(text) and (whole in ("", "0") or not whole.startswith("0")):
        return float(text)
    if not re.match(r"[-+]?[0-9][0-9_:.]*$", text):
        raise _refusal(node, f"{text!r} is not a number")
    raise _refusal(
        node,
        f"{text} can be read in two ways (a leading 0 means octal to YAML, and a colon base 60); write the number in "
        f"decimal, or '{text}' in quotes where a text is meant",
    )


def _text(node: ScalarNode) -> str:
    if "\0" in node.value or any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _refusal(node, "a text holds a character that no file can hold (NUL, or half of a surrogate pair)")
    return node.value


def _bad_tag(node: Node) -> UserError:
    tag = node.tag.replace(_TAG, "!!")
    return _refusal(node, f"not valid YAML for an experiment: the tag {tag!r} does not fit here, or is not allowed")


def _refusal(node: Node, reason: str) -> UserError:
    return UserError(f"line {_line(node)}: {reason}")


def _line(node: Node) -> int:
    return node.start_mark.line + 1
