"""Byte-pair encoding, written to be read: learn merges, encode, decode. The oracle of every faster way.

A text is cut into pieces (split_patterns.py) and each piece into bytes. Learning joins the most frequent pair of
neighbours into a new token, again and again; encoding does the joins it can, the earliest learnt first.

Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", on bytes as in Radford et al. 2019.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Regex, pre_tokenizers

from groundup.tokenizer.bytes_to_unicode import BYTE_VOCABULARY

BytesPair = tuple[bytes, bytes]


@dataclass(frozen=True)
class ReferenceBPE:
    """A vocabulary in the order of its ids, the merges in the order they were learnt, and where text is cut.

    The first `num_special` entries are special tokens, which no text becomes.
    """

    vocabulary: list[bytes]
    merges: list[BytesPair]
    regex: str
    num_special: int = 0

    def encode(self, text: str) -> list[int]:
        """The ids of a text; its spelling of special tokens is text like any other."""
        rank = {pair: index for index, pair in enumerate(self.merges)}
        id_of = {token: id for id, token in enumerate(self.vocabulary) if id >= self.num_special}
        ids: list[int] = []
        for piece in pretokenize(text, self.regex):
            parts = [bytes([byte]) for byte in piece]
            while len(parts) > 1:
                place = min(
                    range(len(parts) - 1), key=lambda i: rank.get((parts[i], parts[i + 1]), len(rank))
                )
                if (parts[place], parts[place + 1]) not in rank:
                    break
                parts[place : place + 2] = [parts[place] + parts[place + 1]]
            ids += [id_of[part] for part in parts]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.vocabulary[id] for id in ids).decode("utf-8", errors="replace")


def train_reference_bpe(
    texts: Iterable[str], vocab_size: int, regex: str, special_tokens: Sequence[str] = ()
) -> ReferenceBPE:
    """Learn a vocabulary: the special tokens, the 256 bytes, then one entry for each merge.

    Among equally frequent pairs the one with the smaller ids is joined first. Pairs that occur once are not
    joined, so the vocabulary may stay smaller than asked for.
    """
    vocabulary = [token.encode() for token in special_tokens] + BYTE_VOCABULARY
    id_of = {token: len(special_tokens) + index for index, token in enumerate(BYTE_VOCABULARY)}
    merges: list[BytesPair] = []
    counts = Counter(piece for text in texts for piece in pretokenize(text, regex))
    words = {piece: [bytes([byte]) for byte in piece] for piece in counts}
    while len(vocabulary) < vocab_size:
        pairs: Counter[BytesPair] = Counter()
        for piece, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[piece]
        best = min(pairs, key=lambda pair: (-pairs[pair], id_of[pair[0]], id_of[pair[1]]), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        joined = best[0] + best[1]
        if joined not in id_of:  # two pairs may spell the same token
            id_of[joined] = len(vocabulary)
            vocabulary.append(joined)
        for parts in words.values():
            merge_pair(parts, best)
    return ReferenceBPE(vocabulary, merges, regex, len(special_tokens))


def merge_pair(parts: list[bytes], pair: BytesPair) -> None:
    """Make every occurrence of `pair` one part, from left to right."""
    place = 0
    while place < len(parts) - 1:
        if (parts[place], parts[place + 1]) == pair:
            parts[place : place + 2] = [pair[0] + pair[1]]
        place += 1


def pretokenize(text: str, regex: str) -> list[bytes]:
    """The pieces of a text, as UTF-8."""
    return [
        piece.encode() for piece, _ in pre_tokenizers.Split(Regex(regex), "isolated").pre_tokenize_str(text)
    ]
