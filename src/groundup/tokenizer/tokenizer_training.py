"""Learn a vocabulary from text, or let one that exists learn more."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import fastokens
import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, trainers

from groundup.artifacts.errors import UserError
from groundup.tokenizer.batch_encoder import fastokens_encode
from groundup.tokenizer.bpe_trainer import BPETrainer, MergePair
from groundup.tokenizer.bytes_to_unicode import BYTE_TO_UNICODE, BYTE_VOCABULARY, from_unicode, to_unicode
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.pretokenize import SEPARATOR, SPLITTERS, unique_pretokens
from groundup.tokenizer.special_tokens import END_OF_TEXT, PADDING, SPECIAL_TOKENS, check_special_tokens
from groundup.tokenizer.split_patterns import PATTERNS, build_pre_tokenizer, identify_pattern
from groundup.tokenizer.tokenizer import Tokenizer

_BYTES_ONLY = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BATCH_CHARACTERS = 4_000_000
MAX_UNIGRAM_BYTES = 16
"""Bytes of the longest entry of a Unigram vocabulary, as in SentencePiece."""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = "gpt4",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019, section 2.2).

    The vocabulary is the special tokens, the 256 bytes, and one entry for each merge, most frequent pair first;
    a pair that was seen once is a peculiarity of one text and is not merged.
    Raises UserError when the text has too few different pairs for `vocab_size`, and when special tokens collide.
    """
    special_tokens = check_special_tokens(special_tokens)
    counts = count_pretokens(texts, SPLITTERS[pattern])
    spelling = {len(special_tokens) + index: byte for index, byte in enumerate(BYTE_VOCABULARY)}
    id_of_byte = np.empty(256, np.int64)
    for id, byte in spelling.items():
        id_of_byte[byte[0]] = id
    text, lengths, times = _as_arrays(counts)
    learner = BPETrainer(id_of_byte[text], lengths, times, spelling)
    merges = learner.train(vocab_size)
    check_size(len(special_tokens) + len(learner.id_to_bytes), vocab_size)
    vocabulary = {token: id for id, token in enumerate(special_tokens)}
    backend = _byte_level_tokenizer(
        _bpe_model(vocabulary, learner.id_to_bytes, merges), PATTERNS[pattern].regex, special_tokens
    )
    return Tokenizer(backend, eos=END_OF_TEXT, pad=PADDING, chat_template=CHATML)


def train_unigram(
    texts: Iterable[str],
    vocab_size: int,
    pattern: str = "gpt4",
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """A Unigram language model over byte strings (Kudo 2018): of all ways to split a piece, the likeliest is taken.

    Trained by the `tokenizers` library. It adds scores up in an order that varies, so they are rounded; and it appends
    the bytes that its text lacks in an order that varies, 0.0001 apart, so all of these get the lowest score.
    Raises UserError as `train_bpe` does.
    """
    special_tokens = check_special_tokens(special_tokens)
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = build_pre_tokenizer(PATTERNS[pattern].regex)  # type: ignore[assignment]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=sorted(BYTE_TO_UNICODE.values()),
        max_piece_length=MAX_UNIGRAM_BYTES,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    check_size(backend.get_vocab_size(), vocab_size)
    entries: list[tuple[str, float]] = json.loads(backend.to_str())["model"]["vocab"][len(special_tokens) :]
    lowest = min(score for _, score in entries)
    learnt = [
        (token, round(lowest if len(token) == 1 and score < lowest + 0.03 else score, 4))
        for token, score in entries
    ]
    scores = [(token, 0.0) for token in special_tokens]
    scores += sorted(learnt, key=lambda entry: (-entry[1], entry[0]))
    backend = _byte_level_tokenizer(models.Unigram(scores), PATTERNS[pattern].regex, special_tokens)
    return Tokenizer(backend, eos=END_OF_TEXT, pad=PADDING, chat_template=CHATML)


ALGORITHMS = {"bpe": train_bpe, "unigram": train_unigram}


def extend_tokenizer(tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer whose first entries are those of `tokenizer`, with more merges learnt from `texts`.

    Text that the old merges encode well keeps its ids; embeddings of the old entries keep their meaning.
    Raises UserError when it is no byte-level BPE with a known pattern, or `vocab_size` is no larger than it has.
    """
    rules = json.loads(tokenizer.backend.to_str())
    pattern = identify_pattern(rules)
    if pattern is None or rules["model"]["type"] != "BPE":
        raise UserError(
            f"cannot extend {tokenizer!r}: not byte-level BPE with one of the patterns {', '.join(PATTERNS)}",
            hint="train a new one",
        )
    if vocab_size <= tokenizer.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size = {vocab_size}: the tokenizer to extend has {tokenizer.vocab_size} entries",
            hint=f"set tokenizer.vocab_size above {tokenizer.vocab_size}",
        )
    vocabulary, old = rules["model"]["vocab"], [tuple(pair) for pair in rules["model"]["merges"]]
    specials = [token["content"] for token in rules["added_tokens"]]
    counts = count_pretokens(texts, SPLITTERS[pattern])
    ordinary = {token: id for token, id in vocabulary.items() if token not in specials}
    whole_pieces = rules | {"pre_tokenizer": _BYTES_ONLY, "added_tokens": []}
    # Control tokens keep their ids under spellings that no piece has.
    unreachable = {f" {id}": id for token, id in vocabulary.items() if token in specials}
    whole_pieces["model"] = rules["model"] | {"vocab": ordinary | unreachable}
    encoder = fastokens.Tokenizer.from_json_str(json.dumps(whole_pieces))
    ids, lengths = fastokens_encode(encoder, [piece.decode() for piece in counts])
    times = np.array([*counts.values()], np.int64)
    spelling = {id: from_unicode(token) for token, id in ordinary.items()}
    # New ids begin behind the control tokens too, wherever those are.
    learner = BPETrainer(ids, lengths, times, spelling, first_new_id=tokenizer.vocab_size)
    new = learner.train(vocab_size)
    check_size(max(learner.id_to_bytes) + 1, vocab_size)
    rules["model"]["vocab"] = vocabulary | {
        to_unicode(token): id for id, token in learner.id_to_bytes.items() if id not in spelling
    }
    rules["model"]["merges"] = [*old, *_merge_strings(learner.id_to_bytes, new)]
    return Tokenizer(
        tokenizers.Tokenizer.from_str(json.dumps(rules)),
        bos=tokenizer.bos,
        eos=tokenizer.eos,
        pad=tokenizer.pad,
        stop=sorted(tokenizer.stop_ids),
        chat_template=tokenizer.chat_template,
    )


def count_pretokens(texts: Iterable[str], splitter: Callable[[np.ndarray], np.ndarray]) -> Counter[bytes]:
    """The different pieces of all texts and how often each occurs."""
    counts: Counter[bytes] = Counter()
    for batch in _batches(texts):
        pieces, places = unique_pretokens(batch, splitter)
        times = np.bincount(places, minlength=len(pieces)).tolist()
        for piece, number in zip(pieces, times, strict=True):
            counts[piece] += number
    counts.pop(SEPARATOR.encode("utf-8", "surrogatepass"), None)
    return counts


def check_size(actual: int, expected: int) -> None:
    """Raises UserError when a text did not give as many entries as were asked for."""
    if actual < expected:
        raise UserError(
            f"tokenizer.vocab_size = {expected}: the text supports only {actual} entries",
            hint=f"set tokenizer.vocab_size={actual} or less, or add text",
        )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    letters = 0
    for text in texts:
        batch.append(text)
        letters += len(text)
        if letters >= BATCH_CHARACTERS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def _as_arrays(counts: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pieces in a row, the length of each, and how often it occurs."""
    text = np.frombuffer(b"".join(counts), np.uint8)
    return text, np.array([len(piece) for piece in counts], np.int64), np.array([*counts.values()], np.int64)


def _merge_strings(spelling: Mapping[int, bytes], merges: Sequence[MergePair]) -> list[tuple[str, str]]:
    return [(to_unicode(spelling[left]), to_unicode(spelling[right])) for left, right in merges]


def _bpe_model(
    vocabulary: dict[str, int], spelling: Mapping[int, bytes], merges: Sequence[MergePair]
) -> models.BPE:
    letters = {to_unicode(token): id for id, token in spelling.items()}
    return models.BPE(vocabulary | letters, _merge_strings(spelling, merges))


def _byte_level_tokenizer(
    model: models.Model, regex: str, special_tokens: Sequence[str]
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = build_pre_tokenizer(regex)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens]
    )
    return backend
