"""[tokenizer]: how text becomes tokens."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

TokenizerAlgorithm = Literal["bpe", "unigram"]
Pretokenizer = Literal["gpt2", "gpt4", "qwen2"]


class TokenizerConfig(BaseConfig):
    pretrained: str | None = knob(
        None,
        "an existing tokenizer, instead of learning one: a folder with tokenizer.json, a tiktoken file or a SentencePiece "
        "model; as it is where vocab_size is its size, extended with the text's own pieces where it is larger",
    )
    compare: dict[str, str] = knob(
        {}, "name -> file of other tokenizers that the report sets beside this one, such as GPT-2's"
    )
    algorithm: TokenizerAlgorithm = knob(
        "bpe", "how to learn: byte-pair encoding (Sennrich et al. 2016) or unigram (Kudo 2018), on bytes"
    )
    vocab_size: int = knob(
        32_000, "entries, special tokens included; 32,000 to 128,000 for real models", ge=260
    )
    pretokenizer: Pretokenizer = knob(
        "gpt4", "how text is cut before merging: gpt2, gpt4 (digits in threes), qwen2 (single digits)"
    )
    num_mask_tokens: int = knob(
        0,
        "tokens that stand for hidden text: 1 for an encoder, one for each span for an encoder_decoder (T5: 100)",
        ge=0,
    )
    train_bytes: int = knob(
        1_000_000_000, "text to learn the vocabulary from, at most; an even sample of the rest", ge=1_000
    )
