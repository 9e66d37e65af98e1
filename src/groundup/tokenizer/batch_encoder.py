"""Encode much text, by the fastest exact encoder there is: `fastokens`, measured in benchmarks/tokenization.py.

It refuses what it cannot do, such as Unigram, and it is not believed: it first has to encode a few hard texts as the
`tokenizers` library does, which encodes whatever is left.
"""

from collections.abc import Sequence

import fastokens
import numpy as np

from groundup.tokenizer.tokenizer import Tokenizer

FlatIds = tuple[np.ndarray, np.ndarray]
"""The ids of several texts in a row, uint32, and how many each has, int64."""

SELF_TEST_TEXTS = (
    "",
    " ",
    "The town's clock struck 12, they'd LEFT; WE'LL see 1,234,567 more ...\r\n\r\n\n  (and so on)\t\t\n ",
    "def f(x):\n    return x ** 2  # 4 spaces\n\n\n\n\tif  x:   pass   ",
    "Über naïve Café-Besucher: e\u0301 \u00e9 ſ's K ﬁ ﷺ ٣٤٥ 12３ ½② 東京都 कि ไทย кот שלום 한국어",
    "👩‍👩‍👧 🇩🇪\u200b\ufeff\u00a0\u2003\u2028\u0085\x00\x1f\x7f\U0010ffff",
    "=" * 200 + "a" * 200 + " " * 200 + "東" * 100,
)


class BatchEncoder:
    """Documents to ids, each followed by the end of text. Equal to Tokenizer.encode, id for id, on all cores.

    Attributes:
        fast: whether `fastokens` does it.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._end_of_text = tokenizer.eos_id
        self._tokenizer = tokenizer
        self._encoder = _fast_encoder(tokenizer)
        self.uses_fastokens = self._encoder is not None

    def encode(self, texts: Sequence[str]) -> FlatIds:
        """The ids of all documents and how many each has, its end of text included."""
        assert self._end_of_text is not None
        ids, lengths = self.encode_flat(texts)
        return np.insert(ids, np.cumsum(lengths), np.uint32(self._end_of_text)), lengths + 1

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """The ids of all texts and how many each has, with nothing between them."""
        if self._encoder is not None:
            return fastokens_encode(self._encoder, texts)
        return _flatten(self._tokenizer.encode_batch(texts))


def fastokens_encode(encoder: fastokens.Tokenizer, texts: Sequence[str]) -> FlatIds:
    """What `fastokens` makes of texts; special tokens that they spell are text."""
    ids, offsets = encoder.encode_batch_flat(list(texts), split_special_tokens=True)
    return np.frombuffer(ids, "<u4"), np.diff(np.frombuffer(offsets, "<u8").astype(np.int64))


def _fast_encoder(tokenizer: Tokenizer) -> fastokens.Tokenizer | None:
    """`fastokens` for this tokenizer, when it can do it and does it right."""
    added = [token.content for token in tokenizer.backend.get_added_tokens_decoder().values()]
    texts = [*SELF_TEST_TEXTS, *(f"a{token} {token}b" for token in added)]
    try:
        encoder = fastokens.Tokenizer.from_json_str(tokenizer.backend.to_str())
        found = fastokens_encode(encoder, texts)
    except ValueError:
        return None
    expected = _flatten(tokenizer.encode_batch(texts))
    same = all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    return encoder if same else None


def _flatten(rows: Sequence[Sequence[int]]) -> FlatIds:
    return np.array([id for row in rows for id in row], np.uint32), np.array(
        [len(row) for row in rows], np.int64
    )
