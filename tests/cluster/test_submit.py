import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from tinyllm_ray.cluster.submit import find_token, package, submit
from tinyllm_ray.config import UserError, load_experiment, validate


def test_a_job_gets_the_experiment_with_what_it_extends(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "base.yaml").write_text((repository / "experiments" / "obqa.yaml").read_text())
    path = tmp_path / "below" / "mine.yaml"
    path.write_text("extends: ../base.yaml\nname: '010'\ndataset: {path: s3://bucket/data}\n")
    target = tmp_path / "package"
    target.mkdir()
    inside = package(load_experiment(path), path, target)
    assert load_experiment(target / inside) == load_experiment(path)
    assert load_experiment(target / inside).name == "010"


def test_a_job_takes_the_package_the_entry_points_and_named_files_and_nothing_else(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data/train.jsonl", "data/outputs/big.bin", "outputs/x/stores/part.parquet", ".venv/lib.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    raw = load_experiment(repository / "experiments" / "obqa.yaml").model_dump(mode="json")
    raw |= {"dataset": {"name": "d", "format": "jsonl", "path": "data"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    target = tmp_path / "package"
    target.mkdir()
    assert package(validate(raw), tmp_path / "mine.yaml", target) == "experiments/mine.yaml"
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"jobs/pipeline.py", "tinyllm_ray/cli/pipeline.py", "experiments/mine.yaml", "data/train.jsonl"} <= files
    assert {name.split("/")[0] for name in files} == {"jobs", "tinyllm_ray", "experiments", "data"}
    assert not [name for name in files if "outputs" in name or "__pycache__" in name]


def test_submitting_asks_for_an_address_an_absolute_output_folder_and_the_data(repository: Path) -> None:
    path = repository / "experiments" / "obqa.yaml"
    with pytest.raises(UserError, match=r"output\.dir is None"):
        submit(path, [], address="http://127.0.0.1:1")
    with pytest.raises(UserError, match="--address"):
        submit(path, ["output.dir=/x", "dataset.path=/data"], address="")
    with pytest.raises(UserError, match=r"dataset\.path is the relative path 'none', which is not here"):
        submit(path, ["output.dir=/x", "dataset.path=none"], address="http://127.0.0.1:1")
    with pytest.raises(UserError, match="no Ray dashboard answers"):
        submit(path, ["output.dir=/x", "dataset.path=/data"], address="http://127.0.0.1:1")


def test_the_token_is_looked_for_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("default\n")
    assert find_token() == "default"
    (tmp_path / "other").write_text("named")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert find_token() == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "direct")
    assert find_token() == "direct"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert find_token() is None


def refusal(repository: Path, address: str) -> str:
    experiment = repository / "experiments" / "obqa.yaml"
    with pytest.raises(UserError) as caught:
        submit(experiment, ["output.dir=/x", "dataset.path=/data"], address=address)
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["x", "auto", "127.0.0.1:8265", "ray://127.0.0.1:10001", "ftp://x", "http://", "http://h:99999", "http://[::1"],
)
def test_only_a_dashboards_address_is_asked(repository: Path, address: str) -> None:
    assert f"--address {address!r} is no address of a dashboard; give one such as http://HOST:8265" in refusal(
        repository, address
    )


def test_a_password_in_the_address_is_refused_and_not_repeated(repository: Path) -> None:
    said = refusal(repository, "http://me:hunter22@127.0.0.1:1")
    assert "holds credentials" in said and "hunter22" not in said


def test_a_dashboard_that_takes_connections_and_never_answers_is_given_up(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyllm_ray.cluster.submit.DASHBOARD_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "timed out; check --address" in refusal(repository, f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("body", [b"<html>", b"null", b"[]", b"{}", b'{"version": 3}', b"\xff"])
def test_a_server_that_is_no_dashboard_is_one_message(repository: Path, body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = refusal(repository, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert "is no Ray dashboard" in said or "refused" in said, said
