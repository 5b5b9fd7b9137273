"""What is trained and how it is scored: `student`, `loss`, `training` and `evaluation`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tinyllm_ray.schema.base import Fraction, Name, Section


class FromScratch(Section):
    architecture: Literal["t5", "llama"] = Field("t5", description="t5 is an encoder-decoder, llama decoder-only")
    width: int = Field(64, ge=8, description="hidden size; a multiple of `heads`")
    layers: int = Field(2, ge=1, description="layers of each stack")
    heads: int = Field(4, ge=1, description="attention heads of each layer")
    ff_width: int = Field(128, ge=8, description="feed-forward size")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of activations that training sets to zero")
    vocabulary_size: int = Field(
        4096, ge=64, description="largest number of tokens of the tokenizer, which is trained on the dataset"
    )


class Lora(Section):
    rank: int = Field(8, ge=1, description="rank of the adapter's matrices")
    alpha: int = Field(16, ge=1, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of the adapter's inputs that training sets to zero")
    target_modules: list[str] | None = Field(
        None, description="names of the modules that get an adapter; null: peft's choice for the model type"
    )


class Student(Section):
    model: str = Field(
        description="hub id, folder, a .gguf file, which is unpacked below output.dir, or a name under `from_scratch`"
    )
    revision: str | None = Field(None, description="hub revision: a branch, tag or commit; null: the hub's default")
    tokenizer: str | None = Field(None, description="hub id or folder; null: the model's own")
    from_scratch: dict[Name, FromScratch] = Field(default_factory=dict, description="students made here, by name")
    lora: Lora | None = Field(None, description="train low-rank adapters instead of all weights")
    label_prefix: str = Field("predict: ", description="what the student's input starts with for the label task")
    max_input_tokens: int = Field(
        512, ge=8, description="tokens of an input at most; see training.max_truncated_fraction"
    )
    max_label_tokens: int = Field(64, ge=1, description="tokens of an answer at most; longer ones are cut")
    max_rationale_tokens: int = Field(256, ge=1, description="tokens of a rationale at most; longer ones are cut")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="number format of the student's forward pass")
    trust_remote_code: bool = Field(False, description="run code that comes with the model; logged when on")

    @field_validator("dtype", mode="before")
    @classmethod
    def _no_float16(cls, dtype: Any) -> Any:
        if dtype in ("float16", "fp16", "half"):
            raise ValueError(
                "float16 overflows in T5's feed-forward layers and is not offered; use bfloat16 or float32"
            )
        return dtype


class CustomTerm(Section):
    path: str = Field(
        pattern=r"^\w+(\.\w+)*:\w+$",
        description="`package.module:function`; the function takes the logits [tokens, vocabulary] and the batch, and "
        "returns a loss for each target token [tokens]. The module must be importable where the student trains",
    )
    weight: float = Field(1.0, ge=0, description="factor of the mean of the token losses")
    components: list[str] | None = Field(
        None,
        min_length=1,
        description="whose target tokens: `label` and names of teachers; null: all components that have a weight",
    )


SOFT_TARGET_WEIGHT = 0.9  # of a teacher with soft targets


class Loss(Section):
    label_weight: float = Field(1.0, ge=0, description="weight of the label component; the paper's gamma")
    rationale_weights: dict[str, float] = Field(
        default_factory=dict,
        description="weight of each teacher's component by its name, 1 where not named; the paper's alpha and beta",
    )
    weighting: Literal["fixed", "uncertainty", "confidence"] = Field(
        "fixed",
        description="fixed: the weights as they are given. uncertainty: each component that has a weight learns its "
        "own, exp(-s)/2 with s beside the student's weights. confidence: in each step the teachers share the sum of "
        "their weights by how sure the student is of their rationales",
    )
    uncertainty_learning_rate: float = Field(
        0.01, gt=0, description="AdamW's learning rate of each s (weighting: uncertainty); it follows training.schedule"
    )
    confidence_score: Literal["cross_entropy", "entropy", "max_probability"] = Field(
        "cross_entropy",
        description="what is compared (weighting: confidence), as a mean over a teacher's target tokens: less the "
        "cross-entropy, less the entropy of the student's prediction in nats, or its largest probability",
    )
    confidence_alpha: float = Field(
        1.0, description="factor of the score in the softmax (weighting: confidence); 0: equal weights"
    )
    soft_target_weights: dict[str, Fraction] = Field(
        default_factory=dict,
        description="for each teacher with soft_targets the share of its weight that they have, 0 to 1, 0.9 where not "
        "named; the cross-entropy has the rest. `label`: the same for training.label_source teacher:NAME",
    )
    soft_target_temperature: float = Field(
        1.0, gt=0, description="above 1 the less likely tokens of the soft targets count for more; above 0"
    )
    custom: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], CustomTerm] = Field(
        default_factory=dict, description="further terms of the loss, by the name that they have in metrics"
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
        description="inference, label_only, lora, standard_kd[:TEACHER] (the teacher's answers and how likely it holds "
        "each of their tokens), hard_kd[:TEACHER] (its answers as text), step_by_step[:TEACHER], tinyllm, "
        "without:TEACHER or shuffled_rationales",
    )
    label_source: str = Field("gold", description="`gold`, or `teacher:<name>` for its own answers")
    shuffle_rationales: bool = Field(False, description="control: permute each teacher's rationales among questions")
    use_rationales: UseRationales = Field(UseRationales(), description="which rationales the student is trained on")
    steps: int = Field(1000, ge=0, description="optimizer steps; 0 is inference only")
    batch_size: int = Field(16, ge=1, description="questions per optimizer step over all ranks")
    shards: int | None = Field(
        None,
        ge=1,
        description="parts of a step that are computed separately and added in a fixed order, so that fewer ranks give "
        "the same bits; at least as many as ranks. null: the number of ranks that the training is started with",
    )
    micro_batch_tokens: int = Field(4096, ge=1, description="padded tokens of one forward pass")
    micro_batch_examples: int = Field(64, ge=1, description="sequences of one forward pass at most")
    learning_rate: float = Field(5e-5, gt=0, description="AdamW's learning rate after the warmup")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="how the learning rate falls after the warmup; linear and cosine end at 0"
    )
    max_gradient_norm: float | None = Field(1.0, gt=0, description="clip gradients to this norm; null: do not clip")
    eval_every_steps: int = Field(200, ge=1, description="optimizer steps from one validation to the next")
    checkpoint_every_steps: int = Field(200, ge=1, description="optimizer steps from one checkpoint to the next")
    keep_checkpoints: bool = Field(
        False, description="keep a training's newest checkpoints once it has its result; false deletes them then"
    )
    log_every_steps: int = Field(10, ge=1, description="optimizer steps from one logged loss to the next")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, slower"
    )
    compile: bool = Field(False, description="run the student through torch.compile")
    max_truncated_fraction: Fraction = Field(
        0.0,
        description="share of inputs that may lose question text or choices to `max_input_tokens`; more stop the run",
    )
    max_indistinct_fraction: Fraction = Field(
        0.01,
        description="share of a split's questions that may have choices which the student's tokenizer turns into the "
        "same tokens; more stop the run",
    )
    max_unknown_fraction: Fraction = Field(
        0.01, description="share of a store's rows that may have unknown question ids; more refuse the store"
    )


class Evaluation(Section):
    by: Literal["ranking", "generation", "both"] = Field(
        "ranking",
        description="what `eval/accuracy` is measured by; both: each is measured and ranking is `eval/accuracy`; "
        "generation where dataset.task is number or text",
    )
    batch_size: int = Field(64, ge=1, description="questions scored at once by a rank")
    max_new_tokens: int = Field(32, ge=1, description="tokens of a generated answer at most (by: generation)")
    max_questions: int | None = Field(None, ge=1, description="validation questions scored during training; null: all")
    student_rationales: int = Field(
        20, ge=0, description="test questions for which the student's own rationales are written"
    )
