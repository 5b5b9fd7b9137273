"""A server that answers in many wrong or odd ways: each answer is one row's text or failure, in time."""

import asyncio
import random
import re
import time
from pathlib import Path

from fuzz.counting import Counts
from pydantic import SecretStr
from support.hostile_endpoint import CAP_MIB, KEY, MODES, PATIENT_S, Mode, hostile
from support.prompt_files import prompt_file

from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.endpoint import EndpointActor


def fuzz_endpoint(number: int, *, seed: int, folder: Path) -> Counts:
    """As many modes as there are, drawn without repetition."""
    counts, rng = Counts(), random.Random(seed)
    for case, mode in enumerate(rng.sample(MODES, min(number, len(MODES)))):
        counts.tried += 1
        began = time.monotonic()
        row = _ask(mode, folder / f"case{case}")
        if time.monotonic() - began > PATIENT_S * (mode.retries + 2):
            counts.fault("unbounded", mode.name)
        _compare(counts, mode, row)
    return counts


def _ask(mode: Mode, folder: Path) -> dict[str, str]:
    folder.mkdir()
    files = prompt_file(folder, rows=1)
    with hostile(mode) as url:
        settings = EndpointSettings(
            type="endpoint", url=url, max_retries=mode.retries, timeout_s=mode.timeout_s, max_answer_mib=CAP_MIB
        )
        teacher = Teacher(name="far", model="m", engine=settings)

        async def ask() -> list[dict[str, str]]:
            actor = EndpointActor(
                teacher=teacher, settings=settings, key=SecretStr(KEY), chat=True, tokenizer=None, log_file=None
            )
            return (await actor(files)).to_pylist()

        try:
            return asyncio.run(ask())[0]
        except Exception as error:  # noqa: BLE001 whatever stops a teacher is what is looked for
            return {"error": repr(error)}


def _compare(counts: Counts, mode: Mode, row: dict[str, str]) -> None:
    if "error" in row:
        counts.fault("tracebacks", f"{mode.name}: {row['error']}")
    elif mode.failure and row["text"]:
        counts.fault("bad_accepted", f"{mode.name}: {row['text']!r}")
    elif mode.failure and not re.search(mode.failure, row["failure"]):
        counts.fault("wrong_readings", f"{mode.name}: {row['failure']!r} instead of {mode.failure!r}")
    elif not mode.failure and row["failure"]:
        counts.fault("good_refused", f"{mode.name}: {row['failure']}")
    elif not mode.failure and row["text"] != mode.text:
        counts.fault("wrong_readings", f"{mode.name}: {row['text']!r}")
    if KEY in str(row):
        counts.fault("secrets_found", mode.name)
