"""One SQLite store for all tests of tracking: making it takes MLflow longer than any of them."""

import mlflow
import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(store) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(store)
