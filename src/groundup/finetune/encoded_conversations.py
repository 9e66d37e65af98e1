"""Conversations as tokens, in a temporary file: two bytes a token and a bit for its loss, where lists take 44 bytes of memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from groundup.finetune.training_data.unnamed_file import UnnamedFile

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
        self._dtype = np.dtype(np.uint16 if vocab_size <= SMALL_VOCABULARY else np.uint32)
        self._file = UnnamedFile()
        self._begins, self._lengths = array("Q"), array("Q")
        self._first_variants, self._weights = array("Q", [0]), array("d")
        for conversation in conversations:
            self.append(conversation)

    def append(self, conversation: EncodedConversation) -> None:
        for ids, mask in conversation.variants:
            data = np.asarray(ids, self._dtype).tobytes() + np.packbits(np.asarray(mask, np.uint8)).tobytes()
            self._begins.append(self._file.append(data))
            self._lengths.append(len(ids))
        self._first_variants.append(len(self._begins))
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
        length = self._lengths[number]
        data = self._file.read(self._begins[number], length * self._dtype.itemsize + (length + 7) // 8)
        ids = np.frombuffer(data, self._dtype, length)
        return ids, np.unpackbits(np.frombuffer(data, np.uint8, offset=ids.nbytes), count=length)
