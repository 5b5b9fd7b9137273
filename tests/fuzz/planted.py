"""Secrets that are planted in an experiment, in the environment and on the command line, and the search for them.

A file is searched as it lies on disk, unpacked where its format packs (Parquet, gzip), and for Base64 of the values.
"""

import base64
import gzip
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq


def _plain(value: str) -> str:
    return value


IN_CONFIG: dict[str, tuple[str, Callable[[str], object]]] = {
    "snake case": ("hf_token", _plain),
    "camel case": ("apiKey", _plain),
    "kebab case": ("x-api-key", _plain),
    "nested": ("model_loader_extra_config", lambda value: {"deep": [{"awsSecretAccessKey": value}]}),
    "below a secret's name": ("auth", lambda value: {"user": ["me", value]}),
    "pwd": ("adminPwd", _plain),
    "header": ("headers", lambda value: f"Authorization: Bearer {value}"),
    "bearer": ("note_a", lambda value: f"sent bearer {value}"),
    "OpenAI's shape": ("note_b", lambda value: f"x sk-proj-{value}"),
    "account key": ("note_c", lambda value: f"AccountName=a;AccountKey={value}=="),
    "private key": ("note_d", lambda value: f"-----BEGIN PRIVATE KEY-----\n{value}\n-----END PRIVATE KEY-----"),
    "web token": ("note_e", lambda value: f"eyJhbGciOiJI.eyJ{value}.abc"),
}
IN_ENVIRONMENT = ("MY_SERVER", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")
REFUSED: dict[str, Callable[[str], str]] = {
    "user and password": lambda value: f"tracking.uri=http://me:{value}@host",
    "signature": lambda value: f"dataset.path='https://host/data?sv=1&sig={value}'",
    "storage": lambda value: f"output.dir=s3://key:{value}@bucket/x",
    "word of a command": lambda value: f"teachers.one.engine.engine_kwargs.hf_token={value}",
}
PLACES = (*IN_CONFIG, *IN_ENVIRONMENT, *REFUSED)


def make_secrets(places: Iterable[str], rng: random.Random) -> dict[str, str]:
    """A value of its own for each place."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return {place: "".join(rng.choice(alphabet) for _ in range(24)) + "7" for place in places}


def engine_arguments(secrets: dict[str, str]) -> dict[str, object]:
    return {IN_CONFIG[place][0]: IN_CONFIG[place][1](secrets[place]) for place in IN_CONFIG if place in secrets}


def find_secrets(secrets: dict[str, str], *, folders: Iterable[Path], said: dict[str, str]) -> dict[str, list[str]]:
    """Place of a secret -> the files, and the names in `said`, that hold its value."""
    found: dict[str, list[str]] = {}
    spelled = {place: list(_spellings(value)) for place, value in secrets.items()}
    texts = [(name, text.encode()) for name, text in said.items()]
    for name, data in (*texts, *((str(path), data) for path in _files(folders) for data in _contents(path))):
        for place, forms in spelled.items():
            if any(form in data for form in forms):
                found.setdefault(place, []).append(name)
    return found


def _spellings(value: str) -> Iterator[bytes]:
    yield value.encode()
    for before in range(3):  # Base64 takes three bytes at a time; what is around the value is not known
        packed = base64.b64encode(b"\0" * before + value.encode())
        yield packed[4 if before else 0 : -4]


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def _contents(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist()).encode()
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
