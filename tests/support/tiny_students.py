"""Students with random weights, as `model/` of a trial holds them."""

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

SMALL = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1}


def save_model(folder: str, shape: str) -> None:
    words = ["<pad>", "</s>", "<unk>", "predict", ":", "?", "What", "color", "is", "thing", "red", "green"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    if shape == "t5":
        sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**SMALL, **sizes))
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **sizes))
    model.eval().save_pretrained(folder)
