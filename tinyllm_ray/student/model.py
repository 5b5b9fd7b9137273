"""Students and their tokenizers: the `student` section in, a Hugging Face model and tokenizer folder out.

A tokenizer folder holds the usual files and layout.json: {"encoder_decoder", "bos", "eos", "pad"} as token ids.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import store
from tinyllm_ray.data.gguf import is_gguf, unpack
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.data.questions import QuestionFile, iterate_questions
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.schema import Experiment, FromScratch, Lora, Student
from tinyllm_ray.terminal.progress import step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODER_DECODERS = ("t5", "mt5")
SPECIAL_TOKENS = ["<pad>", "</s>", "<unk>"]  # ids 0, 1, 2, as in T5


def prepare_tokenizer(
    experiment: Experiment, *, questions: Mapping[str, QuestionFile], stores: Mapping[StoreId, str], output_dir: str
) -> str:
    """Folder of the student's tokenizer: trained on the train split for a student from scratch, else the model's own.

    Raises UserError for a tokenizer that has no end or padding token.
    """
    student = experiment.student
    scratch = student.from_scratch.get(student.model)
    if scratch and student.tokenizer is None:
        used = sorted((str(i), store.content_digest(folder)) for i, folder in stores.items())
        sizes = [scratch.architecture, scratch.vocabulary_size]
        key: list[Any] = ["trained", *sizes, questions["train"].digest, used, _prefixes(experiment)]
    else:
        key = [
            "given",
            student.tokenizer or student.model,
            _content(student.tokenizer or student.model),
            student.revision,
            _kind(student),
        ]
    folder = storage.join(output_dir, "tokenizers", digest(key))
    if storage.exists(storage.join(folder, "layout.json")):
        return folder
    if scratch and student.tokenizer is None:
        with step("tokenizer"):
            tokenizer = train_tokenizer(_texts(experiment, questions["train"].path, stores), scratch.vocabulary_size)
    else:
        tokenizer = load_tokenizer(student)
    layout = token_layout(
        tokenizer, encoder_decoder=_kind(student) != "decoder", name=student.tokenizer or student.model
    )
    with tempfile.TemporaryDirectory() as local:
        tokenizer.save_pretrained(local)
        storage.upload_folder(local, folder)
    storage.write_json(storage.join(folder, "layout.json"), layout)
    return folder


def token_layout(tokenizer: Any, *, encoder_decoder: bool, name: str) -> dict[str, Any]:
    """The special tokens that features and loss need."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name} has no end-of-sequence token, so the student could not learn to "
            "stop; set student.tokenizer to one that has eos_token"
        )
    pad = tokenizer.pad_token_id
    if pad is None and encoder_decoder:
        raise UserError(
            f"the tokenizer of {name} has no padding token, with which an encoder-decoder's answers "
            "start; set student.tokenizer to one that has pad_token"
        )
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer of {name} has no tokenizer.json; set student.tokenizer to a fast tokenizer")
    bos = tokenizer.bos_token_id
    starts = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return {
        "encoder_decoder": encoder_decoder,
        "bos": bos if starts and not encoder_decoder else None,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.eos_token_id if pad is None else pad,  # masks are explicit, so the end token may pad
        "unknown": None if tokenizer.unk_token_id == tokenizer.eos_token_id else tokenizer.unk_token_id,
    }


def load_student(student: Student, *, tokenizer_folder: str, seed: int) -> tuple["PreTrainedModel", StudentTokenizer]:
    """The model in float32 on the CPU (bfloat16 is autocast, so that small updates are not lost) and its tokenizer."""
    tokenizer = StudentTokenizer.open(tokenizer_folder)
    torch.manual_seed(seed)
    scratch = student.from_scratch.get(student.model)
    model = _make(scratch, tokenizer) if scratch else _load(student)
    size = _needed_embeddings(tokenizer)
    if size > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(size)
    if student.lora:
        _add_lora(model, student.lora)
    return model, tokenizer


def load_folder(student: Student) -> tuple["PreTrainedModel", StudentTokenizer]:
    """A saved student with the tokenizer of its folder."""
    tokenizer = load_tokenizer(student)
    layout = token_layout(tokenizer, encoder_decoder=_kind(student) != "decoder", name=student.model)
    model, tokenizer = _load(student), StudentTokenizer(backend=tokenizer.backend_tokenizer, **layout)
    there, needed = model.get_input_embeddings().num_embeddings, _needed_embeddings(tokenizer)
    if needed > there:
        raise UserError(
            f"student.model {student.model!r}: its tokenizer has ids up to {needed - 1}, its model knows {there}; one "
            "of them is damaged or of another model"
        )
    return model, tokenizer


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def merge_lora(model: nn.Module) -> None:
    """Fold adapters into the weights, so that plain `from_pretrained` loads the saved folder."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _add_lora(model: nn.Module, lora: Lora) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UserError(f"student.lora.target_modules {lora.target_modules}: {error}") from None


def _make(scratch: FromScratch, tokenizer: StudentTokenizer) -> "PreTrainedModel":
    special = {
        "pad_token_id": tokenizer.pad,
        "eos_token_id": tokenizer.eos,
        "vocab_size": tokenizer.backend.get_vocab_size(),
    }
    if scratch.width % scratch.heads:
        raise UserError(
            f"student.from_scratch: width {scratch.width} cannot be shared by {scratch.heads} heads; make it a multiple"
        )
    if scratch.architecture == "t5":
        from transformers import T5Config, T5ForConditionalGeneration

        t5 = T5Config(
            d_model=scratch.width,
            d_kv=scratch.width // scratch.heads,
            d_ff=scratch.ff_width,
            num_layers=scratch.layers,
            num_heads=scratch.heads,
            dropout_rate=scratch.dropout,
            decoder_start_token_id=tokenizer.pad,
            **special,
        )
        return T5ForConditionalGeneration(t5)
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaConfig(
        hidden_size=scratch.width,
        intermediate_size=scratch.ff_width,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        attention_dropout=scratch.dropout,
        bos_token_id=None,
        tie_word_embeddings=True,
        **special,
    )
    return LlamaForCausalLM(llama)


def _load(student: Student) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    loader = AutoModelForCausalLM if _kind(student) == "decoder" else AutoModelForSeq2SeqLM
    options = {"revision": student.revision, "trust_remote_code": student.trust_remote_code}
    with _one_message(f"student.model {student.model!r} cannot be loaded"):
        model, found = loader.from_pretrained(
            student.model, **options, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    lacking = sorted(found["missing_keys"])
    if lacking:
        raise UserError(
            f"student.model {student.model!r} cannot be loaded: its weights lack {len(lacking)} tensors that its "
            f"config.json asks for, such as {lacking[0]}"
        )
    layers = getattr(model.config, "num_hidden_layers", 1)
    if layers < 1:
        raise UserError(f"student.model {student.model!r} cannot be loaded: its config.json asks for {layers} layers")
    return model


@contextmanager
def _one_message(what: str) -> Iterator[None]:
    """Damaged files make transformers and tokenizers raise almost anything; a user needs one message."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself
        raise UserError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _needed_embeddings(tokenizer: StudentTokenizer) -> int:
    return max(tokenizer.backend.get_vocab().values()) + 1


def _kind(student: Student) -> str:
    """`decoder`, or the model type of an encoder-decoder."""
    scratch = student.from_scratch.get(student.model)
    if scratch:
        return "decoder" if scratch.architecture == "llama" else scratch.architecture
    from transformers import AutoConfig

    names = f"; names under student.from_scratch: {sorted(student.from_scratch)}" if student.from_scratch else ""
    with _one_message(
        f"student.model {student.model!r} is neither a model folder nor a hub id that can be loaded{names}"
    ):
        config = AutoConfig.from_pretrained(
            student.model, revision=student.revision, trust_remote_code=student.trust_remote_code
        )
    if not config.is_encoder_decoder:
        return "decoder"
    if config.model_type not in ENCODER_DECODERS:
        raise UserError(
            f"student.model {student.model!r} is of type {config.model_type}; "
            f"encoder-decoder students are {', '.join(ENCODER_DECODERS)}"
        )
    return config.model_type


def student_vocabulary(student: Student, *, output_dir: str) -> dict[str, int] | None:
    """Token -> id; None where the tokenizer is yet to be trained on the dataset, or cannot be the student's."""
    if student.model in student.from_scratch and student.tokenizer is None:
        return None
    if student.tokenizer is None and is_gguf(student.model):
        folder = unpack(student.model, key="student.model", output_dir=output_dir)
        student = student.model_copy(update={"tokenizer": folder})
    loaded = load_tokenizer(student)
    return loaded.backend_tokenizer.get_vocab() if loaded.is_fast else None


def load_tokenizer(student: Student) -> Any:
    """The one named by student.tokenizer, else the model's own. Raises UserError."""
    from transformers import AutoTokenizer

    name = student.tokenizer or student.model
    revision = None if student.tokenizer else student.revision
    with _one_message(f"the tokenizer {name!r} cannot be loaded; set student.tokenizer to a hub id or folder"):
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=student.trust_remote_code)


def _content(name: str) -> list[list[str]]:
    """Digests of a local folder's tokenizer files; nothing for a hub id."""
    if not Path(name).is_dir():
        return []
    return [[path.name, digest(path.read_bytes().hex())] for path in sorted(Path(name).glob("*token*"))]


def _prefixes(experiment: Experiment) -> list[str]:
    return [experiment.student.label_prefix, *(teacher.task_prefix for teacher in experiment.teachers)]


def _texts(experiment: Experiment, path: str, stores: Mapping[StoreId, str]) -> Iterator[str]:
    """What the student reads and writes in training."""
    prefixes = _prefixes(experiment)
    for batch in iterate_questions(path, 2048):
        for question in batch:
            yield student_input(prefixes[0], question)
            yield question.answer
    yield from prefixes
    for i, folder in stores.items():
        column = "predicted_answer" if i.answers else "rationale"
        for table in store.iterate(folder, "train", [column]):
            yield from table[column].to_pylist()


def train_tokenizer(texts: Iterator[str], vocabulary_size: int) -> Any:
    """Byte-level BPE: every text comes back whatever characters it holds, but for a space before it.

    With that space a word is the same token at the start of an answer and in the midst of a question.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, eos, unknown = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=eos, unk_token=unknown)
