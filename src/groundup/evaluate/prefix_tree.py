"""Sequences that begin alike in one row, what they share read once: a prefix tree in the order of a depth-first walk.

Answer choices share their question, questions their few-shot examples. A token attends to those on its path from the root:
of the keys before it, those whose subtree has not ended. Its position is its depth.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from groundup.model.attention_mask import AttentionMask
from groundup.model.kv_cache import LayerStates
from groundup.recipe import ModelConfig

ROW_TOKENS = 1_024
"""Tokens of a row, unless one sequence has more: attention costs their square."""

MIN_SHARED = 0.25
"""Part of a sequence that it must share with the one before it to stand in the same row."""


@dataclass
class PrefixRow:
    """Some sequences as one row of tokens.

    Attributes:
        depths: position of each token in its sequences.
        ends: of each token, the index after its last descendant.
        paths: of each sequence (by its index), the indices in the row of its tokens.
    """

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def add(self, index: int, sequence: Sequence[int], path: list[int]) -> list[int]:
        """Append a sequence whose first tokens stand on `path`; returns its path."""
        begin, shared = len(self.tokens), len(path)
        path = [*path, *range(begin, begin + len(sequence) - shared)]
        self.tokens += sequence[shared:]
        self.depths += range(shared, len(sequence))
        self.ends += [0] * (len(sequence) - shared)
        for node in path:
            self.ends[node] = len(self.tokens)
        self.paths[index] = path
        return path


def prefix_rows(sequences: Sequence[tuple[int, ...]], max_tokens: int | None = None) -> Iterator[PrefixRow]:
    """Rows of at most `max_tokens` tokens (ROW_TOKENS), or twice a sequence, in lexicographic order of the sequences.

    Twice, since another row would read again what its sequences share: the choices of a long question stand in one row.
    """
    max_tokens = max_tokens or ROW_TOKENS
    row, path, before = PrefixRow(), list[int](), ()
    for index in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence = sequences[index]
        shared = _shared_length(before, sequence)
        full = len(row.tokens) + len(sequence) - shared > max(max_tokens, 2 * len(sequence))
        if row.tokens and (full or shared < MIN_SHARED * len(sequence)):
            yield row
            row, shared = PrefixRow(), 0
        path, before = row.add(index, sequence, path[:shared]), sequence
    if row.tokens:
        yield row


def single_row(index: int, sequence: Sequence[int]) -> PrefixRow:
    """A row of one sequence."""
    row = PrefixRow()
    row.add(index, sequence, [])
    return row


def _shared_length(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Number of equal tokens at the beginning of both."""
    shortest = min(len(first), len(second))
    return bisect_left(range(shortest), True, key=lambda index: first[: index + 1] != second[: index + 1])


class PrefixTreeBatch:
    """Rows of prefix trees as the decoder's key/value cache: positions and a mask; it keeps no keys (see `KVCache`)."""

    def __init__(self, rows: Sequence[PrefixRow], device: torch.device):
        self.num_tokens = max(len(row.tokens) for row in rows)
        self.tokens, self.depths, self.ends = (
            self._pad([getattr(row, name) for row in rows]).to(device) for name in ("tokens", "depths", "ends")
        )
        # What the longest sequence has, once the tokens are appended, that the rows have not: negative.
        self.length = int(self.depths.max()) + 1 - self.num_tokens
        self.masks: dict[int | None, AttentionMask] = {}

    def _pad(self, rows: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
        return torch.tensor([[*row, *[0] * (self.num_tokens - len(row))] for row in rows])

    def positions(self, num_tokens: int) -> Int[Tensor, "B T"]:
        return self.depths

    def mask(self, num_tokens: int, window: int | None) -> AttentionMask:
        """A token attends to the keys of its path, itself included, and of them to those inside the window."""
        if window not in self.masks:
            index = torch.arange(self.num_tokens, device=self.ends.device)
            query = index[:, None]
            attends = (index <= query) & (query < self.ends[:, None])
            attends |= index == query  # padding: a softmax of something
            if window is not None:
                attends &= self.depths[:, :, None] - self.depths[:, None] < window
            self.masks[window] = AttentionMask(dense=attends[:, None])
        return self.masks[window]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return keys, values

    def states(self, layer: int) -> LayerStates:
        return None, None

    def keep_states(self, layer: int, states: tuple[Tensor, Tensor]) -> None:
        raise NotImplementedError("a state has one past; see has_prefix_trees")

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens


def has_prefix_trees(config: ModelConfig) -> bool:
    """Whether a decoder can read them: not one with states, nor with a bias by the distance in the row (ALiBi, T5)."""
    return not config.has_state and config.position_embedding not in ("alibi", "relative")
