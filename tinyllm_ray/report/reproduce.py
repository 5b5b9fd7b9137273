"""The exact command and config of an MLflow run, and what differs today.

In: a run id and a tracking URI. Out: {"command", "config", "differs", "lines"}; nothing is written or run.
"""

import shlex
from typing import Any

import yaml

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.tracking.lineage import git_commit, versions
from tinyllm_ray.tracking.read import Record, Records, default_uri, stores_here

CONFIG = "reproduce.yaml"


def reproduce(run_id: str, *, uri: str = "") -> dict[str, Any]:
    """Raises UserError where the store or the run is not there."""
    records = _records_with(run_id, uri)
    uri, run = records.uri, records.run(run_id)
    if "output.dir" not in run.tags:
        raise UserError(f"run {run_id} at {uri} was not made by this project (it has no tag output.dir)")
    child = "mlflow.parentRunId" in run.tags
    parent = records.run(run.tags["mlflow.parentRunId"]) if child else run
    source = run if "config.yaml" in records.files(run.run_id, "") else parent
    config = yaml.safe_load(records.artifact(source.run_id, "config.yaml"))
    differs = what_differs(run, parent, records)
    command = _command(run) if child else run.tags["command"]
    return {
        "run_id": run_id,
        "name": run.name,
        "command": command,
        "original_command": run.tags["command"],
        "config": config,
        "differs": differs,
        "lines": _lines(run, command, config, differs),
    }


def _records_with(run_id: str, uri: str) -> Records:
    """The given store, else the first one that has the run: the usual one, or one of the current folder's outputs."""
    stores = [uri] if uri else list(dict.fromkeys([default_uri(), *stores_here()]))
    for store_uri in stores[:-1]:
        try:
            records = Records(store_uri)
            records.run(run_id)
            return records
        except UserError:
            continue  # it may be in the next one
    return Records(stores[-1])


def what_differs(run: Record, parent: Record, records: Records) -> dict[str, dict[str, Any]]:
    """Name -> what it was then and is now: versions, git commit, store and dataset digests; equal ones are left out."""
    now: dict[str, Any] = {f"version.{name}": version for name, version in versions().items()}
    now["git.commit"] = git_commit()
    then = {name: value for name, value in run.tags.items() if name in now or name.startswith(("version.", "store."))}
    for name in then:
        if name.startswith("store."):
            now[name] = _content(run, name.removeprefix("store."))
    for dataset in records.datasets(parent.run_id):
        then[f"questions.{dataset.name}"] = dataset.digest
        now[f"questions.{dataset.name}"] = _question_digest(dataset.uri)
    names = sorted(set(then) | set(now))
    pairs = {name: {"then": then.get(name), "now": now.get(name)} for name in names}
    return {name: pair for name, pair in pairs.items() if pair["then"] != pair["now"]}


def _command(run: Record) -> str:
    """Of one training: its config holds the variant's overrides, so `train` with its seed and stores makes it again."""
    parts = ["tinyllm-ray", "train", CONFIG, f"seeds=[{run.tags['seed']}]"]
    parts += [f"pools.student.workers={run.tags['ranks']}", f"output.dir=outputs/reproduce-{run.run_id[:8]}"]
    for tag, folder in run.tags.items():
        kind, _, teacher = tag.partition(".")
        if kind == "rationales" and ":" not in teacher:
            parts.append(f"teachers.{teacher}.store={folder}")
    if "arrivals" in run.tags:  # the order in which the teachers' rows came
        parts.append(f"pools.overlap.arrivals={run.tags['arrivals']}")
    return shlex.join(parts)  # quoted: a bare [0] is a pattern to zsh


def _content(run: Record, teacher: str) -> str | None:
    """The digest that the store has now; None where it is not to be found."""
    folder = run.tags.get(f"rationales.{teacher}")
    if folder is None or not storage.exists(storage.join(folder, "manifest.json")):
        return None
    return store.content_digest(folder)


def _question_digest(path: str) -> str | None:
    """As `questions.prepare_questions` wrote it beside the split; None where it is not to be found."""
    folder, _, name = path.rpartition("/")
    manifest = storage.join(folder, "manifest.json")
    if not storage.exists(manifest):
        return None
    splits, split = storage.read_json(manifest)["splits"], name.removesuffix(".parquet")
    return splits[split]["digest"] if split in splits else None


def _lines(run: Record, command: str, config: dict[str, Any], differs: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"# {run.name}, run {run.run_id}", f"# made by: {run.tags['command']}"]
    lines += [f"# differs today: {name}: then {pair['then']}, now {pair['now']}" for name, pair in differs.items()]
    lines += [] if differs else ["# nothing differs today: versions, git commit, stores and questions are the same"]
    lines += ["# secrets are blanked as ***; set them again in the environment or the config"]
    if "***" not in str(config):
        lines.pop()
    lines += [f"git checkout {run.tags['git.commit'].partition(' ')[0]}"]
    if command != run.tags["command"]:
        text = yaml.safe_dump(config, sort_keys=False)
        lines += [f"cat > {CONFIG} <<'END'", text.rstrip(), "END"]
    return [*lines, command]
