"""Whatever a server answers becomes one row's text or failure, in time and within bounded memory."""

import asyncio
import re
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.hostile_endpoint import CAP_MIB, KEY, MODES, PATIENT_S, Mode, hostile
from support.prompt_files import prompt_file

from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.endpoint import EndpointActor


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name.replace(" ", "-"))
def test_an_odd_answer_is_one_text_or_one_failure(mode: Mode, tmp_path: Path) -> None:
    files = prompt_file(tmp_path, rows=1)
    with hostile(mode) as url:
        settings = EndpointSettings(
            type="endpoint", url=url, max_retries=mode.retries, timeout_s=mode.timeout_s, max_answer_mib=CAP_MIB
        )
        teacher = Teacher(name="far", model="m", engine=settings)

        async def ask() -> list[dict]:
            actor = EndpointActor(
                teacher=teacher, settings=settings, key=SecretStr(KEY), chat=True, tokenizer=None, log_file=None
            )
            return (await actor(files)).to_pylist()

        row = asyncio.run(asyncio.wait_for(ask(), PATIENT_S * (mode.retries + 2)))[0]
    if mode.failure:
        assert re.search(mode.failure, row["failure"]), row["failure"]
        assert (row["text"], row["finish_reason"]) == ("", "failed")
    else:
        assert (row["text"], row["failure"]) == (mode.text, "")
    assert KEY not in str(row)
