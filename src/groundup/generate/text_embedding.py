"""Text embeddings: one vector a text, from the hidden states of any model, and the nearest texts by cosine similarity.

The mean over the tokens of the last hidden states is the default (Reimers & Gurevych 2019, Sentence-BERT); of an
encoder-decoder those of its encoder (Ni et al. 2021, Sentence-T5). A model that was fine-tuned for search may weight the tokens.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.generate.generation import encode_prompt
from groundup.model import EncoderDecoder
from groundup.model.encoder import POOLINGS, mean_pool
from groundup.model.token_weights import get_token_weights
from groundup.tokenizer import Tokenizer

BATCH_TOKENS = 8_192
"""Tokens of one forward pass at most, padding included."""


def embed_texts(
    model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], *, pooling: str | None = None, normalize: bool = True
) -> Float[Tensor, "N D"]:
    """One vector per text, in float32 on the CPU; of a text longer than the context, its beginning is embedded.

    Args:
        pooling: mean (of all tokens, weighted if the model has weights for them), cls (first token) or last (last token);
            default: model.pooling of an encoder, else mean.
        normalize: to length 1, so that the product of two vectors is their cosine similarity.

    Raises UserError for an unknown pooling.

    >>> vectors = embed_texts(model, tokenizer, ["a text", "another text"])
    >>> similarity = vectors @ vectors.T
    """
    if isinstance(texts, str):
        raise UserError("texts is a str, expected a list of texts", hint="embed_texts(model, tokenizer, [text])")
    return embed_many(model, tokenizer, texts, pooling=pooling, normalize=normalize)[0]


def embed_many(
    model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], *, pooling: str | None = None, normalize: bool = True
) -> tuple[Float[Tensor, "N D"], int]:
    """The vectors of `embed_texts`, and how many texts were longer than the context."""
    ids, num_truncated = encode_for_embedding(model, tokenizer, texts)
    vectors = torch.zeros(len(ids), int(model.config.hidden_size))  # type: ignore[union-attr, arg-type]
    for rows in batches_by_length(ids):
        vectors[rows] = embed_batch(model, [ids[row] for row in rows], pooling=pooling, normalize=normalize)
    return vectors, num_truncated


def encode_for_embedding(model: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[list[list[int]], int]:
    """The ids of each text, and how many were truncated; a special token at the end, such as [SEP], stays."""
    length: int = model.config.context_length  # type: ignore[union-attr, assignment]
    encoded, num_truncated = [], 0
    for text in texts:
        ids = encode_prompt(model, tokenizer, text)
        if len(ids) > length:
            num_truncated += 1
            end = ids[-1:] if ids[-1] in tokenizer.special_ids else []
            ids = ids[: length - len(end)] + end
        encoded.append(ids)
    return encoded, num_truncated


def batches_by_length(ids: Sequence[Sequence[int]], max_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices of `ids` in batches of similar length, longest first: little padding."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    begin = 0
    while begin < len(order):
        count = max(1, max_tokens // max(1, len(ids[order[begin]])))
        yield order[begin : begin + count]
        begin += count


@torch.inference_mode()
def embed_batch(
    model: nn.Module, ids: Sequence[Sequence[int]], *, pooling: str | None = None, normalize: bool = True
) -> Float[Tensor, "B D"]:
    """`embed_texts` for one batch of token ids; padding is a document of its own and has no influence."""
    device = next(model.parameters()).device
    tokens, lengths = (tensor.to(device) for tensor in pad_ids(ids))
    vectors = pool_tokens(model, tokens, lengths, pooling=pooling)
    return (nn.functional.normalize(vectors, dim=-1) if normalize else vectors).cpu()


def pad_ids(ids: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"]]:
    """The ids, padded to the longest row, and the length of each row."""
    longest = max(map(len, ids))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids]), torch.tensor(list(map(len, ids)))


def pool_tokens(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    token_types: Int[Tensor, "B T"] | None = None,
    *,
    pooling: str | None = None,
) -> Float[Tensor, "B D"]:
    """One vector per row, of its first `lengths` tokens, in float32 and with gradients."""
    pool = _find_pooling(model, pooling)
    weights = get_token_weights(model) if pool is mean_pool else None
    hidden, real = read_tokens(model, tokens, lengths, token_types)
    return pool(hidden, real if weights is None else real * weights[tokens])


def read_tokens(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    token_types: Int[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]]:
    """The hidden states of each row's first `lengths` tokens, in float32, and which those are."""
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    read_states = model.encode if isinstance(model, EncoderDecoder) else model.hidden_states
    documents = None if bool(real.all()) else real.long()
    segments = {} if token_types is None else {"token_types": token_types}
    return read_states(tokens, document_ids=documents, **segments).float(), real  # type: ignore[operator]


def nearest_texts(query: Float[Tensor, " D"], vectors: Float[Tensor, "N D"], count: int) -> list[tuple[int, float]]:
    """(index, cosine similarity) of the `count` normalized vectors nearest to a normalized query, nearest first."""
    scores, indices = (vectors @ query).topk(min(count, len(vectors)))
    return list(zip(indices.tolist(), scores.tolist(), strict=True))


def last_pool(hidden: Float[Tensor, "B T D"], token_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The hidden state of the last token, which alone has read the whole text in a decoder."""
    return hidden[torch.arange(len(hidden), device=hidden.device), token_mask.sum(dim=1) - 1]


TEXT_POOLINGS = {**POOLINGS, "last": last_pool}


def _find_pooling(model: nn.Module, name: str | None):
    config = model.config
    name = name or (config.pooling if config.architecture == "encoder" else "mean")  # type: ignore[union-attr]
    if name not in TEXT_POOLINGS:
        raise UserError(f"pooling = {name!r}, expected one of {', '.join(TEXT_POOLINGS)}")
    return TEXT_POOLINGS[name]
