"""A model is found by its folder, its trial, its registered name; a mistake gets the nearest name."""

import mlflow
import pytest
from support.champions import register

from tinyllm_ray.config import UserError
from tinyllm_ray.tracking.find import find_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    return *register(str(folder / "outputs" / "study"), "t5"), folder


def test_a_model_is_found_by_its_folder_its_trial_and_its_name(made, monkeypatch):
    registered, model, here = made
    assert find_model(model) == find_model(model.removesuffix("/model")) == model
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)
    copy = find_model("models:/study-t5@champion")
    assert (here / copy / "student.json").read_bytes() == (here / model / "student.json").read_bytes()
    assert find_model("google/flan-t5-small") == "google/flan-t5-small"
    with pytest.raises(UserError, match="did you mean models:/study-t5@champion"):
        find_model("models:/studi-t5@champion", uri=registered["tracking_uri"])


def test_a_folder_without_a_model_is_refused_with_the_nearest_name(made):
    _, model, _ = made
    with pytest.raises(UserError, match=r"did you mean .*/won\?"):
        find_model(model.removesuffix("/model") + "n")
    with pytest.raises(UserError, match="holds no model"):
        find_model(model.removesuffix("/won/model"))
