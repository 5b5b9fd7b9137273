"""The commands: parse, call one function each, print. A user's mistake is one message and exit code 2."""

from tinyllm_ray.cli import looking, pipeline, students
from tinyllm_ray.cli.base import app
from tinyllm_ray.terminal.command import run_command

__all__ = ["app", "looking", "main", "pipeline", "students"]


def main() -> None:
    """Entry point of `tinyllm-ray`, of `python -m tinyllm_ray.cli` and of jobs/."""
    run_command(app)
