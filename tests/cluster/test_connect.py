import json
import re
import time
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

from tinyllm_ray.cluster import capacity, connect, pools
from tinyllm_ray.cluster.capacity import GIB, NodeKind, check_capacity, node_kinds
from tinyllm_ray.config import UserError, load_experiment, validate
from tinyllm_ray.schema import Experiment, Pool, Pools, StudentPool, TeacherPool

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
LAUNCHER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
RAY_CLUSTER = yaml.safe_load((ROOT / "experiments" / "kuberay" / "cluster.yaml").read_text())
RAY_JOB = yaml.safe_load((ROOT / "experiments" / "kuberay" / "job.yaml").read_text())


def experiment(**pools: dict) -> Experiment:
    teachers = [{"name": "one", "model": "m"}]
    raw = {"name": "x", "dataset": {"name": "d"}, "teachers": teachers, "student": {"model": "s"}, "pools": pools}
    return validate(raw)


def test_a_pool_becomes_ray_requests() -> None:
    pool = Pool(
        gpus_per_worker=0.5, cpus_per_worker=2, memory_gib_per_worker=3, resource="teacher_pool", labels={"a": "b"}
    )
    assert pools.actor_options(pool) == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "resources": {"teacher_pool": 1},
        "memory": 3 * GIB,
        "label_selector": {"a": "b"},
    }
    assert pools.bundle(pool) == {"CPU": 2, "GPU": 0.5, "memory": 3 * GIB, "teacher_pool": 1}


def test_ranks_are_elastic_where_the_pool_says_how_few_will_do() -> None:
    pool = Pool(workers=4, min_workers=2, gpus_per_worker=1, resource="student_pool")
    elastic = pools.scaling_config(pool, 4)
    assert elastic.num_workers == (2, 4)
    assert elastic.resources_per_worker == {"CPU": 1, "GPU": 1, "student_pool": 1}
    assert pools.scaling_config(pool, 2).num_workers == 2


def test_a_one_rank_trial_holds_its_worker_and_the_driver_of_several_next_to_nothing() -> None:
    pool = Pool(workers=5, resource="student_pool")
    assert pools.trial_resources(pool, 1).bundles == [{"CPU": 1, "student_pool": 1}]
    assert pools.trial_resources(pool, 2).bundles == [{"CPU": 0.01}]
    assert [pools.concurrent_trials(pool, ranks) for ranks in (1, 2, 5, 8)] == [5, 2, 1, 1]


def test_only_the_pools_module_says_what_ray_is_asked_for() -> None:
    modules = [path for path in (ROOT / "tinyllm_ray").rglob("*.py") if "num_gpus" in path.read_text()]
    assert [path.name for path in modules] == ["pools.py"]


def test_a_local_ray_declares_both_pools_and_cpus_beside_them() -> None:
    declared = pools.local_node(
        Pools(teacher=TeacherPool(workers=30, resource="t"), student=StudentPool(workers=40, resource="s"))
    )
    assert declared == {"num_cpus": 74, "resources": {"t": 30, "s": 40}}


def test_a_node_holds_as_many_workers_as_its_scarcest_resource_allows() -> None:
    node = NodeKind("n", 1, Counter({"CPU": 8, "GPU": 2, "t": 3}), {"tier": "big"})
    assert node.holds(Pool(cpus_per_worker=2, gpus_per_worker=1, resource="t")) == 2
    assert node.holds(Pool(cpus_per_worker=3, gpus_per_worker=0.25, resource="t")) == 2
    assert node.holds(Pool(cpus_per_worker=1, gpus_per_worker=0.25, resource="t")) == 3
    assert node.holds(Pool(resource="s")) == 0
    assert node.holds(Pool(resource="t", memory_gib_per_worker=900)) == 3  # it does not declare its memory


@pytest.mark.parametrize(
    ("selector", "fits"),
    [("big", True), ("!big", False), ("in(small, big)", True), ("!in(small,big)", False), ("small", False)],
)
def test_label_selectors_are_read_as_ray_reads_them(selector: str, fits: bool) -> None:
    node = NodeKind("n", 1, Counter({"CPU": 1}), {"tier": "big"})
    assert bool(node.holds(Pool(labels={"tier": selector}))) == fits


def test_the_capacity_check_says_what_each_pool_asks_and_what_there_is() -> None:
    assert check_capacity(experiment(teacher={"workers": 2, "resource": "teacher_pool"})) == [
        "teacher pool: 2 x (CPU 1, teacher_pool 1); this machine has room for 2",
        "student pool: 1 x (CPU 1, student_pool 1); this machine has room for 1",
    ]


def test_the_room_of_a_machine_is_its_cores_and_not_the_cpus_that_ray_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    (_, line) = check_capacity(experiment(student={"workers": 100, "resource": "student_pool"}))
    words = "100 x (CPU 1, student_pool 1); this machine has room for 2, and 100 share its cores"
    assert line == f"student pool: {words}"


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        ({"teacher": {"gpus_per_worker": 64}}, ["pools.teacher:", "GPU 64", "this machine has", "gpus_per_worker"]),
        ({"student": {"memory_gib_per_worker": 10**6}}, ["pools.student:", "1e+06 GiB", "memory_gib_per_worker"]),
    ],
)
def test_a_pool_that_cannot_be_had_is_refused_with_the_key_to_change(pools: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_capacity(experiment(**pools))
    assert all(word in str(caught.value) for word in words), caught.value


def test_teachers_with_a_store_need_no_teacher_pool() -> None:
    raw = experiment(teacher={"gpus_per_worker": 64}).model_dump(mode="json")
    raw["teachers"][0]["store"] = "/stores/one"
    assert [line.split()[0] for line in check_capacity(validate(raw))] == ["student"]


def test_only_the_pools_that_a_command_works_in_are_asked_for() -> None:
    never = {"gpus_per_worker": 64}
    assert [line.split()[0] for line in check_capacity(experiment(student=never), ["teacher"])] == ["teacher"]
    assert [line.split()[0] for line in check_capacity(experiment(teacher=never), ["student"])] == ["student"]


def test_teachers_in_parallel_need_a_worker_each() -> None:
    raw = experiment(teacher={"workers": 2}).model_dump(mode="json")
    raw["pools"]["schedule"] = "parallel"
    raw["teachers"] = [
        raw["teachers"][0] | {"name": name, "task_prefix": f"{name}: "} for name in ("one", "two", "three")
    ]
    with pytest.raises(UserError, match=r"3 teachers would share 2 workers; set pools\.teacher\.workers to at least 3"):
        check_capacity(validate(raw))
    raw["teachers"][2]["store"] = "/stores/three"
    assert len(check_capacity(validate(raw))) == 2


def test_pools_that_work_at_once_are_asked_for_together() -> None:
    """Two GPUs a pool each: three would do for one after the other."""
    raw = experiment(teacher={"gpus_per_worker": 2, "resource": None}, student={"gpus_per_worker": 2, "resource": None})
    three = [NodeKind("three", 1, Counter({"CPU": 8, "GPU": 3}), {})]
    overlap = raw.model_copy(update={"pools": raw.pools.model_copy(update={"schedule": "overlap"})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "_what_there_is", lambda _: (three, "the live cluster has"))
        assert len(check_capacity(raw)) == 2
        with pytest.raises(UserError, match=r"overlap, so both pools work at once and ask for GPU 4, where there is 3"):
            check_capacity(overlap)


def test_the_launcher_file_agrees_with_rays_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    assert list(jsonschema.validators.validator_for(schema)(schema).iter_errors(LAUNCHER)) == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("where", ["launcher", "kuberay"])
def test_every_experiments_pools_fit_both_clusters_from_zero(where: str, path: Path) -> None:
    kinds = {kind.name: kind for kind in node_kinds(LAUNCHER if where == "launcher" else as_ray_reads(RAY_CLUSTER))}
    head = "head" if where == "launcher" else "headgroup"
    assert set(kinds) == {head, "teacher", "student"}
    assert kinds[head].resources["CPU"] == 0
    pools = load_experiment(path).pools
    for name, other in (("teacher", "student"), ("student", "teacher")):
        pool: Pool = getattr(pools, name)
        assert kinds[name].count * kinds[name].holds(pool) >= pool.workers
        assert kinds[other].holds(pool) == kinds[head].holds(pool) == 0
        assert not LAUNCHER["available_node_types"][name]["min_workers"]


def test_the_cluster_opens_no_port_and_asks_for_a_token() -> None:
    text = (ROOT / "cluster.yaml").read_text()
    assert "0.0.0.0" not in text and "::" not in text
    for command in LAUNCHER["head_start_ray_commands"] + LAUNCHER["worker_start_ray_commands"]:
        assert "ray start" not in command or "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in LAUNCHER["head_start_ray_commands"][-1]
    assert "mlflow server --host 127.0.0.1" in " ".join(LAUNCHER["head_setup_commands"])
    for kind in LAUNCHER["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]  # else the launcher makes one that lets SSH in from anywhere
    assert RAY_CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    assert RAY_CLUSTER["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_kuberay_files_use_the_operators_field_names() -> None:
    group = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    cluster_fields = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"}
    job_fields = {"clusterSelector", "submissionMode", "entrypoint", "runtimeEnvYAML", "metadata", "submitterConfig"}
    spec = RAY_CLUSTER["spec"]
    assert (RAY_CLUSTER["apiVersion"], RAY_CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(spec) == cluster_fields | {"workerGroupSpecs"}
    assert set(spec["headGroupSpec"]) == {"serviceType", "rayStartParams", "template"}
    assert all(set(worker) == group for worker in spec["workerGroupSpecs"])
    assert set(spec["autoscalerOptions"]) == {"version", "idleTimeoutSeconds"}
    assert spec["rayVersion"] == ray.__version__
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(RAY_JOB["spec"]) == job_fields
    assert RAY_JOB["spec"]["clusterSelector"] == {"ray.io/cluster": RAY_CLUSTER["metadata"]["name"]}
    assert yaml.safe_load(RAY_JOB["spec"]["runtimeEnvYAML"]) == {"env_vars": {"PYTHONPATH": "/app"}}
    script, given = re.findall(r"/app/(\S+)", RAY_JOB["spec"]["entrypoint"])
    assert (ROOT / script).is_file() and (ROOT / given).is_file()


@pytest.mark.parametrize("given", [None, "outputs/x", "./x"])
def test_a_relative_output_folder_is_refused_in_a_job(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connect.JOB_ENV, "{}")
    with pytest.raises(UserError, match=r"temporary copy.*output\.dir"):
        connect.check_output("/tmp/whatever", given=given)


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    start = time.monotonic()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x"), tmp_path / ("x" * 300), "foo://x"):
        with pytest.raises(UserError, match="cannot be written"):
            connect.check_output(str(folder), given=None)
    assert time.monotonic() - start < connect.PROBE_PATIENCE_S  # so long it would wait for one of the five
    connect.check_output(str(tmp_path / "folder"), given=None)
    assert list((tmp_path / "folder").iterdir()) == []


def as_ray_reads(raycluster: dict) -> dict:
    """The autoscaler's view of a RayCluster, by Ray's own reader."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr(raycluster | {"metadata": {"name": "x", "namespace": "default"}})
