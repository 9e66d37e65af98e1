"""Special tokens of published tiktoken vocabularies, which their files do not contain."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from groundup.tokenizer.chat_template import CHATML, LLAMA3
from groundup.tokenizer.special_tokens import END_OF_TEXT, PADDING, SPECIAL_TOKENS, TURN_END, TURN_START
from groundup.tokenizer.split_patterns import O200K, PATTERNS


@dataclass(frozen=True)
class TiktokenVocabulary:
    """Special tokens with their ids, their roles, and the chat template."""

    special_tokens: dict[str, int]
    bos: str | None = None
    eos: str = END_OF_TEXT
    pad: str = PADDING
    chat_template: str = CHATML
    regex: str | None = None
    """Of a published vocabulary: its pretokenization pattern."""


_LLAMA3_NAMES = {
    0: "begin_of_text", 1: "end_of_text", 4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id",
    8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip
_LLAMA3_RESERVED = iter(range(248))
_LLAMA3 = {
    f"<|{_LLAMA3_NAMES.get(i) or f'reserved_special_token_{next(_LLAMA3_RESERVED)}'}|>": 128_000 + i for i in range(256)
}

PUBLISHED: dict[tuple[int, int], TiktokenVocabulary] = {
    # GPT-2 and cl100k_base, o200k_base: openai/tiktoken, tiktoken_ext/openai_public.py; the turn tokens: its README
    (50_256, 262): TiktokenVocabulary({END_OF_TEXT: 50_256}, regex=PATTERNS["gpt2"].regex),
    (100_256, 279): TiktokenVocabulary(
        {
            END_OF_TEXT: 100_257,
            "<|fim_prefix|>": 100_258,
            "<|fim_middle|>": 100_259,
            "<|fim_suffix|>": 100_260,
            TURN_START: 100_264,
            TURN_END: 100_265,
            "<|endofprompt|>": 100_276,
        },
        regex=PATTERNS["gpt4"].regex,
    ),
    (199_998, 290): TiktokenVocabulary({END_OF_TEXT: 199_999, "<|endofprompt|>": 200_018}, regex=O200K),
    # Llama 3.1: tokenizer_config.json of meta-llama/Llama-3.1-8B-Instruct
    (128_000, 279): TiktokenVocabulary(
        _LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", LLAMA3, PATTERNS["gpt4"].regex
    ),
    # Qwen: tokenization_qwen.py of Qwen/Qwen-7B
    (151_643, 279): TiktokenVocabulary(
        {END_OF_TEXT: 151_643, TURN_START: 151_644, TURN_END: 151_645}
        | {f"<|extra_{i}|>": 151_646 + i for i in range(205)},
        pad=END_OF_TEXT,
        regex=PATTERNS["qwen2"].regex,
    ),
}
"""(number of tokens, rank of b" the") -> vocabulary."""


def tiktoken_vocabulary(ranks: Mapping[bytes, int]) -> TiktokenVocabulary:
    """The special tokens of a published vocabulary; those of special_tokens.py after the last id for any other.

    Tokens of a role or of the ChatML template that a published vocabulary lacks get the ids after its last one.
    """
    known = PUBLISHED.get((len(ranks), ranks.get(b" the", -1)), TiktokenVocabulary({}))
    needed = SPECIAL_TOKENS if known.chat_template == CHATML else ()
    missing = [
        token for token in needed if token not in known.special_tokens and (token != PADDING or known.pad == token)
    ]
    first = max([*ranks.values(), *known.special_tokens.values()]) + 1
    special_tokens = known.special_tokens | {token: first + i for i, token in enumerate(missing)}
    return replace(known, special_tokens=special_tokens)
