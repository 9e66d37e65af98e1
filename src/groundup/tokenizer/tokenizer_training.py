"""Train a BPE or Unigram tokenizer, or extend a BPE tokenizer with new merges."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, trainers

from groundup.artifacts.arguments import check_choice, iter_texts
from groundup.artifacts.errors import UserError
from groundup.tokenizer.batch_encoder import fastokens_encode
from groundup.tokenizer.bpe import pretokenize
from groundup.tokenizer.bpe_trainer import BPETrainer, MergePair
from groundup.tokenizer.byte_fallback import add_byte_fallback, lacks_bytes
from groundup.tokenizer.byte_level_vocabulary import byte_level_backend, with_added_tokens
from groundup.tokenizer.bytes_to_unicode import BYTE_TO_UNICODE, BYTE_VOCABULARY, from_unicode, to_unicode
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.pretokenize import SEPARATOR, SPLITTERS, unique_pretokens
from groundup.tokenizer.special_tokens import (
    SPECIAL_TOKENS,
    SURROGATES,
    TURN_END,
    TURN_START,
    check_special_tokens,
    named_roles,
)
from groundup.tokenizer.split_patterns import PATTERNS, build_pre_tokenizer, identify_pattern
from groundup.tokenizer.tokenizer import Tokenizer

_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BATCH_CHARACTERS = 4_000_000
MAX_UNIGRAM_BYTES = 16
"""Longest entry of a Unigram vocabulary, as in SentencePiece."""

MAX_WORD_CHARACTERS = 4_192
"""Of a Unigram training; SentencePiece leaves out longer sentences."""

LONG_WORD = re.compile(rf"\S{{{MAX_WORD_CHARACTERS}}}(?=\S)")


def train_bpe(
    texts: Iterable[str], vocab_size: int, pretokenizer: str = "gpt4", special_tokens: Sequence[str] = SPECIAL_TOKENS,
    eos: str | None = None, pad: str | None = None,
) -> Tokenizer:  # fmt: skip
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019, section 2.2).

    The vocabulary is the special tokens, the 256 bytes, and one entry for each merge, most frequent pair first. Pairs
    that occur once are not merged.
    Raises UserError when the text has too few different pairs for `vocab_size`, and when special tokens collide.
    """
    special_tokens, roles = _check_special_tokens(special_tokens, pretokenizer, eos, pad)
    counts = count_pretokens(texts, SPLITTERS[pretokenizer])
    byte_tokens = {len(special_tokens) + index: byte for index, byte in enumerate(BYTE_VOCABULARY)}
    id_of_byte = np.empty(256, np.int64)
    for id, byte in byte_tokens.items():
        id_of_byte[byte[0]] = id
    ids = id_of_byte[np.frombuffer(b"".join(counts), np.uint8)]
    lengths = np.array([len(pretoken) for pretoken in counts], np.int64)
    trainer = BPETrainer(ids, lengths, np.array([*counts.values()], np.int64), byte_tokens)
    merges = trainer.train(vocab_size)
    check_size(len(special_tokens) + len(trainer.id_to_bytes), vocab_size)
    vocabulary = {token: id for id, token in enumerate(special_tokens)}
    vocabulary |= {to_unicode(token): id for id, token in trainer.id_to_bytes.items()}
    model = models.BPE(vocabulary, _merge_strings(trainer.id_to_bytes, merges))
    return Tokenizer(byte_level_backend(model, PATTERNS[pretokenizer].regex, special_tokens), **roles)


def train_unigram(
    texts: Iterable[str], vocab_size: int, pretokenizer: str = "gpt4", special_tokens: Sequence[str] = SPECIAL_TOKENS,
    eos: str | None = None, pad: str | None = None,
) -> Tokenizer:  # fmt: skip
    """A Unigram language model over byte strings (Kudo 2018): encoding takes the most likely split of each pretoken.

    Trained by the `tokenizers` library, whose scores vary in the last digits (its sums have no fixed order), so they are
    rounded; it appends missing bytes in random order, 0.0001 apart, so those all get the lowest score.
    Raises UserError as `train_bpe` does.
    """
    special_tokens, roles = _check_special_tokens(special_tokens, pretokenizer, eos, pad)
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = build_pre_tokenizer(PATTERNS[pretokenizer].regex)  # type: ignore[assignment]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(BYTE_TO_UNICODE.values()),
        max_piece_length=MAX_UNIGRAM_BYTES,
        show_progress=False,
    )
    backend.train_from_iterator(map(_trainable, texts), trainer)
    check_size(backend.get_vocab_size(), vocab_size)
    entries: list[tuple[str, float]] = json.loads(backend.to_str())["model"]["vocab"][len(special_tokens) :]
    lowest = min(score for _, score in entries)
    learned = [
        (token, round(lowest if len(token) == 1 and score < lowest + 0.03 else score, 4)) for token, score in entries
    ]
    scores = [(token, 0.0) for token in special_tokens]
    scores += sorted(learned, key=lambda entry: (-entry[1], entry[0]))
    return Tokenizer(byte_level_backend(models.Unigram(scores), PATTERNS[pretokenizer].regex, special_tokens), **roles)


def _trainable(text: str) -> str:
    """Without lone surrogates, and with long words broken: the trainer's time grows faster than the length of a word."""
    text = SURROGATES.sub("?", text)
    return LONG_WORD.sub(r"\g<0>\n", text) if len(text) > MAX_WORD_CHARACTERS else text


ALGORITHMS = {"bpe": train_bpe, "unigram": train_unigram}


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    algorithm: str = "bpe",
    pretokenizer: str = "gpt4",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    eos: str | None = None,
    pad: str | None = None,
) -> Tokenizer:
    """Train a tokenizer of `vocab_size` entries, special tokens and 256 bytes included.

    Args:
        algorithm: "bpe" or "unigram".
        pretokenizer: a name of PATTERNS: "gpt2", "gpt4" or "qwen2".
        special_tokens: any, or none. The default ones have the roles and the chat template that the pipeline needs.
        eos, pad: special tokens that end and pad texts; default: "<|endoftext|>" and "<|pad|>", if they are special tokens.

    Raises UserError when the texts are too few for `vocab_size`, on an unknown name, and for special tokens that collide.

    >>> tokenizer = train_tokenizer(["the cat sat on the mat"] * 10, vocab_size=270)
    >>> tokenizer.save("my-tokenizer")
    """
    texts = iter_texts(texts)
    check_choice("algorithm", algorithm, ALGORITHMS)
    check_choice("pretokenizer", pretokenizer, PATTERNS)
    special_tokens = check_special_tokens(special_tokens)
    if not isinstance(vocab_size, int):
        raise UserError(f"vocab_size = {vocab_size!r}, expected a number of entries")
    if vocab_size < (smallest := 256 + len(special_tokens)):
        raise UserError(
            f"vocab_size = {vocab_size}, expected at least {smallest}: 256 bytes and {len(special_tokens)} special tokens"
        )
    return ALGORITHMS[algorithm](texts, vocab_size, pretokenizer, special_tokens, eos, pad)


def extend_tokenizer(tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with the entries of `tokenizer`, the bytes that it lacks, and new merges learned from `texts`, up to
    `vocab_size`.

    The old ids keep their meaning, and so do the embeddings of a model.
    Raises UserError unless `tokenizer` is byte-level BPE with a known pattern and smaller than `vocab_size`.
    """
    if lacks_bytes(tokenizer) and vocab_size > tokenizer.vocab_size:
        tokenizer = add_byte_fallback(tokenizer)
        if vocab_size == tokenizer.vocab_size:
            return tokenizer
    rules = json.loads(tokenizer.backend.to_str())
    pattern = identify_pattern(rules)
    if pattern is None or rules["model"]["type"] != "BPE":
        raise UserError(
            f"cannot extend {tokenizer!r}: expected byte-level BPE with one of the pretokenizers {', '.join(PATTERNS)}",
            hint="train a new tokenizer",
        )
    if vocab_size <= tokenizer.vocab_size:
        raise UserError(
            f"vocab_size = {vocab_size}: the tokenizer to extend has {tokenizer.vocab_size} entries",
            hint=f"vocab_size above {tokenizer.vocab_size}",
        )
    vocabulary, old = with_added_tokens(rules), [tuple(pair) for pair in rules["model"]["merges"]]
    specials = [token["content"] for token in rules["added_tokens"]]
    counts = count_pretokens(texts, SPLITTERS[pattern])
    ordinary = {token: id for token, id in vocabulary.items() if token not in specials}
    pretoken_rules = rules | {"pre_tokenizer": _BYTES_ONLY, "added_tokens": []}
    # Special tokens keep their ids under names that no pretoken has.
    unreachable = {f" {id}": id for token, id in vocabulary.items() if token in specials}
    pretoken_rules["model"] = rules["model"] | {"vocab": ordinary | unreachable}
    import fastokens

    encoder = fastokens.Tokenizer.from_json_str(json.dumps(pretoken_rules))
    ids, lengths = fastokens_encode(encoder, [pretoken.decode() for pretoken in counts])
    occurrences = np.array([*counts.values()], np.int64)
    old_tokens = {id: from_unicode(token) for token, id in ordinary.items()}
    # New ids come after all special tokens too.
    trainer = BPETrainer(ids, lengths, occurrences, old_tokens, first_new_id=tokenizer.vocab_size)
    new = trainer.train(vocab_size)
    check_size(max(trainer.id_to_bytes) + 1, vocab_size)
    rules["model"]["vocab"] = vocabulary | {
        to_unicode(token): id for id, token in trainer.id_to_bytes.items() if id not in old_tokens
    }
    rules["model"]["merges"] = [*old, *_merge_strings(trainer.id_to_bytes, new)]
    return tokenizer.with_rules(rules)


def count_pretokens(texts: Iterable[str], splitter: Callable[[np.ndarray], np.ndarray]) -> Counter[bytes]:
    """The distinct pretokens of all texts and their counts."""
    counts: Counter[bytes] = Counter()
    for batch in _batches(texts):
        pretokens, indices = unique_pretokens(batch, splitter)
        occurrences = np.bincount(indices, minlength=len(pretokens)).tolist()
        for pretoken, count in zip(pretokens, occurrences, strict=True):
            counts[pretoken] += count
    counts.pop(SEPARATOR.encode("utf-8", "surrogatepass"), None)
    return counts


def check_size(actual: int, expected: int) -> None:
    """Raises UserError when the vocabulary is smaller than requested."""
    if actual < expected:
        half = 1 << (actual.bit_length() - 2)  # a power of two, with entries that occur more than twice
        supported = min(actual, max(300, half))
        raise UserError(
            f"vocab_size = {expected}: the text yields only {actual} entries",
            hint=f"set tokenizer.vocab_size={supported}, or add text",
        )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _merge_strings(id_to_bytes: Mapping[int, bytes], merges: Sequence[MergePair]) -> list[tuple[str, str]]:
    return [(to_unicode(id_to_bytes[left]), to_unicode(id_to_bytes[right])) for left, right in merges]


def _check_special_tokens(
    special_tokens: Sequence[str], pretokenizer: str, eos: str | None, pad: str | None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The special tokens and their roles. Raises UserError for one that the training may learn as ordinary text.

    Both would have the same string in tokenizer.json.
    """
    special_tokens = check_special_tokens(special_tokens)
    regex = PATTERNS[pretokenizer].regex
    for token in special_tokens:
        spellings = [token]
        with suppress(KeyError, UnicodeDecodeError):  # letters that stand for bytes
            spellings.append(from_unicode(token).decode())
        if len(token) == 1 or any(len(pretokenize(spelling, regex)) == 1 for spelling in spellings):
            raise UserError(
                f"special token {token!r} is a word, which the training may learn as text", hint=f"name it <|{token}|>"
            )
    roles = named_roles(special_tokens, eos, pad)
    has_turns = {TURN_START, TURN_END} <= set(special_tokens)
    return special_tokens, roles | {"chat_template": CHATML if has_turns else None}
