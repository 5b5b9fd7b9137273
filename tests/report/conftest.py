"""A finished study in a real SQLite store, made once for all tests of the report."""

import pytest
from support.trial_folders import make_experiment, track_study, write_study


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """The experiment and its tracking URI."""
    experiment = make_experiment(str(tmp_path_factory.mktemp("study")), seeds=[0, 1])
    return experiment, track_study(experiment, write_study(experiment))
