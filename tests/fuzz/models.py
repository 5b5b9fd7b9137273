"""Folders of tiny models, damaged and odd, through the loading of a student."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.counting import Counts, attempt, flip_bytes
from support.tiny_students import save_model

from tinyllm_ray.schema import Student
from tinyllm_ray.student.model import load_folder

WEIGHTS = "model.safetensors"
ODD_CONFIGS: list[tuple[str, Any]] = [
    *(("vocab_size", value) for value in ("many", -1, 0, None, 7, 1.5)),
    *(("model_type", value) for value in ("nope", None, 5, "")),
    *((size, value) for size in ("d_model", "hidden_size") for value in (0, -4, "wide", 24, None)),
    *((count, value) for count in ("num_layers", "num_hidden_layers") for value in (-1, "x", 5)),
    *((heads, value) for heads in ("num_heads", "num_attention_heads") for value in (0, 3, "x")),
]


def fuzz_models(number: int, *, seed: int, folder: Path) -> Counts:
    counts, rng = Counts(), random.Random(seed)
    for shape in ("t5", "llama"):
        save_model(str(folder / shape), shape)
    for case in range(number):
        shape = rng.choice(["t5", "llama"])
        place = folder / f"case{case}"
        shutil.copytree(folder / shape, place)
        name, kind = rng.choice(CHANGES)(place, rng)
        attempt(counts, lambda place=place: _load(place), case=f"{shape}: {name}", kind=kind, limit_s=60)
        shutil.rmtree(place)
    return counts


def _load(place: Path) -> None:
    load_folder(Student(model=str(place)))


def _missing(place: Path, rng: random.Random) -> tuple[str, str]:
    name = rng.choice(["config.json", WEIGHTS, "tokenizer.json"])
    (place / name).unlink()
    return f"no {name}", "bad"


def _cut(place: Path, rng: random.Random) -> tuple[str, str]:
    path = place / rng.choice(["config.json", WEIGHTS, "tokenizer.json"])
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(0, len(data) * 9 // 10)])
    return f"{path.name} cut", "bad"


def _flipped(place: Path, rng: random.Random) -> tuple[str, str]:
    path = place / rng.choice(["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"])
    path.write_bytes(flip_bytes(path.read_bytes(), rng))
    return f"{path.name} flipped", "wild"


def _no_json(place: Path, rng: random.Random) -> tuple[str, str]:
    path = place / rng.choice(["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
    text = rng.choice(["", "[]", "null", "7", "{", '"text"', "{}", "\xff"])
    path.write_text(text, encoding="latin-1")
    return f"{path.name} is {text!r}", "wild"


def _odd_config(place: Path, rng: random.Random) -> tuple[str, str]:
    config = json.loads((place / "config.json").read_text())
    key, value = rng.choice([(key, value) for key, value in ODD_CONFIGS if key in config])
    (place / "config.json").write_text(json.dumps(config | {key: value}))
    return f"{key} is {value!r} instead of {config[key]!r}", "bad"


def _long_header(place: Path, rng: random.Random) -> tuple[str, str]:
    data = (place / WEIGHTS).read_bytes()
    (place / WEIGHTS).write_bytes(rng.choice([2**63, 2**40, 0]).to_bytes(8, "little") + data[8:])
    return "a header of another length", "bad"


def _pickle_only(place: Path, rng: random.Random) -> tuple[str, str]:
    (place / WEIGHTS).rename(place / "pytorch_model.bin")
    return "weights as a pickle", "bad"


def _folder(place: Path, rng: random.Random) -> tuple[str, str]:
    path = place / rng.choice(["config.json", WEIGHTS, "tokenizer.json"])
    path.unlink()
    path.mkdir()
    return f"{path.name} is a folder", "bad"


def _harmless(place: Path, rng: random.Random) -> tuple[str, str]:
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"a_key_of_ours": {"x": 1}}))
    (place / "notes.txt").write_text("x")
    (place / "generation_config.json").unlink(missing_ok=True)
    return "a key and a file more, a file less", "good"


Change = Callable[[Path, random.Random], tuple[str, str]]
CHANGES: list[Change] = [
    *(_missing, _cut, _flipped, _flipped, _no_json, _no_json, _odd_config, _odd_config, _odd_config),
    *(_long_header, _pickle_only, _folder, _harmless, _harmless),
]
