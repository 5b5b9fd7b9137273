"""Questions and random-weight teachers for the throughput benchmark."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

PAD, EOS, BOS = 0, 1, 2
WIDTH, LAYERS, HEADS, VOCABULARY = 256, 4, 4, 4096


def make_questions(folder: str, rows: int) -> list[str]:
    """OpenBookQA's training questions, repeated under new ids where there are too few, else made-up ones."""
    here = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("TINYLLM_REFERENCE_DATA", here.parent / "shared" / "reference_data"))
    source = data / "obqa" / "obqa_train.json"
    if source.is_file():
        read = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        things = [f"thing{i} of kind{i % 7}" for i in range(50)]
        read = [
            {
                "question": f"Which is most often found {'near ' * (i % 9)}a {things[i % 50]}, and why is it {i}?",
                "choices": [things[(i * k + k) % 50] for k in (3, 5, 7, 11)],
            }
            for i in range(rows)
        ]
    table = [
        {
            "question_id": f"q{i}",
            "question": f"{row['question']}{'' if i < len(read) else f' ({i // len(read)})'}",
            "choices": row["choices"],
            "answer": row["choices"][i % len(row["choices"])],
        }
        for i, row in ((i, read[i % len(read)]) for i in range(rows))
    ]
    pq.write_table(pa.Table.from_pylist(table), Path(folder) / "questions.parquet")
    return [" ".join([row["question"], *row["choices"]]) for row in table]


def make_models(folder: str, texts: list[str], *, mean_tokens: int) -> dict[str, Any]:
    """`llama` never stops, `stopping` stops by itself after `mean_tokens` in the mean, `t5` never stops."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
    )
    llama = LlamaForCausalLM(config)
    with torch.no_grad():
        llama.lm_head.weight[:3] = 0
        llama.save_pretrained(f"{folder}/llama")
        _stop_after(llama, mean_tokens)
        llama.save_pretrained(f"{folder}/stopping")
        t5 = T5ForConditionalGeneration(
            T5Config(
                vocab_size=VOCABULARY,
                d_model=WIDTH,
                d_kv=WIDTH // HEADS,
                d_ff=4 * WIDTH,
                num_layers=LAYERS,
                num_heads=HEADS,
                tie_word_embeddings=False,
                pad_token_id=PAD,
                eos_token_id=EOS,
                decoder_start_token_id=PAD,
            )
        )
        t5.lm_head.weight[:3] = 0
        t5.save_pretrained(f"{folder}/t5")
    tokenizer = _tokenizer(texts)
    for name in ("llama", "stopping", "t5"):
        tokenizer.save_pretrained(f"{folder}/{name}")
    return {"parameters": sum(p.numel() for p in llama.parameters()), "prompts": len(texts)}


def _stop_after(model: LlamaForCausalLM, mean_tokens: int) -> None:
    """Give the end token a chance of 1 / mean_tokens at each step of sampling at temperature 1.

    Channel 0 of the residual stream is held at a constant, which the end token's row of the output layer reads as a
    bias; the other logits of a random model are near zero.
    """
    model.model.embed_tokens.weight[:, 0] = 1.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0
        layer.mlp.down_proj.weight[0] = 0
    hidden = model.model(torch.randint(3, VOCABULARY, (4, 64))).last_hidden_state  # [B, S, WIDTH]
    others = VOCABULARY - 3
    model.lm_head.weight[:, 0] = 0
    model.lm_head.weight[[PAD, BOS], 0] = -20 / hidden[..., 0].mean()
    model.lm_head.weight[EOS, 0] = math.log(others / (mean_tokens - 1)) / hidden[..., 0].mean()


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
