"""The winner's model folder -> a registered MLflow model with the alias `champion`.

In: the trial that won and its end. Out: {"name", "version", "uri", "run_id"}, also as tags of the parent run.
"""

from dataclasses import asdict
from typing import Any, Protocol

from tinyllm_ray import storage
from tinyllm_ray.data.questions import QuestionFile, read_questions
from tinyllm_ray.student.records import INPUT_FORMAT
from tinyllm_ray.tracking.models import ALIAS
from tinyllm_ray.tracking.tracker import Tracker


class Winner(Protocol):
    """What of `student.train.Trial` is read here."""

    @property
    def key(self) -> str: ...

    @property
    def dir(self) -> str: ...


def log_champion(
    trial: Winner, end: dict[str, Any], *, tracker: Tracker, name: str, questions: dict[str, QuestionFile]
) -> dict[str, str]:
    """Empty where the server is away for longer than `tracking.flush_timeout_s`; the next run registers it then."""
    question = read_questions(next(iter(questions.values())).path)[0]
    example = {"question": question.question, "choices": question.choices}
    registered = tracker.register(
        trial.key,
        storage.join(trial.dir, "model"),
        name=name,
        example=example,
        about=_describe(trial, end, name=name, example=example),
    )
    if registered is None:
        return {}
    values = asdict(registered)
    tracker.summarize({}, tags={f"champion.{key}": value for key, value in values.items()}, artifacts=[])
    return values


def _describe(trial: Winner, end: dict[str, Any], *, name: str, example: dict[str, Any]) -> str:
    scores = ", ".join(f"{metric} {end[metric]:.4f}" for metric in ("eval/accuracy", "test/accuracy") if metric in end)
    uri = f"models:/{name}@{ALIAS}"
    loader = "AutoModelForSeq2SeqLM / AutoModelForCausalLM"
    return "\n".join(
        [
            f"`{trial.key}`: {scores}.",
            "",
            "```python",
            f"student = mlflow.pyfunc.load_model({uri!r})",
            f"student.predict([{example!r}])",
            'student.predict([...], params={"rationales": True})  # with its own rationales, by teacher',
            "```",
            "",
            INPUT_FORMAT,
            "",
            f"The plain Hugging Face folder, for {loader}: "
            f"`mlflow.artifacts.download_artifacts({uri + '/artifacts/model'!r})`.",
        ]
    )
