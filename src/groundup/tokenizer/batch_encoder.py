"""Batch encoding with `fastokens`, the fastest exact encoder measured in benchmarks/tokenization.py.

`fastokens` does not support every tokenizer (Unigram, for one). It is used only when it encodes a set of difficult texts
like the `tokenizers` library, which is the fallback.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.tokenizer.library_errors import library_errors
from groundup.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:  # an optional package: without it `tokenizers` encodes
    import fastokens

FlatIds = tuple[np.ndarray, np.ndarray]
"""The concatenated ids of several texts, uint32, and the number of ids of each, int64."""

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
    """Encodes many texts on all cores, to the same ids as Tokenizer.encode.

    Attributes:
        uses_fastokens: False: the `tokenizers` library encodes.

    >>> ids, lengths = BatchEncoder(tokenizer).encode_flat(["one text", "another"])
    """

    def __init__(self, tokenizer: Tokenizer):
        self._end_of_text = tokenizer.eos_id
        self._tokenizer = tokenizer
        self._encoder = _fast_encoder(tokenizer)
        self.uses_fastokens = self._encoder is not None

    def encode(self, texts: Sequence[str]) -> FlatIds:
        """The ids of all documents, each with the end-of-text token after it, and the number of ids of each."""
        assert self._end_of_text is not None
        ids, lengths = self.encode_flat(texts)
        return np.insert(ids, np.cumsum(lengths), np.uint32(self._end_of_text)), lengths + 1

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """The ids of all texts and the number of ids of each."""
        if self._encoder is not None:
            with suppress(UserError), library_errors("fastokens", ""):  # its regexes have other limits
                return fastokens_encode(self._encoder, texts)
        return _flatten(self._tokenizer.encode_batch(texts))


def fastokens_encode(encoder: "fastokens.Tokenizer", texts: Sequence[str]) -> FlatIds:
    """Encode with `fastokens`; special tokens spelled in a text are encoded as text."""
    ids, offsets = encoder.encode_batch_flat(list(texts), split_special_tokens=True)
    return np.frombuffer(ids, "<u4"), np.diff(np.frombuffer(offsets, "<u8").astype(np.int64))


def _fast_encoder(tokenizer: Tokenizer) -> "fastokens.Tokenizer | None":
    """`fastokens` for this tokenizer, or None when it is not installed, does not support it or is not exact."""
    added = [token.content for token in tokenizer.backend.get_added_tokens_decoder().values()]
    texts = [*SELF_TEST_TEXTS, *(f"a{token} {token}b" for token in added)]
    try:
        import fastokens

        with library_errors("fastokens", ""):
            encoder = fastokens.Tokenizer.from_json_str(tokenizer.backend.to_str())
            actual = fastokens_encode(encoder, texts)
    except (ImportError, UserError):
        return None
    expected = _flatten(tokenizer.encode_batch(texts))
    exact = all(np.array_equal(*pair) for pair in zip(actual, expected, strict=True))
    return encoder if exact else None


def _flatten(batch: Sequence[Sequence[int]]) -> FlatIds:
    lengths = np.array([len(ids) for ids in batch], np.int64)
    return np.array([id for ids in batch for id in ids], np.uint32), lengths
