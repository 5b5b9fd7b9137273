"""A .gguf file unpacked to the folder that everything else reads."""

from pathlib import Path

import pytest
import torch
from support.tiny_gguf import save_both
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyllm_ray.config import UserError
from tinyllm_ray.data.gguf import is_gguf, unpack


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return save_both(tmp_path_factory.mktemp("gguf"))


def test_the_unpacked_model_writes_what_the_same_weights_write(both: tuple[str, str], tmp_path: Path) -> None:
    file, plain = both
    folder = unpack(file, key="teachers.t.model", output_dir=str(tmp_path))
    assert Path(folder).parent == tmp_path / "models" and any(Path(folder).glob("*.safetensors"))
    prompt = torch.tensor([[20, 30, 40, 50]])
    texts = []
    for model in (folder, plain):
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        texts.append(loaded.generate(input_ids=prompt, max_new_tokens=12, do_sample=False)[0].tolist())
    assert texts[0] == texts[1]
    text = "the sun shines"
    assert (
        AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
        == (AutoTokenizer.from_pretrained(plain)(text, add_special_tokens=False)["input_ids"])
    )


def test_a_file_is_unpacked_once(both: tuple[str, str], tmp_path: Path) -> None:
    folder = unpack(both[0], key="k", output_dir=str(tmp_path))
    written = (Path(folder) / "config.json").stat().st_mtime_ns
    assert unpack(both[0], key="k", output_dir=str(tmp_path)) == folder
    assert (Path(folder) / "config.json").stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "models").iterdir()] == [Path(folder).name]


def test_a_damaged_or_missing_file_is_said_with_its_key(both: tuple[str, str], tmp_path: Path) -> None:
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(Path(both[0]).read_bytes()[:5000])
    with pytest.raises(UserError, match=r"teachers\.t\.model: .*cut\.gguf cannot be read as a GGUF model"):
        unpack(str(damaged), key="teachers.t.model", output_dir=str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("config.json"))
    with pytest.raises(UserError, match=r"there is no file .*none\.gguf; beside it: cut\.gguf"):
        unpack(str(tmp_path / "none.gguf"), key="k", output_dir=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"unpacked below output\.dir, which is s3://bucket/x"):
        unpack(str(damaged), key="k", output_dir="s3://bucket/x")


def test_only_the_name_says_that_a_model_is_one() -> None:
    assert is_gguf("models/SmolLM2.Q4_1.GGUF") and not is_gguf("org/model-gguf")
