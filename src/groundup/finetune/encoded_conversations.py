"""Conversations as tokens, in arrays: two bytes a token and one bit for its loss, where lists of Python take 44 bytes."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

Variant = tuple[NDArray[np.integer], NDArray[np.uint8]]
"""Token ids, and a mask that is 1 at those with a loss."""
SMALL_VOCABULARY = 1 << 16


@dataclass(frozen=True, eq=False)
class EncodedConversation:
    """The variants of a conversation: token ids, and a mask that is 1 at the assistant's tokens."""

    variants: tuple[Variant, ...]
    weight: float = 1.0

    @property
    def max_tokens(self) -> int:
        return max(len(ids) for ids, _ in self.variants)


class EncodedStore(Sequence[EncodedConversation]):
    """A sequence of encoded conversations that grows at its end.

    Args:
        vocab_size: ids below 65,536 take two bytes, others four.
    """

    def __init__(self, vocab_size: int, conversations: Iterable[EncodedConversation] = ()):
        is_small = vocab_size <= SMALL_VOCABULARY
        self._dtype = np.dtype(np.uint16 if is_small else np.uint32)
        self._ids, self._bits = array("H" if is_small else "I"), array("B")
        self._id_begins, self._bit_begins = array("Q", [0]), array("Q", [0])
        self._first_variants, self._weights = array("Q", [0]), array("d")
        for conversation in conversations:
            self.append(conversation)

    def append(self, conversation: EncodedConversation) -> None:
        for ids, mask in conversation.variants:
            self._ids.frombytes(np.asarray(ids, self._dtype).tobytes())
            self._bits.frombytes(np.packbits(np.asarray(mask, np.uint8)).tobytes())
            self._id_begins.append(len(self._ids))
            self._bit_begins.append(len(self._bits))
        self._first_variants.append(len(self._id_begins) - 1)
        self._weights.append(conversation.weight)

    def __len__(self) -> int:
        return len(self._weights)

    @overload
    def __getitem__(self, index: int) -> EncodedConversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[EncodedConversation]: ...
    def __getitem__(self, index: int | slice) -> EncodedConversation | list[EncodedConversation]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        variants = range(self._first_variants[index], self._first_variants[index + 1])
        return EncodedConversation(tuple(self._variant(number) for number in variants), self._weights[index])

    def __iter__(self) -> Iterator[EncodedConversation]:
        return (self[index] for index in range(len(self)))

    def _variant(self, number: int) -> Variant:
        begin, end = self._id_begins[number : number + 2]
        ids = np.frombuffer(self._ids[begin:end], self._dtype)
        bits = np.frombuffer(self._bits[slice(*self._bit_begins[number : number + 2])], np.uint8)
        return ids, np.unpackbits(bits, count=end - begin)
