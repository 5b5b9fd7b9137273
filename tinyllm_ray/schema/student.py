"""What is trained and how it is scored: `student`, `loss`, `training` and `evaluation`."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tinyllm_ray.schema.base import Fraction, Name, Section


class FromScratch(Section):
    architecture: Literal["t5", "llama"] = "t5"
    width: int = Field(64, ge=8, description="hidden size")
    layers: int = Field(2, ge=1, description="layers of each stack")
    heads: int = Field(4, ge=1)
    ff_width: int = Field(128, ge=8, description="feed-forward size")
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary_size: int = Field(4096, ge=64, description="at most; the tokenizer is trained on the dataset")


class Lora(Section):
    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] | None = Field(None, description="null: peft's choice for the model type")


class Student(Section):
    model: str = Field(description="hub id, folder, or a name under `from_scratch`")
    revision: str | None = None
    tokenizer: str | None = Field(None, description="hub id or folder; null: the model's own")
    from_scratch: dict[Name, FromScratch] = Field(default_factory=dict, description="students made here, by name")
    lora: Lora | None = Field(None, description="train low-rank adapters instead of all weights")
    label_prefix: str = Field("predict: ", description="what the student's input starts with for the label task")
    max_input_tokens: int = Field(512, ge=8)
    max_label_tokens: int = Field(64, ge=1)
    max_rationale_tokens: int = Field(256, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False

    @field_validator("dtype", mode="before")
    @classmethod
    def _no_float16(cls, dtype: Any) -> Any:
        if dtype in ("float16", "fp16", "half"):
            raise ValueError(
                "float16 overflows in T5's feed-forward layers and is not offered; use bfloat16 or float32"
            )
        return dtype


class Loss(Section):
    label_weight: float = Field(1.0, ge=0, description="the paper's gamma")
    rationale_weights: dict[str, float] = Field(
        default_factory=dict, description="by teacher name, 1 where not named; the paper's alpha and beta"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> "Loss":
        bad = {name: weight for name, weight in self.rationale_weights.items() if not weight >= 0}
        if bad:
            raise ValueError(f"rationale_weights {bad} must be numbers of at least 0")
        return self


class UseRationales(Section):
    drop: list[str] = Field([], description="quality flags whose rationales are masked, row by row")


class Training(Section):
    method: str = Field(
        "tinyllm",
        description="inference, label_only, lora, standard_kd[:teacher], "
        "step_by_step[:teacher], tinyllm, without:teacher, shuffled_rationales",
    )
    label_source: str = Field("gold", description="`gold`, or `teacher:<name>` for standard knowledge distillation")
    shuffle_rationales: bool = Field(False, description="control: permute each teacher's rationales among questions")
    use_rationales: UseRationales = UseRationales()
    steps: int = Field(1000, ge=0, description="optimizer steps; 0 is inference only")
    batch_size: int = Field(16, ge=1, description="questions per optimizer step over all ranks")
    micro_batch_tokens: int = Field(4096, ge=1, description="padded tokens of one forward pass")
    micro_batch_examples: int = Field(64, ge=1, description="sequences of one forward pass at most")
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    max_gradient_norm: float | None = Field(1.0, gt=0)
    eval_every_steps: int = Field(200, ge=1)
    checkpoint_every_steps: int = Field(200, ge=1)
    log_every_steps: int = Field(10, ge=1)
    gradient_checkpointing: bool = False
    compile: bool = Field(False, description="torch.compile the student")
    max_truncated_fraction: Fraction = Field(
        0.0, description="stop when more inputs than this lose question text or choices"
    )
    max_unknown_fraction: Fraction = Field(
        0.01, description="refuse a store when more of its rows have unknown question ids"
    )


class Evaluation(Section):
    by: Literal["ranking", "generation", "both"] = Field(
        "ranking", description="what `eval/accuracy` is measured by; both: ranking decides"
    )
    batch_size: int = Field(64, ge=1)
    max_new_tokens: int = Field(32, ge=1)
    max_questions: int | None = Field(None, ge=1, description="validation questions scored during training; null: all")
    student_rationales: int = Field(
        20, ge=0, description="test questions for which the student's own rationales are written"
    )
