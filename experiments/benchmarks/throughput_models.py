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


def make_models(
    folder: str, texts: list[str], *, mean_tokens: dict[str, int], phases: dict[str, int]
) -> dict[str, Any]:
    """`llama` and `t5` never stop; those of `mean_tokens` stop by themselves after so many tokens in the mean, the sum
    of as many steps of chance as `phases` says, else of one."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(texts)
    llama, t5 = _llama(), _t5()
    with torch.no_grad():
        for name, model in (("llama", llama), ("t5", t5)):
            model.lm_head.weight[:3] = model.lm_head.weight[VOCABULARY:] = 0
            model.save_pretrained(f"{folder}/{name}")
        source = tokenizer(texts[:16], padding=True, return_tensors="pt")["input_ids"]  # [B, S]
        for name, mean in mean_tokens.items():
            model = t5 if name.endswith("t5") else llama
            _stop_after(model, mean, source, phases=phases.get(name, 1))
            model.save_pretrained(f"{folder}/{name}")
    for name in ("llama", "t5", *mean_tokens):
        tokenizer.save_pretrained(f"{folder}/{name}")
    return {"parameters": sum(p.numel() for p in llama.parameters()), "prompts": len(texts)}


def _llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
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
    ).eval()


def _t5() -> T5ForConditionalGeneration:
    """FLAN-T5-small's shape, since a model that fits in a CPU's cache hides what a batch costs. Like its output layer,
    this one's is no embedding."""
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=32128,
            d_model=512,
            d_kv=64,
            d_ff=1024,
            num_layers=8,
            num_heads=6,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=PAD,
        )
    )
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model.eval()


def _stop_after(model: Any, mean_tokens: int, source: torch.Tensor, *, phases: int) -> None:
    """Let sampling at temperature 1 end a text with a chance of `phases` / mean_tokens at each step of its last phase.

    A text goes through the phases, each a share of the vocabulary, and passes on to the next with that same chance: its
    length is negative binomial, with a standard deviation of sqrt((1 - phases / mean) / phases) of the mean. Channel k
    of the decoder's residual stream is held at 1 by the tokens of phase k, and the output layer reads it as a bias;
    the other logits are made near zero. `source` [B, S] are token ids to measure it on.
    """
    made = torch.randint(3, VOCABULARY, (len(source), 32))  # [B, T]
    for name, module in model.named_modules():
        if name.endswith((".o", ".wo", ".o_proj", ".down_proj")):
            module.weight[:phases] = 0
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    head[:, phases:] *= 0.02 / head[3:VOCABULARY, phases:].std()
    head[:, :phases] = head[EOS] = 0
    phase = torch.arange(len(embedding)) % phases
    phase[:3] = 0
    embedding[:, :phases] = torch.nn.functional.one_hot(phase, phases).float()
    if model.config.is_encoder_decoder:
        logits = model(input_ids=source, decoder_input_ids=made).logits
        states = model.decoder(input_ids=made, encoder_hidden_states=model.encoder(input_ids=source)[0])[0]  # [B, T, D]
    else:
        logits, states = model(input_ids=made).logits, model.model(input_ids=made)[0]
    others = logits[..., :VOCABULARY].logsumexp(-1).mean() - math.log(phases)  # of a phase's tokens
    held = states[..., :phases].sum(-1).mean()
    pass_on = -math.log(mean_tokens / phases - 1)  # against staying
    phase[:3], phase[VOCABULARY:] = -1, -1  # the tokenizer has no tokens behind its vocabulary
    for k in range(phases):
        head[:, k] = -100 / held
        head[phase == k, k] = 0
        head[phase == k + 1, k] = pass_on / held
    head[EOS, phases - 1] = (others + pass_on) / held


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
