import math
import time
from typing import Any

import pytest

from tinyllm_ray.config.strict_yaml import read_yaml
from tinyllm_ray.schema.base import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-7", -7),
        ("1_000", 1000),
        ("0x10", 16),
        ("0", 0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e-5", 1e-5),
        ("5.0e-5", 5e-5),
        ("1E3", 1000.0),
        ("9223372036854775807", 2**63 - 1),
        (".inf", math.inf),
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("", None),
        ("2026-02-30", "2026-02-30"),
        ("2026-02-03", "2026-02-03"),
        ("'010'", "010"),
        ('"1:30"', "1:30"),
        ("!!str 010", "010"),
        ("!!int 3", 3),
        ("!!float 3", 3.0),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("=", "="),
        ("[a, 1]", ["a", 1]),
        ("{a: {b: no}}", {"a": {"b": "no"}}),
        ("1: a\ntrue: b\n~: c", {"1": "a", "true": "b", "~": "c"}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        (
            "a: &x {b: 1}\ne: &y {b: 2, f: 3}\nd: {<<: [*x, *y]}",
            {"a": {"b": 1}, "e": {"b": 2, "f": 3}, "d": {"b": 1, "f": 3}},
        ),
    ],
)
def test_a_value_is_read_as_one_would_expect(text: str, value: Any) -> None:
    read = read_yaml(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' stands on line 1 already"),
        ("a: {b: 1, 'b': 2}", r"line 1: the key 'b' stands on line 1 already"),
        ("steps: 010", r"line 1: 010 can be read in two ways.*write the number in decimal, or '010' in quotes"),
        ("a: 1\nsteps: 1:30", r"line 2: 1:30 can be read in two ways"),
        ("steps: 1:30.5", r"1:30\.5 can be read in two ways"),
        ("steps: -010", r"-010 can be read in two ways"),
        ("x: 007.5", r"007\.5 can be read in two ways"),
        ("x: 9223372036854775808", r"does not fit 64 bits"),
        ("x: " + "9" * 5000, r"a number of 5000 characters"),
        ("x: !!int x", r"line 1: 'x' is not a number"),
        ("x: !!float x", r"'x' is not a number"),
        ("x: !!int ''", r"'' is not a number"),
        ("x: !!binary aGk=", r"not valid YAML for an experiment: the tag '!!binary'"),
        ("x: !!set {a, b}", r"the tag '!!set'"),
        ("x: !!python/object/apply:os.system [ls]", r"the tag '!!python/object/apply:os.system'"),
        ("x: !!timestamp [1]", r"the tag '!!timestamp'"),
        ("x: !!bool [1]", r"the tag '!!bool'"),
        ("[a, b]: 1", r"a key must be a text"),
        ("{<<: 1}", r"`<<` takes a mapping"),
        ("a: *b", r"line 1: not valid YAML: found undefined alias 'b'"),
        ("a: [1", r"line 1: not valid YAML: while parsing a flow sequence"),
        ("a: b: c", r"not valid YAML"),
        ("a: \x07", r"not valid YAML"),
        ('a: "\\0"', r"NUL"),
        ('a: "\\ud800"', r"half of a surrogate pair"),
        ("a: 1\n---\nb: 2", r"not valid YAML: expected a single document"),
        ("[" * 52 + "]" * 52, r"nested deeper than 50"),
        ("[" * 5000, r"nested deeper than 50|not valid YAML"),
        ("&a [*a]", r"nested deeper than 50"),
        ("&a {b: *a}", r"nested deeper than 50"),
    ],
)
def test_what_can_be_misread_or_never_ends_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_yaml(text)


def test_aliases_of_aliases_are_counted_and_end_soon() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]  # 9 ** 10 values
    start = time.monotonic()
    with pytest.raises(UserError, match="more than 100000 values"):
        read_yaml("\n".join(lines))
    assert time.monotonic() - start < 20
