"""What the commands share: the application, the arguments that many take, a command's session and its result."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyllm_ray import storage
from tinyllm_ray.config import load_experiment, output_dir
from tinyllm_ray.lock import hold
from tinyllm_ray.session import Session
from tinyllm_ray.terminal.command import OUTPUT
from tinyllm_ray.terminal.output import send_chatter_to
from tinyllm_ray.terminal.progress import say

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distill several teachers into one small student, on Ray.",
)
ExperimentFile = Annotated[
    Path, typer.Argument(help="experiment file, such as experiments/miniature.yaml", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key.path=value, such as loss.label_weight=0.5", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="write one JSON object to stdout, and nothing else")]


@app.callback(invoke_without_command=True)
def versions(version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if version:
        from importlib.metadata import version as version_of

        OUTPUT.write_result(f"tinyllm-ray {version_of('tinyllm-ray')}")
        raise typer.Exit


@contextmanager
def session_of(experiment: Path, overrides: list[str] | None, *, writes: bool = False) -> Iterator[Session]:
    """The session of one command; one that `writes` sends its engines' chatter to a file and has the folder alone."""
    loaded = load_experiment(experiment, overrides or [])
    folder = output_dir(loaded)
    with Session(loaded, say=say) as session, hold(folder, command=sys.argv[1], say=say) if writes else nullcontext():
        if writes and storage.is_local(folder):
            send_chatter_to(storage.local_path(folder) / "logs" / "engines.log")
        yield session


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    OUTPUT.write_result(json.dumps(result, ensure_ascii=False) if as_json else text)
