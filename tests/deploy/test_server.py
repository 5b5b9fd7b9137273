"""What is refused before Ray starts: no extra, an address in use; and the command for an OpenAI-compatible server."""

import socket

import pytest
from support.tiny_students import save_model

from tinyllm_ray.config import UserError
from tinyllm_ray.deploy import server


def test_an_address_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127.0.0.1:{port} cannot be listened on .*give another --port"):
            server.check_server("127.0.0.1", port)
    server.check_server("127.0.0.1", port)


def test_without_the_extra_its_name_is_said(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tinyllm-ray\[serve\]'"):
        server.check_server("127.0.0.1", 0)


@pytest.mark.parametrize(("shape", "command"), [("llama", "vllm serve {} --host 127.0.0.1 --port 8001"), ("t5", "")])
def test_vllm_serves_decoder_only_students(tmp_path, shape, command):
    save_model(str(tmp_path / "model"), shape)
    assert server.openai_command(str(tmp_path / "model")) == command.format(tmp_path / "model")


def test_a_damaged_student_is_refused(tmp_path):
    save_model(str(tmp_path / "model"), "t5")
    with (tmp_path / "model/model.safetensors").open("r+b") as weights:
        weights.truncate(2000)
    with pytest.raises(UserError, match="cannot be loaded"):
        server.openai_command(str(tmp_path / "model"))
