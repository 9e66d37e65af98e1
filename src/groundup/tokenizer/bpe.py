"""Byte-pair encoding in plain Python: train, encode, decode. The oracle of the faster implementations.

A text is split into pretokens (split_patterns.py) and each pretoken into bytes. Training repeatedly merges the most
frequent pair of neighbours into a new token; encoding applies the merges in the order they were learned.

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
    """Tokens in id order (the first `num_special` are special tokens), merges in the order learned, pretokenizer."""

    vocabulary: list[bytes]
    merges: list[BytesPair]
    regex: str
    num_special: int = 0

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens spelled in it are encoded as text."""
        rank = {pair: index for index, pair in enumerate(self.merges)}
        id_of = {token: id for id, token in enumerate(self.vocabulary) if id >= self.num_special}
        ids: list[int] = []
        for pretoken in pretokenize(text, self.regex):
            tokens = [bytes([byte]) for byte in pretoken]
            while len(tokens) > 1:
                best = min(pairwise(tokens), key=lambda pair: rank.get(pair, len(rank)))
                if best not in rank:
                    break
                merge_pair(tokens, best)
            ids += [id_of[token] for token in tokens]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self.vocabulary[id] for id in ids).decode("utf-8", errors="replace")


def train_reference_bpe(
    texts: Iterable[str], vocab_size: int, regex: str, special_tokens: Sequence[str] = ()
) -> ReferenceBPE:
    """Train a vocabulary: the special tokens, the 256 bytes, then one entry for each merge.

    Ties go to the pair with the smaller ids. Pairs that occur once are not merged, so the vocabulary may stay smaller than
    `vocab_size`.
    """
    vocabulary = [token.encode() for token in special_tokens] + BYTE_VOCABULARY
    id_of = {token: len(special_tokens) + index for index, token in enumerate(BYTE_VOCABULARY)}
    merges: list[BytesPair] = []
    counts = Counter(pretoken for text in texts for pretoken in pretokenize(text, regex))
    segmented = {pretoken: [bytes([byte]) for byte in pretoken] for pretoken in counts}
    while len(vocabulary) < vocab_size:
        pairs: Counter[BytesPair] = Counter()
        for pretoken, tokens in segmented.items():
            for pair in pairwise(tokens):
                pairs[pair] += counts[pretoken]
        best = min(pairs, key=lambda pair: (-pairs[pair], id_of[pair[0]], id_of[pair[1]]), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        merged = best[0] + best[1]
        if merged not in id_of:  # two pairs may make the same token
            id_of[merged] = len(vocabulary)
            vocabulary.append(merged)
        for tokens in segmented.values():
            merge_pair(tokens, best)
    return ReferenceBPE(vocabulary, merges, regex, len(special_tokens))


def merge_pair(tokens: list[bytes], pair: BytesPair) -> None:
    """Replace every occurrence of `pair` by its concatenation, in place, from left to right."""
    i = 0
    while i < len(tokens) - 1:
        if (tokens[i], tokens[i + 1]) == pair:
            tokens[i : i + 2] = [pair[0] + pair[1]]
        i += 1


def pretokenize(text: str, regex: str) -> list[bytes]:
    """The pretokens of a text, as UTF-8."""
    split = pre_tokenizers.Split(Regex(regex), "isolated").pre_tokenize_str(text)
    return [pretoken.encode() for pretoken, _ in split]
