"""Learn a vocabulary from text."""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.artifacts.errors import UserError
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.patterns import PATTERNS, pre_tokenizer
from groundup.tokenizer.special import END_OF_TEXT, PADDING, SPECIAL_TOKENS, check_special_tokens
from groundup.tokenizer.tokenizer import Tokenizer

MIN_FREQUENCY = 2
"""A pair that was seen once is a peculiarity of one text."""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = "gpt4",
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS,
) -> Tokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019, section 2.2).

    The vocabulary is the special tokens, the 256 bytes, and one entry for each merge, most frequent pair first.
    Raises UserError when the text has too few different pairs for `vocab_size`, and when special tokens collide.
    """
    check_special_tokens(special_tokens)
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer(PATTERNS[pattern].regex)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    check_size(backend.get_vocab_size(), vocab_size)
    return Tokenizer(backend, eos=END_OF_TEXT, pad=PADDING, chat_template=CHATML)


def check_size(reached: int, wanted: int) -> None:
    """Raises UserError when a text did not give as many entries as were asked for."""
    if reached < wanted:
        raise UserError(
            f"tokenizer.vocab_size = {wanted}: the text supports only {reached} entries",
            hint=f"set tokenizer.vocab_size={reached} or less, or add text",
        )
