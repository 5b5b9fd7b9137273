"""Who teaches and what they are asked: `prompts` and `teachers`."""

from typing import Any, Literal

from pydantic import Field, model_validator

from tinyllm_ray.schema.base import Fraction, Name, Section
from tinyllm_ray.schema.engines import AutoSettings, CustomSettings, EngineSettings


class InContext(Section):
    examples: int = Field(2, ge=0, description="solved examples in a teacher's prompt")
    pool: int | None = Field(
        None, ge=1, description="number of example sets that all questions share; null: drawn for each question"
    )
    rationales: str = Field(
        "none",
        pattern=r"^(none|bootstrap|file:.+)$",
        description="rationales in the examples. none: answers alone; file:PATH: JSON lines of question_id and "
        "rationale; bootstrap: the teacher's own for 64 training questions, those without a flag",
    )


class Prompts(Section):
    template: str = Field("paper", description="name of a packaged template or path of a file that holds {question}")
    in_context: InContext = Field(InContext(), description="the solved examples in a teacher's prompt")
    teacher_forcing: bool = Field(True, description="show the gold answer in the teacher's prompt")
    chat_template: Literal["auto", "always", "never"] = Field(
        "auto", description="the tokenizer's chat template; auto: where it has one"
    )
    rationale_splits: list[Literal["train", "validation", "test"]] = Field(
        ["train", "validation"], description="splits for which the teachers write rationales"
    )
    answer_splits: list[Literal["train", "validation", "test"]] = Field(
        [], description="splits that the teachers also answer without teacher forcing, which scores them"
    )
    seed: int = Field(0, description="seed of the in-context choice")


class Sampling(Section):
    max_tokens: int = Field(128, ge=1, description="new tokens a rationale may have")
    temperature: float = Field(0.0, ge=0, description="0 always takes the likeliest token; higher draws more freely")
    top_p: float = Field(1.0, gt=0, le=1, description="draw from the likeliest tokens of this total probability")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens that were written less likely")
    stop: list[str] | None = Field(
        None,
        description="texts that end a rationale; null: where a decoder-only model begins the next example of the "
        "template, such as a line that starts with `Question:`, and none for other models",
    )
    stop_at_repeats: int | None = Field(
        None,
        ge=2,
        description="a rationale that says the same 8 to 40 tokens this many times in a row ends there, at 2 or more, "
        "with engines that run vLLM; null: never",
    )
    seed: int = Field(0, ge=0, description="seed of the sampling; unused where temperature is 0")


class SoftTargets(Section):
    top_k: int = Field(
        20, ge=1, description="likeliest tokens whose log-probabilities are kept for each token of a text; 6 bytes each"
    )
    on_mismatch: Literal["refuse", "cross_entropy"] = Field(
        "refuse",
        description="where the student has another vocabulary. refuse: say so before anything starts; cross_entropy: "
        "train on the teacher's text alone, and say so",
    )


def _prefix_of_name(given: dict[str, Any]) -> str:
    return f"{given.get('name', '')}: "


class Teacher(Section):
    name: Name = Field(description="the teacher's name in weights, stores, metrics and overrides")
    model: str | None = Field(
        None, description="hub id, folder, or a .gguf file, which is unpacked below output.dir; null only with `store`"
    )
    revision: str | None = Field(None, description="hub revision: a branch, tag or commit; null: the hub's default")
    store: str | None = Field(None, description="folder of existing rationales (holds <split>/); nothing is generated")
    task_prefix: str = Field(
        default_factory=_prefix_of_name,
        description="what the student's input starts with for this teacher's rationale; by default the teacher's name "
        "and `: `; no two teachers share one",
    )
    engine: EngineSettings = Field(AutoSettings(), description="what runs the model: `type` and that engine's keys")
    system_prompt: str | None = Field(
        None, description="what the chat's system turn says; null: what the chat template says by itself"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="values that the chat template asks for, such as {enable_thinking: false}"
    )
    reasoning: Literal["keep", "drop", "only"] = Field(
        "keep",
        description="of a reasoning model, what becomes the rationale. keep: its thought and what follows; drop: what "
        "follows; only: the thought",
    )
    sampling: Sampling = Field(Sampling(), description="how the teacher's tokens are drawn")
    soft_targets: SoftTargets | None = Field(
        None,
        description="keep how likely the teacher held each token and the likeliest others, for a student of the same "
        "vocabulary (loss.soft_target_weights); null: the text alone",
    )
    samples_per_question: int = Field(1, ge=1, description="rationales per question; more than one needs a temperature")
    batch_size: int = Field(256, ge=1, description="prompts handed to the engine at once")
    max_attempts: int = Field(2, ge=1, description="tries of a failed row within one run")
    max_failed_fraction: Fraction = Field(
        0.01, description="share of rows that may end without a rationale; more stop the run"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model; logged when on")

    @model_validator(mode="after")
    def _source(self) -> "Teacher":
        if not self.model and not self.store and not isinstance(self.engine, CustomSettings):
            raise ValueError(f"teacher {self.name!r} has neither `model` nor `store`; give one of them")
        if self.samples_per_question > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"teacher {self.name!r}: samples_per_question is {self.samples_per_question} and temperature 0, so all "
                "would be equal; set sampling.temperature above 0"
            )
        return self
