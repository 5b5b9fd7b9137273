"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyllm_ray.schema import Experiment

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small; threads only wait for one another
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # as a Ray that is started here has it; set before Ray is imported
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")  # nobody looks at the load that Ray's agents measure
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The published rationales; a test that needs them is skipped where they are not present."""
    folder = Path(os.environ.get("TINYLLM_REFERENCE_DATA", ROOT.parent / "shared" / "reference_data"))
    if not folder.is_dir():
        pytest.skip("the reference data is not on this machine (set TINYLLM_REFERENCE_DATA to its folder)")
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, str]:
    """A finished study in a real SQLite store, larger than a test can train: the experiment and its tracking URI."""
    from support.trial_folders import make_experiment, track_study, write_study

    experiment = make_experiment(str(tmp_path_factory.mktemp("study")), seeds=[0, 1])
    return experiment, track_study(experiment, write_study(experiment))


@pytest.fixture(scope="session")
def object_store_port() -> Iterator[int]:
    """The port of an S3-compatible server that may come, named in the environment of all that is started after this."""
    from support.ray_head import free_port

    port = free_port()
    keys = {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    environment = pytest.MonkeyPatch()
    for name, value in {**keys, "ENDPOINT_URL": f"http://127.0.0.1:{port}", "EC2_METADATA_DISABLED": "true"}.items():
        environment.setenv(f"AWS_{name}", value)
    yield port
    environment.undo()


@pytest.fixture(scope="session")
def shared_ray(object_store_port: int) -> Iterator[dict[str, str]]:
    """The environment of a command that joins the Ray of this worker process in place of starting one."""
    from support.shared_ray import running_ray

    with running_ray() as address:
        yield os.environ | {"RAY_ADDRESS": address}


@pytest.fixture(scope="module")
def joined_ray(shared_ray: dict[str, str]) -> Iterator[None]:
    """This process joins the Ray of this worker for the tests of a file."""
    import ray

    ray.init(shared_ray["RAY_ADDRESS"], log_to_driver=False)
    yield
    ray.shutdown()


# Files whose tests share what takes long to make, and so a worker of pytest-xdist (other files are a group each), and
# files that take long. They start first, in this order, so that no worker ends alone.
GROUPS = {
    "integration/test_endpoint_vllm.py": "shared Ray",
    "faults/test_endpoint.py": "shared Ray",
    "integration/test_pipeline.py": "miniature",
    "integration/test_browser.py": "miniature",
    "report/test_page.py": "miniature",
    "report/test_reproduce.py": "miniature",
    "integration/test_jobs.py": "jobs",
    "integration/test_storage.py": "storage",
    "integration/test_pools.py": "pools",
    "integration/test_rationales.py": "rationales",
    "faults/test_teachers.py": "faults",
    "integration/test_progress.py": "progress",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, then other tests that start an engine or a server."""
    order = list(GROUPS)

    def rank(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0].removeprefix("tests/")
        return order.index(file) if file in GROUPS else len(order) + (item.get_closest_marker("engine") is None)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadscope the tests of a file, or of a group of files, all run in one worker."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0].removeprefix("tests/")
            return GROUPS.get(file, file)

    return Groups(config, log)
