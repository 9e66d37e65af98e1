"""How surprised is a model by a text? Its negative log likelihood, as bits per byte and as perplexity.

Bits per byte can be compared between models whatever their vocabularies, and with compressors; perplexity per
token only between models that share a tokenizer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer, TokenShard

BATCH_TOKENS = 8_192
"""Tokens in one forward pass. Not a matter of the machine: it decides the last digits of the result."""

HEAD_TOKENS = 1_024
"""Tokens whose logits exist at one time."""


@dataclass(frozen=True)
class ScoredDocument:
    """Tokens to be scored.

    Attributes:
        ids: the tokens, with at least one before the first scored one: what documents begin with.
        bytes: length of the scored text in UTF-8.
        source: where it comes from; scores are also summed by it.
        context: leading tokens that are only looked at.
    """

    ids: Sequence[int] | np.ndarray
    bytes: float
    source: str = ""
    num_context_tokens: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_context_tokens < len(self.ids):
            raise ValueError(
                f"{len(self.ids)} tokens, {self.num_context_tokens} of context: at least one of each is needed"
            )

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return len(self.ids) - self.num_context_tokens


@dataclass(frozen=True)
class Score:
    """What a model made of some documents: one entry a document, and the sums that follow from them."""

    sources: tuple[str, ...]
    document_tokens: tuple[int, ...]
    document_bytes: tuple[float, ...]
    document_nats: tuple[float, ...] = field(repr=False)

    @cached_property
    def tokens(self) -> int:
        return sum(self.document_tokens)

    @cached_property
    def bytes(self) -> float:
        return sum(self.document_bytes)

    @cached_property
    def nats(self) -> float:
        """Negative log likelihood of everything."""
        return math.fsum(self.document_nats)

    @property
    def loss(self) -> float:
        """Nats per token, as a training loss is."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): as uncertain as a choice among this many equally likely tokens."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    def by_source(self) -> dict[str, "Score"]:
        """The same for each source alone, in alphabetical order."""
        return {name: self._select_source(name) for name in sorted(set(self.sources))}

    def _select_source(self, name: str) -> "Score":
        mine = [i for i, source in enumerate(self.sources) if source == name]
        return Score(
            tuple(self.sources[i] for i in mine),
            tuple(self.document_tokens[i] for i in mine),
            tuple(self.document_bytes[i] for i in mine),
            tuple(self.document_nats[i] for i in mine),
        )


def score(
    model: nn.Module,
    documents: Sequence[ScoredDocument],
    *,
    window: int | None = None,
    stride: int | None = None,
    task: Any = None,
) -> Score:
    """Score every token of `documents` after their context exactly once, each document by itself.

    A document longer than the model's window is read in windows that overlap: each new one moves on by
    `stride` tokens and scores only those, so that all but the first window's tokens have at least
    window - stride tokens before them.

    Args:
        model: a decoder, quantized or not.
        window: tokens that the model sees at once; default: its context length.
        stride: default: half of the window. A whole window is quickest.
        task: a progress task, advanced by tokens read.

    Sums are in float64. Raises UserError when there is nothing to score.
    """
    if not isinstance(model, Decoder):
        raise UserError(
            f"a model of kind {type(model).__name__} has no likelihood of a text",
            hint="give a decoder, such as a GPT",
        )
    if not documents:
        raise UserError("no text to score, expected at least one document with some text")
    window = window or model.config.context_length
    stride = stride or max(1, window // 2)
    if not 1 <= stride <= window:
        raise ValueError(f"stride = {stride}, expected 1 to window = {window}")
    device = next(model.parameters()).device
    pieces = [
        p for index, document in enumerate(documents) for p in _split_windows(index, document, window, stride)
    ]
    # Alike lengths side by side: little padding. Longest first: what needs too much memory fails at once.
    pieces.sort(key=lambda piece: (piece.begin - piece.end, piece.document, piece.begin))
    nats = torch.zeros(len(documents), dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():  # not inference_mode: what a model keeps of this pass must still serve its training
        for batch in _batches(pieces, BATCH_TOKENS):
            tokens, labels, owners = _collate(batch, documents, device)
            hidden = model.hidden_states(tokens)
            scored = labels >= 0
            losses = _token_losses(model, hidden[scored], labels[scored])
            nats.index_add_(0, owners[scored], losses)
            if task is not None:
                task.advance(sum(piece.end - piece.begin - 1 for piece in batch))
    model.train(was_training)
    return Score(
        tuple(document.source for document in documents),
        tuple(document.tokens for document in documents),
        tuple(document.bytes for document in documents),
        tuple(nats.tolist()),
    )


def score_windows(model: nn.Module, shard: TokenShard, window: int, *, max_tokens: int) -> Score:
    """A quick look at a shard, as training reads it: windows side by side, over the ends of documents.

    About `max_tokens` tokens in windows spread evenly over the shard; bytes are counted at the shard's own
    rate of bytes per token. For a curve during training: `score` looks at each document by itself.
    """
    length = min(window + 1, shard.num_tokens)
    if length < 2:
        raise UserError(f"{shard.base}: {shard.num_tokens} tokens to score, expected at least 2")
    places = shard.num_tokens - length
    count = max(1, min(max_tokens, shard.num_tokens) // length)
    begins = [places * i // max(1, count - 1) for i in range(count)]
    rate = shard.bytes / shard.num_tokens
    windows = [
        ScoredDocument(shard.tokens[begin : begin + length], bytes=rate * (length - 1)) for begin in begins
    ]
    return score(model, windows, window=window, stride=window)


def score_text(model: nn.Module, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """Bits per byte, perplexity, loss (nats per token), tokens and bytes of one text, as one document.

    Raises UserError when there is no text.
    """
    result = score(model, [text_document(tokenizer, text)])
    return {
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity,
        "loss": result.loss,
        "tokens": result.tokens,
        "bytes": result.bytes,
    }


def text_document(tokenizer: Tokenizer, text: str, source: str = "") -> ScoredDocument:
    """A text after the token that documents begin with: the tokenizer's beginning of text, else its end.

    Where the tokenizer has neither, the first token is only looked at. Raises UserError when nothing is left.
    """
    ids = tokenizer.encode(text)
    size = len(text.encode())
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is not None:
        ids = [start, *ids]
    else:
        size -= len(tokenizer.decode(ids[:1]).encode())
    if len(ids) < 2:
        raise UserError(
            f"a text of {len(text)} characters: too short to be scored", hint="give some sentences"
        )
    return ScoredDocument(ids, size, source)


@dataclass(frozen=True)
class _ScoredWindow:
    """ids[begin:end] of a document, of which ids[first:end] are scored here."""

    document: int
    begin: int
    end: int
    first_scored: int


def _split_windows(index: int, document: ScoredDocument, window: int, stride: int) -> Iterator[_ScoredWindow]:
    """A piece holds one token more than the window: the last one is predicted and never read."""
    length = len(document.ids)
    end = min(length, max(window + 1, document.num_context_tokens + 1))
    yield _ScoredWindow(index, max(0, end - window - 1), end, document.num_context_tokens)
    while end < length:
        first, end = end, min(length, end + stride)
        yield _ScoredWindow(index, end - window - 1, end, first)


def _batches(pieces: list[_ScoredWindow], batch_tokens: int) -> Iterator[list[_ScoredWindow]]:
    """Runs of `pieces`, which come longest first, of at most `batch_tokens` tokens with their padding."""
    batch: list[_ScoredWindow] = []
    for piece in pieces:
        longest = batch[0].end - batch[0].begin - 1 if batch else 0
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _collate(
    batch: list[_ScoredWindow], documents: Sequence[ScoredDocument], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (-1: not scored) and document numbers, each (B T); padded on the right."""
    longest = batch[0].end - batch[0].begin - 1
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(tokens, -1)
    owners = torch.zeros_like(tokens)
    for row, piece in enumerate(batch):
        read = documents[piece.document].ids[piece.begin : piece.end]
        ids = torch.from_numpy(np.array(read, dtype=np.int64))
        tokens[row, : len(ids) - 1] = ids[:-1]
        labels[row, piece.first_scored - piece.begin - 1 : len(ids) - 1] = ids[
            piece.first_scored - piece.begin :
        ]
        owners[row] = piece.document
    return tokens.to(device), labels.to(device), owners.to(device)


def _token_losses(model: Decoder, hidden: Tensor, labels: Tensor) -> Tensor:
    """-log p of each label (N) given its hidden state (N D), in nats, in float64."""
    losses = []
    for begin in range(0, len(labels), HEAD_TOKENS):
        part = slice(begin, begin + HEAD_TOKENS)
        logits = model.logits(hidden[part]).float()
        losses.append(nn.functional.cross_entropy(logits, labels[part], reduction="none").double())
    return torch.cat(losses)
