"""A student's folder as a model on a Hugging Face hub, or a store of rationales as a dataset, each with its card.

In: the folder and the name OWNER/NAME of the repository. Out: its address. The token is the one of `hf auth login` or
of HF_TOKEN; HF_ENDPOINT names another hub.
"""

from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.rows import SPLITS
from tinyllm_ray.terminal.progress import step

OF_A_STORE = ["manifest.json", "*/part-*.parquet"]


def is_store(folder: str) -> bool:
    return storage.exists(storage.join(folder, "manifest.json"))


def export_hub(folder: str, repo: str, *, public: bool) -> dict[str, Any]:
    """Make the repository where it is not there yet, and put the folder into it. Raises UserError with the reason."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if not storage.exists(folder):
        raise UserError(f"--to hub uploads a model folder or a store; {folder} is neither")
    api, kind = HfApi(), "dataset" if is_store(folder) else "model"
    local = str(storage.local_folder(folder))
    try:
        with step(f"uploading a {kind}"):
            address = str(api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True))
            allowed = OF_A_STORE if kind == "dataset" else None
            api.upload_folder(repo_id=repo, repo_type=kind, folder_path=local, allow_patterns=allowed)
            if kind == "dataset":
                card = dataset_card(folder).encode()
                api.upload_file(repo_id=repo, repo_type=kind, path_or_fileobj=card, path_in_repo="README.md")
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE=1 forbids every upload; unset it and give the command again") from None
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--repo {repo}: the hub refused: {reason}; check the name OWNER/NAME and `hf auth login` (or HF_TOKEN)"
        ) from None
    return {"repo": repo, "kind": kind, "url": address, "public": public}


def dataset_card(folder: str) -> str:
    """Who wrote the rationales, for which questions and with which settings, and how many there are."""
    made_with = store.read_manifest(folder)
    rows = {split: store.read(folder, split, ["key"]).num_rows for split in SPLITS}
    there = {split: count for split, count in rows.items() if count}
    settings = {name: value for name, value in made_with.items() if isinstance(value, str | int | float | bool)}
    return "\n".join(
        [
            "---",
            "tags: [distillation, rationales]",
            "configs:",
            "- config_name: default",
            "  data_files:",
            *(f"  - {{split: {split}, path: {split}/part-*.parquet}}" for split in there),
            "---",
            f"# Rationales of `{made_with['teacher']}` for `{made_with['dataset']}`",
            "",
            f"Written by `{made_with['model']}`; its license holds for them, and so does that of the questions. Each "
            "row has a question's id, the text, the answer that it states, how it ended, and what made it (`key`).",
            "",
            "| split | rationales |",
            "|---|---|",
            *(f"| {split} | {count} |" for split, count in there.items()),
            "",
            "| setting | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in settings.items()),
            "",
            "`manifest.json` holds all settings. tinyllm_ray reads the folder as a teacher's `store`.",
            "",
        ]
    )
