"""Experiment files and overrides, good, bad and wild, through `load_experiment`."""

import random
from pathlib import Path
from typing import Any

from fuzz.counting import Counts, attempt, flip_bytes

from tinyllm_ray.config import load_experiment

GOOD: dict[str, list[tuple[str, Any]]] = {
    "seeds": [("[0, 1]", [0, 1]), ("[4294967295]", [4294967295]), ("\n  - 3\n  - 0x10", [3, 16])],
    "dataset.name": [("no", "no"), ("'010'", "010"), ("2026-02-03", "2026-02-03"), ("2026-02-30", "2026-02-30")],
    "dataset.path": [("/a b/ü", "/a b/ü"), ("s3://bucket/x", "s3://bucket/x"), ("'~/x'", "~/x")],
    "loss.label_weight": [("0.5", 0.5), ("1e-3", 0.001), (".5", 0.5), ("2", 2.0), ("!!float 3", 3.0)],
    "output.dir": [("/x/y", "/x/y"), ("s3://bucket/x", "s3://bucket/x"), ("null", None), ("file:///x", "file:///x")],
    "prompts.teacher_forcing": [("true", True), ("False", False), ("no", False), ("on", True)],
    "search.scheduler": [("none", "none"), ("asha", "asha"), ('"hyperband"', "hyperband")],
    "search.num_samples": [("3", 3), ("1_000", 1000), ("'20'", 20), ("!!int 7", 7)],
    "student.dtype": [("float32", "float32"), ("bfloat16", "bfloat16")],
    "student.max_input_tokens": [("64", 64), ("512", 512)],
    "tracking.uri": [("http://127.0.0.1:5000", "http://127.0.0.1:5000"), ("~", None)],
    "training.learning_rate": [("1e-5", 1e-5), ("5.0e-5", 5e-5), ("1", 1.0), ("1E-4", 1e-4)],
    "training.steps": [("10", 10), ("0", 0), ("1e3", 1000), ("+7", 7)],
    "training.weight_decay": [("0", 0.0), ("0.1", 0.1)],
}
BAD: dict[str, list[str]] = {
    "seeds": ["[]", "[-1]", "[true]", "[4294967296]", "0", "[0.5]", "[[0]]"],
    "name": ["../up", "''", "[a]", "~", "'a b'", "5"],
    "loss.label_weight": [".nan", ".inf", "-1", "true", "much", "1e999", "007", "1:30.5"],
    "output.dir": ["foo://x", "s3://", "s3:/bucket/x", "file://x", "''", "s3://me:pw@bucket/x", "[x]"],
    "prompts.teacher_forcing": ["maybe", "2", "[true]"],
    "search.scheduler": ["ashaa", "1", "[asha]", "~"],
    "student.dtype": ["float16", "float64", "1"],
    "tracking.uri": ["http://me:pw@host", "http://host/?token=abcdef"],
    "dataset.path": ["https://host/x?sig=abc", "'https://me:pw@host/x'", "[a]"],
    "training.learning_rate": ["0", "-1", ".inf", "!!float x", "fast", "true"],
    "training.steps": [
        "010",
        "1:30",
        "true",
        "-1",
        "1.5",
        "many",
        "!!int x",
        "9" * 30,
        "[1]",
        "{a: 1}",
        "!!binary aGk=",
    ],
    "training": ["5", "[steps]", "{steps: 1, steps: 2}", "{stesp: 1}", "text"],
    "traning": ["{steps: 1}"],
    "search.space": ["{training.stesp: {choice: [1]}}", "{training.steps: {choice: [-1]}}", "{training.steps: 5}"],
}
BROKEN = (  # whole texts that no reader can take
    *("", "- a\n", "just text", "7", "name: [1", "a: b: c", "\tname: x", "name: x\nname: y", "&a [*a]", "x: *nowhere"),
    *("[" * 3000, "a: " + "[" * 80 + "]" * 80, "name: !!python/object/apply:os.system [ls]", "a: 1\n---\nb: 2"),
    *('name: "\\ud800"', 'name: "\\0"', "? [a, b]\n: c", "<<: 3", "extends: none.yaml", "extends: [a]", "extends: ."),
    "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)),
)
BASE = """
name: toy
dataset: {name: toy, path: data}
teachers:
  - {name: owl, model: a/owl}
  - {name: fox, model: a/fox}
student: {model: a/student}
"""
WILD = "=.:[]{},&*!|>'\"%@`#?-~ \t\n\\0159aeinotuy_éß字\ud800\u2028\x00\x07"


def fuzz_files(number: int, *, seed: int, folder: Path) -> Counts:
    counts, rng = Counts(), random.Random(seed)
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    for case in range(number):
        path = folder / f"case{case % 10}.yaml"
        kind = rng.choice(["good", "good", "bad", "bad", "broken", "wild"])
        keys = rng.sample(sorted(GOOD), rng.randint(1, 6))
        given = {key: rng.choice(GOOD[key]) for key in keys}
        texts = {key: text for key, (text, _) in given.items()}
        data = b""
        if kind == "broken":
            data = rng.choice(BROKEN).encode("utf-8", "surrogatepass")
        elif kind == "bad":
            key = rng.choice(sorted(BAD))
            texts = {name: text for name, text in texts.items() if name.partition(".")[0] != key.partition(".")[0]}
            data = _file(texts | {key: rng.choice(BAD[key])}, rng)
        else:
            data = _file(texts, rng)
        path.write_bytes(flip_bytes(data, rng) if kind == "wild" else data)
        attempt(
            counts,
            lambda path=path, keys=keys: _values(path, keys, []),
            case=path.read_bytes(),
            kind="bad" if kind == "broken" else kind,
            expected={key: value for key, (_, value) in given.items()},
        )
    return counts


def fuzz_overrides(number: int, *, seed: int, folder: Path) -> Counts:
    counts, rng = Counts(), random.Random(seed)
    path = folder / "base.yaml"
    path.write_text(BASE, encoding="utf-8")
    for _ in range(number):
        kind = rng.choice(["good", "bad", "wild"])
        table = GOOD if kind == "good" else BAD
        key = rng.choice(sorted(table))
        text, value = rng.choice(GOOD[key]) if kind == "good" else (rng.choice(BAD[key]), None)
        override = f"{key}={text}"
        if kind == "wild":
            noise = "".join(rng.choice(WILD) for _ in range(rng.randint(1, 12)))
            place = rng.randrange(len(override))
            override = override[:place] + noise + override[place + rng.randint(0, 3) :]
        attempt(
            counts,
            lambda override=override, key=key: _values(path, [key], [override]),
            case=override,
            kind=kind,
            expected={key: value},
        )
    return counts


def _values(path: Path, keys: list[str], overrides: list[str]) -> dict[str, Any]:
    raw = load_experiment(path, overrides).model_dump(mode="json")
    found = {}
    for key in keys:
        node: Any = raw
        for part in key.split("."):
            node = node[part] if isinstance(node, dict) and part in node else None
        found[key] = node
    return found


def _file(texts: dict[str, str], rng: random.Random) -> bytes:
    """The base, or a file that extends it, with these keys set, in one of several spellings of YAML."""
    sections: dict[str, dict[str, str]] = {}
    lines = []
    for key, text in texts.items():
        section, _, name = key.partition(".")
        if name:
            sections.setdefault(section, {})[name] = text
        else:
            lines.append(f"{key}: {text}")
    for section, entries in sections.items():
        if rng.random() < 0.5:
            below = "\n".join(f"  {name}: {text}" for name, text in entries.items())
            lines.append(f"{section}:  # set\n{below}")
        else:
            lines.append(f"{section}: {{{', '.join(f'{name}: {text}' for name, text in entries.items())}}}")
    rng.shuffle(lines)
    ending = rng.choice(["\n", "\n", "\r\n"])
    text = "\n".join(["# a case", "extends: base.yaml", *lines, ""]).replace("\n", ending)
    return rng.choice([b"", b"\xef\xbb\xbf"]) + text.encode()
