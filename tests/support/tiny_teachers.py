"""Teachers with random weights, small enough for a test, and questions for them."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from tinyllm_ray.config import validate
from tinyllm_ray.data.questions import QuestionFile
from tinyllm_ray.rows import Question, to_table
from tinyllm_ray.schema import Experiment

WORDS = ["sun", "moon", "rain", "plant", "stone", "river", "cold", "warm", "grows", "falls", "melts", "shines", "sinks"]


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of 300 pieces, trained on the words of the questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([question.question for question in questions(200)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    ).save_pretrained(folder)


def save_llama(folder: Path, *, positions: int = 512) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=False,
    )
    _save_talkative(LlamaForCausalLM(config), folder)
    save_tokenizer(folder)
    return str(folder)


def _save_talkative(model: Any, folder: Path) -> None:
    """Special tokens never win, so every text has something in it."""
    with torch.no_grad():
        model.lm_head.weight[:3] = 0
    model.save_pretrained(folder)


def save_t5(folder: Path) -> str:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=320,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    _save_talkative(T5ForConditionalGeneration(config), folder)
    save_tokenizer(folder)
    return str(folder)


def save_stopping_t5(folder: Path) -> str:
    """A T5 whose greedy texts end after different numbers of tokens, where a penalty of 50 keeps them from repeats."""
    from transformers import T5ForConditionalGeneration

    save_t5(folder)
    made = T5ForConditionalGeneration.from_pretrained(folder).eval()
    ids = torch.randint(3, 300, (8, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.shared.weight *= 0.1
        states = made(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True).decoder_hidden_states[-1]
        mean = states.mean((0, 1))  # [D]
        made.shared.weight[1] = 0.35 * mean / mean.norm()  # the end token's
    made.save_pretrained(folder)
    return str(folder)


def save_bart(folder: Path) -> str:
    """A BART, whose positions are absolute. Its generation config forces the first token and forbids repeats."""
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=320,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        init_std=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    model = BartForConditionalGeneration(config)
    model.final_logits_bias[0, 1] = 2.5  # the end token's
    model.generation_config.forced_bos_token_id = 2
    model.generation_config.no_repeat_ngram_size = 2
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


def questions(count: int) -> list[Question]:
    made = []
    for i in range(count):
        choices = [WORDS[(i + j) % len(WORDS)] for j in (0, 3, 7)]
        text = f"{i}: what {WORDS[i % 7]} {WORDS[(i * 5 + 1) % len(WORDS)]} when the {WORDS[(i * 3) % 5]} is there?"
        made.append(Question(f"q{i}", text, choices, choices[i % 3]))
    return made


def question_file(path: Path, rows: list[Question]) -> QuestionFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(rows, Question), path)
    return QuestionFile(path=str(path), rows=len(rows), rejected=0, rejected_path="", digest=str(path))


def question_files(folder: Path, *, train: int, validation: int = 0) -> dict[str, QuestionFile]:
    made = questions(train + validation)
    files = {"train": question_file(folder / "train.parquet", made[:train])}
    if validation:
        files["validation"] = question_file(folder / "validation.parquet", made[train:])
    return files


def experiment(*teachers: dict, **sections: object) -> Experiment:
    """An experiment of short greedy rationales."""
    filled = [{"sampling": {"max_tokens": 8}, "max_failed_fraction": 0.0, "batch_size": 16} | t for t in teachers]
    return validate(
        {"name": "test", "dataset": {"name": "words"}, "student": {"model": "none"}, "teachers": filled} | sections
    )
