"""[tokenizer]: a tokenizer, trained on the corpus or loaded."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob

TokenizerAlgorithm = Literal["bpe", "unigram"]
Pretokenizer = Literal["gpt2", "gpt4", "qwen2"]


class TokenizerConfig(BaseConfig):
    """[tokenizer]: a tokenizer to train, to take or to extend."""

    pretrained: str | None = knob(
        None,
        "existing tokenizer: a folder with tokenizer.json, a tiktoken file or a SentencePiece model; extended with tokens "
        "of the corpus where vocab_size is larger",
        unset="train one on the corpus",
    )
    compare: dict[str, str] = knob({}, "other tokenizers to compare with in the report: name -> path")
    algorithm: TokenizerAlgorithm = knob(
        "bpe", "byte-level BPE (Sennrich et al. 2016) or byte-level unigram (Kudo 2018)"
    )
    vocab_size: int = knob(32_000, "vocabulary size with special tokens; 32,000 to 128,000 for large models", ge=260)
    pretokenizer: Pretokenizer = knob(
        "gpt4", "split of text before merges: gpt2, gpt4 (groups of three digits), qwen2 (single digits)"
    )
    num_mask_tokens: int = knob(0, "mask tokens: 1 for an encoder; one per span for an encoder_decoder (T5: 100)", ge=0)
    train_bytes: int = knob(1_000_000_000, "maximum bytes of text to train on, sampled evenly", ge=1_000)
