"""Negative log likelihood of texts under a decoder: bits per byte, perplexity and loss.

Bits per byte compare models of any vocabulary, and compressors; perplexity per token compares only models with the same
tokenizer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.evaluate.intervals import ratio_interval
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer, TokenShard

BATCH_TOKENS = 8_192
"""Tokens in one forward pass. A constant, because it decides the last digits of the result."""

HEAD_TOKENS = 1_024
"""Tokens whose logits are computed at a time."""


@dataclass(frozen=True)
class ScoredDocument:
    """Tokens to be scored.

    Attributes:
        ids: context tokens, then scored tokens; at least one of each.
        bytes: length of the scored text in UTF-8.
        source: name of its data source; `DocumentScores.by_source` groups by it.
        num_context_tokens: leading tokens that are not scored.
    """

    ids: Sequence[int] | np.ndarray
    bytes: float
    source: str = ""
    num_context_tokens: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_context_tokens < len(self.ids):
            raise ValueError(
                f"num_context_tokens = {self.num_context_tokens}, expected 1 to {len(self.ids) - 1} of {len(self.ids)} tokens"
            )

    @property
    def num_scored_tokens(self) -> int:
        return len(self.ids) - self.num_context_tokens


@dataclass(frozen=True)
class DocumentScores:
    """Negative log likelihood (nats), tokens and bytes of each document, and their sums."""

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
        """Negative log likelihood of all documents."""
        return math.fsum(self.document_nats)

    @property
    def loss(self) -> float:
        """Nats per token: the training loss."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes

    def by_source(self) -> dict[str, "DocumentScores"]:
        """The scores of each source, in alphabetical order."""
        return self.by_group(self.sources)

    def by_group(self, groups: Sequence[str]) -> dict[str, "DocumentScores"]:
        """The scores of the documents of each group, in alphabetical order; `groups` has the group of each document."""
        documents = list(zip(self.sources, self.document_tokens, self.document_bytes, self.document_nats, strict=True))
        return {
            name: DocumentScores(
                *zip(*(row for row, group in zip(documents, groups, strict=True) if group == name), strict=True)
            )
            for name in sorted(set(groups))
        }


def score_documents(
    model: nn.Module,
    documents: Sequence[ScoredDocument],
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Any = None,
) -> DocumentScores:
    """Score every token after the context of each document exactly once; documents do not see each other.

    A document longer than the window is read in overlapping windows: each next one starts `stride` tokens later and
    scores the last `stride` tokens, so that those have at least window - stride tokens of context.

    Args:
        model: a decoder, quantized or not.
        window: context length of a forward pass; default: the model's.
        stride: default: half of the window; stride = window is fastest.
        progress: a progress task, advanced by tokens scored.

    Sums are in float64. Raises UserError without documents, and for a model that is no decoder.

    >>> documents = [text_document(tokenizer, text) for text in texts]
    >>> score_documents(model, documents).bits_per_byte
    """
    if not isinstance(model, Decoder):
        raise UserError(
            f"{type(model).__name__} does not define the likelihood of a text, expected a decoder",
            hint="encoders and encoder-decoders are scored by masked tokens: groundup.evaluate.masked_lm",
        )
    if not documents:
        raise UserError("no documents to score, expected at least one")
    window = window or model.config.context_length
    stride = stride or max(1, window // 2)
    if not 1 <= stride <= window:
        raise ValueError(f"stride = {stride}, expected 1 to window = {window}")
    device = next(model.parameters()).device
    nats = torch.zeros(len(documents), dtype=torch.float64, device=device)
    for hidden, labels, document_index in scored_states(model, documents, window, stride):
        nats.index_add_(0, document_index, _token_losses(model, hidden, labels))
        if progress is not None:
            progress.advance(len(labels))
    return DocumentScores(
        tuple(document.source for document in documents),
        tuple(document.num_scored_tokens for document in documents),
        tuple(document.bytes for document in documents),
        tuple(nats.tolist()),
    )


def scored_states(
    model: Decoder, documents: Sequence[ScoredDocument], window: int, stride: int
) -> Iterator[tuple[Float[Tensor, "N D"], Int[Tensor, " N"], Int[Tensor, " N"]]]:
    """The hidden states that predict the scored tokens, those tokens, and the index of their document, in batches; windows as in
    `score_documents`.
    """
    device = next(model.parameters()).device
    windows = [
        scored for index, document in enumerate(documents) for scored in _split_windows(index, document, window, stride)
    ]
    # Sorted by length: little padding. Longest first: an out-of-memory error comes at once.
    windows.sort(key=lambda scored: (scored.begin - scored.end, scored.document, scored.begin))
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(windows, BATCH_TOKENS):
            tokens, labels, document_index = _collate(batch, documents, device)
            scored = labels >= 0
            with torch.no_grad():  # not inference_mode: buffers that the model caches in this pass are used in training
                hidden = model.hidden_states(tokens)[scored]
            yield hidden, labels[scored], document_index[scored]
    finally:
        model.train(was_training)


def score_windows(model: nn.Module, shard: TokenShard, window: int, *, max_tokens: int) -> DocumentScores:
    """Quick score of a shard for the validation curve of a training run: non-overlapping windows across documents.

    Evenly spaced windows of about `max_tokens` tokens in all; bytes are estimated from the shard's bytes per token.
    Raises UserError when the shard has fewer than 2 tokens.
    """
    length = min(window + 1, shard.num_tokens)
    if length < 2:
        raise UserError(f"{shard.base}: no document was held out", hint="raise data.validation_fraction")
    count = max(1, min(max_tokens, shard.num_tokens) // length)
    begins = [(shard.num_tokens - length) * i // max(1, count - 1) for i in range(count)]
    rate = shard.bytes / shard.num_tokens
    windows = [ScoredDocument(shard.tokens[begin : begin + length], bytes=rate * (length - 1)) for begin in begins]
    return score_documents(model, windows, window=window, stride=window)


def score_metrics(result: DocumentScores) -> dict[str, Any]:
    """Scores as JSON values, with the 95% interval of the bits per byte (None for a single document)."""
    return {
        "bits_per_byte": result.bits_per_byte,
        "bits_per_byte_interval": bits_per_byte_interval(result),
        "perplexity": result.perplexity,
        "loss": result.loss,
        "documents": len(result.sources),
        "tokens": result.tokens,
        "bytes": result.bytes,
    }


def bits_per_byte_interval(result: DocumentScores) -> list[float] | None:
    """[low, high] over documents; None for one document."""
    bits = [nats / math.log(2) for nats in result.document_nats]
    return ratio_interval(bits, result.document_bytes)


def perplexity(model: nn.Module, ids: Sequence[int] | Tensor, *, window: int | None = None) -> float:
    """exp of the mean negative log likelihood of ids[1:]; ids[0] is only context.

    >>> perplexity(model, tokenizer.encode("The quick brown fox"))
    """
    ids = ids.tolist() if isinstance(ids, Tensor) else ids
    if len(ids) < 2:
        raise UserError(
            f"{len(ids)} token{'' if len(ids) == 1 else 's'}, expected at least 2: the first is only context"
        )
    return score_documents(model, [ScoredDocument(ids, bytes=0)], window=window).perplexity


def bits_per_byte(model: nn.Module, tokenizer: Tokenizer, text: str) -> float:
    """Negative log likelihood of a text in bits, divided by its UTF-8 bytes; comparable across vocabularies."""
    return score_documents(model, [text_document(tokenizer, text)]).bits_per_byte


def score_text(model: nn.Module, tokenizer: Tokenizer, text: str) -> dict[str, float]:
    """bits_per_byte, perplexity, loss (nats per token), tokens and bytes of one text.

    Raises UserError when the text is empty.
    """
    result = score_documents(model, [text_document(tokenizer, text)])
    return {
        "bits_per_byte": result.bits_per_byte,
        "perplexity": result.perplexity,
        "loss": result.loss,
        "tokens": result.tokens,
        "bytes": result.bytes,
    }


def text_document(tokenizer: Tokenizer, text: str, source: str = "") -> ScoredDocument:
    """A text as a document, with the tokenizer's bos token (else its eos token) as context.

    Without either, the first token of the text is the context. Raises UserError when no token is left to score.
    """
    ids = tokenizer.encode(text)
    size = len(text.encode())
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is not None:
        ids = [start, *ids]
    else:
        size -= len(tokenizer.decode(ids[:1]).encode())
    if len(ids) < 2 or not text.strip():
        raise UserError(f"a text of {len(text)} characters cannot be scored", hint="a paragraph or more of text")
    return ScoredDocument(ids, size, source)


@dataclass(frozen=True)
class _ScoredWindow:
    """ids[begin:end] of a document, of which ids[first_scored:end] are scored."""

    document: int
    begin: int
    end: int
    first_scored: int


def _split_windows(index: int, document: ScoredDocument, window: int, stride: int) -> Iterator[_ScoredWindow]:
    """Each has window + 1 tokens: the last one is a label only."""
    length = len(document.ids)
    end = min(length, max(window + 1, document.num_context_tokens + 1))
    yield _ScoredWindow(index, max(0, end - window - 1), end, document.num_context_tokens)
    while end < length:
        first, end = end, min(length, end + stride)
        yield _ScoredWindow(index, end - window - 1, end, first)


def _batches(windows: list[_ScoredWindow], batch_tokens: int) -> Iterator[list[_ScoredWindow]]:
    """Batches of at most `batch_tokens` tokens, padding included; `windows` are sorted longest first."""
    batch: list[_ScoredWindow] = []
    for window in windows:
        longest = batch[0].end - batch[0].begin - 1 if batch else 0
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _collate(
    batch: list[_ScoredWindow], documents: Sequence[ScoredDocument], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (-1: not scored) and document indices, each (B T), padded on the right."""
    longest = batch[0].end - batch[0].begin - 1
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(tokens, -1)
    document_index = torch.zeros_like(tokens)
    for row, window in enumerate(batch):
        ids = documents[window.document].ids[window.begin : window.end]
        ids = torch.from_numpy(np.array(ids, dtype=np.int64))
        first = window.first_scored - window.begin
        tokens[row, : len(ids) - 1] = ids[:-1]
        labels[row, first - 1 : len(ids) - 1] = ids[first:]
        document_index[row] = window.document
    return tokens.to(device), labels.to(device), document_index.to(device)


@torch.no_grad()
def _token_losses(model: Decoder, hidden: Tensor, labels: Tensor) -> Tensor:
    """-log p of each label (N) given its hidden state (N D), in nats, float64."""
    losses = []
    for begin in range(0, len(labels), HEAD_TOKENS):
        part = slice(begin, begin + HEAD_TOKENS)
        logits = model.logits(hidden[part]).float()
        losses.append(nn.functional.cross_entropy(logits, labels[part], reduction="none").double())
    return torch.cat(losses)
