"""What a finished experiment of words must have left in its output folder, on whatever storage."""

from tinyllm_ray import storage
from tinyllm_ray.data import store


def assert_all_is_there(out: str, model: str, *, checkpoints: list[int]) -> None:
    """The 96 rationales, and of the trial that made `model` its files and its two newest checkpoints (steps)."""
    assert model.startswith(out)
    trial = model.removesuffix("/model")
    names = [name.removeprefix(trial + "/") for name in storage.list_files(trial)]
    assert {"config.yaml", "result.json", "model/model.safetensors", "predictions/test.parquet"} <= set(names)
    states = [name for name in names if name.startswith("checkpoints/") and name.endswith("state.json")]
    assert states == [f"checkpoints/{step:09d}/state.json" for step in checkpoints]
    (folder,) = {part.rpartition("/")[0].rpartition("/")[0] for part in storage.list_files(f"{out}/stores", ".parquet")}
    assert len(store.read(folder, "train", ["key"])) == 96
