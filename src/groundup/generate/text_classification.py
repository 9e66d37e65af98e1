"""Classification: labels of texts, and of the tokens of a text (named entities), from a head on the hidden states of a model.

Source: Devlin et al. 2019, BERT, sections 4.1 and 5.3; the mean of a text's tokens where the head has no pooling of its own.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.generate.text_embedding import batches_by_length, encode_for_embedding, pad_ids, pool_tokens, read_tokens
from groundup.model.classification_head import ClassificationHead, HeadSettings
from groundup.tokenizer import Tokenizer

OUTSIDE = "O"
"""The label of tokens outside of all entities."""


class TextClassifier(nn.Module):
    """A model of any architecture, and a head from its embedding of a text, or from its tokens, to one logit a label.

    Attributes:
        model: the transformer.
        labels: the names of the logits.
    """

    def __init__(self, model: nn.Module, labels: Sequence[str], head: ClassificationHead | None = None):
        super().__init__()
        self.model, self.config = model, model.config
        width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.head = head or ClassificationHead(width, HeadSettings(tuple(labels)))
        self.head.to(next(model.parameters()).device)
        self.labels = self.head.settings.labels

    def forward(
        self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"], token_types: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B *T L"]:
        """Logits of the first `lengths` tokens of each row: of the text, or of every token."""
        settings = self.head.settings
        if settings.per_token:
            return self.head(read_tokens(self.model, tokens, lengths, token_types)[0])
        return self.head(pool_tokens(self.model, tokens, lengths, token_types, pooling=settings.pooling))


class Entity(NamedTuple):
    """Neighbouring tokens of one label: text[begin:end], and the mean probability of their labels."""

    label: str
    begin: int
    end: int
    probability: float


def classify_texts(
    classifier: TextClassifier, tokenizer: Tokenizer, texts: Sequence[str], *, query: str | None = None
) -> Float[Tensor, "N L"]:
    """The probability of each label of `classifier.labels` for each text, or the beginning of one longer than the context.

    A classifier with one label gives a score, which is no probability.

    Args:
        query: for a model of pairs, the first text of each: the query of a reranker, a premise.

    Raises UserError for a classifier of tokens.

    >>> labels = [classifier.labels[row] for row in classify_texts(classifier, tokenizer, ["a text"]).argmax(dim=1)]
    """
    if classifier.head.settings.per_token:
        raise UserError(
            "a classifier of tokens, expected one of texts", hint="find_entities(classifier, tokenizer, texts)"
        )
    if query is None:
        ids, types = encode_for_embedding(classifier.model, tokenizer, texts)[0], None
    else:
        ids, types = _encode_pairs(classifier, tokenizer, query, texts)
    probabilities = torch.zeros(len(ids), len(classifier.labels))
    for rows, found in _classify(classifier, ids, types):
        probabilities[rows] = found
    return probabilities


def _encode_pairs(
    classifier: TextClassifier, tokenizer: Tokenizer, query: str, texts: Sequence[str]
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Ids of each pair, whose text is truncated to the context, and their token types if the model has them."""
    config, backend = classifier.model.config, tokenizer.backend
    backend.enable_truncation(int(config.context_length), strategy="only_second")  # type: ignore[union-attr, arg-type]
    try:
        pairs = backend.encode_batch([(query, text) for text in texts], add_special_tokens=True)
    finally:
        backend.no_truncation()
    types = [pair.type_ids for pair in pairs] if config.num_token_types > 1 else None  # type: ignore[union-attr, operator]
    return [pair.ids for pair in pairs], types


def find_entities(classifier: TextClassifier, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[Entity]]:
    """The entities of each text, or of the beginning of one longer than the context: neighbouring tokens of one label.

    Labels may have the prefixes B- (the first token of an entity) and I- (a later one); tokens labelled O are in no entity.
    Raises UserError for a classifier of texts.

    >>> [text[entity.begin : entity.end] for entity in find_entities(classifier, tokenizer, [text])[0]]
    """
    if not classifier.head.settings.per_token:
        raise UserError(
            "a classifier of texts, expected one of tokens", hint="classify_texts(classifier, tokenizer, texts)"
        )
    ids, _ = encode_for_embedding(classifier.model, tokenizer, texts)
    entities: list[list[Entity]] = [[] for _ in texts]
    for rows, found in _classify(classifier, ids):
        for row, probabilities in zip(rows, found, strict=True):
            encoding = tokenizer.backend.encode(texts[row], add_special_tokens=True)
            spans = [
                (-1, -1) if special else span
                for span, special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
            ][: len(ids[row])]
            if len(spans) == len(ids[row]) < len(encoding.ids) and ids[row][-1] != encoding.ids[len(spans) - 1]:
                spans[-1] = (-1, -1)  # of a truncated text: its last special token
            best, labels = probabilities[: len(spans)].max(dim=-1)
            names = [classifier.labels[label] for label in labels.tolist()]
            entities[row] = list(_join_tokens(zip(spans, names, best.tolist(), strict=True)))
    return entities


def _classify(
    classifier: TextClassifier, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
) -> Iterator[tuple[list[int], Float[Tensor, "B *T L"]]]:
    """Rows of `ids`, and the probabilities of their labels, in batches."""
    device = next(classifier.parameters()).device
    for rows in batches_by_length(ids):
        inputs = [*pad_ids([ids[row] for row in rows])]
        inputs += [] if types is None else pad_ids([types[row] for row in rows])[:1]
        with torch.inference_mode():
            logits = classifier(*(tensor.to(device) for tensor in inputs))
            yield rows, classifier.head.probabilities(logits).cpu()


def _join_tokens(tokens: Iterator[tuple[tuple[int, int], str, float]]) -> Iterator[Entity]:
    """Entities from (span, label, probability) of each token."""
    group: list[tuple[int, int, float]] = []
    current = OUTSIDE
    for (begin, end), name, probability in tokens:
        if begin < 0:
            continue
        prefix, dash, rest = name.partition("-")
        label = rest if dash and prefix in ("B", "I") else name
        if group and (label != current or (dash and prefix == "B")):
            yield _entity(current, group)
            group = []
        current = label
        if label != OUTSIDE:
            group.append((begin, end, probability))
    if group:
        yield _entity(current, group)


def _entity(label: str, group: Sequence[tuple[int, int, float]]) -> Entity:
    return Entity(label, group[0][0], group[-1][1], sum(probability for *_, probability in group) / len(group))
