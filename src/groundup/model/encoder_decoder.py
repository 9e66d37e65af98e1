"""Encoder-decoders (T5, BART): an encoder of the source text, and a decoder of the target text with cross-attention to it.

The cross-attention's keys and values are computed once per source text and kept in the cache.
"""

from typing import Protocol, cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.attention import CrossKeyValues
from groundup.model.attention_mask import build_mask, compute_positions
from groundup.model.block import CROSS_BLOCKS, CrossAttentionBlock, build_blocks, build_final_norm
from groundup.model.embedding import Embedding, StackEmbedding, check_architecture, check_labels, check_tokens
from groundup.model.head import ModelOutput, build_head, shift_right
from groundup.model.kv_cache import KVCache, StaticKVCache
from groundup.model.moe import pop_aux_loss
from groundup.model.position_encoding import build_position_encodings, encoding_names
from groundup.model.weight_init import init_weights
from groundup.recipe import ModelConfig


class CrossAttentionCache(KVCache, Protocol):
    """A cache of the decoder, with the cross-attention's keys and values of each layer."""

    layer_cross_key_values: list[CrossKeyValues]


class EncoderDecoderCache(StaticKVCache):
    """The decoder's cache of one batch, and the cross-attention's keys and values of each layer."""

    layer_cross_key_values: list[CrossKeyValues]

    def select_rows(self, rows: Int[Tensor, " R"]) -> None:
        super().select_rows(rows)
        self.layer_cross_key_values = [each.select_rows(rows) for each in self.layer_cross_key_values]


class EncoderDecoder(nn.Module):
    """Predicts each token of a target text from the tokens before it and the source text."""

    def __init__(self, config: ModelConfig):
        check_architecture(config, "encoder_decoder")
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.encoder = EncoderStack(config)
        self.decoder = DecoderStack(config)
        self.head = build_head(config, self.embedding, bias=config.head_bias)
        init_weights(self, config)

    def forward(
        self,
        tokens: Int[Tensor, "B S"],
        labels: Int[Tensor, "B T"] | None = None,
        *,
        decoder_tokens: Int[Tensor, "B T"] | None = None,
        document_ids: Int[Tensor, "B S"] | None = None,
        decoder_document_ids: Int[Tensor, "B T"] | None = None,
        z_loss: float = 0.0,
    ) -> ModelOutput:
        """Logits of the token after each of `decoder_tokens`, or the mean loss of predicting `labels`.

        Args:
            tokens: the source text.
            labels: the target text; -100 is not predicted.
            decoder_tokens: input of the decoder; default: `labels` shifted right, after `decoder_start_token_id`.
            document_ids: document of each source token; padding counts as one more document.
            decoder_document_ids: document of each target token, which attends to the source tokens of the same document;
                default: the document of the row's first source token.
            z_loss: weight of the squared log-partition; see loss.py.

        Raises UserError beyond the context length and, on a CPU, for ids outside the vocabulary.
        """
        if decoder_tokens is None:
            if labels is None:
                raise ValueError("neither labels nor decoder_tokens were given, expected one of them")
            decoder_tokens = shift_right(labels, self.config.decoder_start_token_id)
        check_tokens(decoder_tokens, self.config)
        memory = self.encode(tokens, document_ids=document_ids)
        if document_ids is not None and decoder_document_ids is None:
            decoder_document_ids = document_ids[:, :1].expand_as(decoder_tokens)
        layer_cross_key_values = self.decoder.project_memory(
            memory, decoder_tokens.shape[1], document_ids, decoder_document_ids
        )
        hidden = self.decoder(self.embedding, decoder_tokens, layer_cross_key_values, decoder_document_ids)
        if labels is None:
            return ModelOutput(self.head(hidden), None)
        check_labels(labels, decoder_tokens, self.config)
        return ModelOutput(None, self.head.loss(hidden, labels, z_loss) + pop_aux_loss(self))

    def encode(
        self, tokens: Int[Tensor, "B S"], *, document_ids: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """The encoder's output."""
        check_tokens(tokens, self.config)
        return self.encoder(self.embedding, tokens, document_ids)

    def new_cache(
        self,
        tokens: Int[Tensor, "B S"],
        max_length: int | None = None,
        *,
        document_ids: Int[Tensor, "B S"] | None = None,
    ) -> EncoderDecoderCache:
        """Encodes the source text: a cache for `decode`, for `max_length` target tokens (default: context length)."""
        weight = next(self.parameters())  # the embedding may be packed
        length = max_length or self.config.context_length
        cache = EncoderDecoderCache(self.config, tokens.shape[0], length, weight.dtype, weight.device)
        memory = self.encode(tokens, document_ids=document_ids)
        first_document = None if document_ids is None else document_ids[:, :1]
        cache.layer_cross_key_values = self.decoder.project_memory(memory, 1, document_ids, first_document)
        return cache

    def decode(self, decoder_tokens: Int[Tensor, "B T"], cache: CrossAttentionCache) -> Float[Tensor, "B T V"]:
        """Logits of the token after each of `decoder_tokens`, which continue the cached ones."""
        check_tokens(decoder_tokens, self.config, cache.length)
        return self.head(self.decoder(self.embedding, decoder_tokens, cache.layer_cross_key_values, None, cache))


class EncoderStack(nn.Module):
    """The encoder's position encodings, blocks and final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        num_layers = config.num_encoder_layers or config.num_layers
        self.embedding = StackEmbedding(config)
        layer_types = config.layer_types_for(num_layers)
        self.position_encodings = build_position_encodings(config, layer_types, causal=False)
        self.encoding_names = encoding_names(config, layer_types)
        self.blocks = build_blocks(config, num_layers)
        self.final_norm = build_final_norm(config)

    def forward(
        self, embedding: Embedding, tokens: Int[Tensor, "B S"], document_ids: Int[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        positions = compute_positions(tokens, document_ids)
        contexts = self.position_encodings(positions, document_ids)
        x = self.embedding(embedding(tokens, positions), positions)
        for block, name in zip(self.blocks, self.encoding_names, strict=True):
            x = block(x, contexts[name])
        return self.final_norm(x)


class DecoderStack(nn.Module):
    """The decoder's position encodings, blocks with cross-attention, and final norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embedding = StackEmbedding(config)
        self.position_encodings = build_position_encodings(config, config.layer_types, causal=True)
        self.encoding_names = encoding_names(config, config.layer_types)
        block = CROSS_BLOCKS[config.norm_placement]
        self.blocks = nn.ModuleList(block(config, layer) for layer in range(config.num_layers))
        self.final_norm = build_final_norm(config)

    def project_memory(
        self,
        memory: Float[Tensor, "B S D"],
        num_tokens: int,
        document_ids: Int[Tensor, "B S"] | None,
        decoder_document_ids: Int[Tensor, "B T"] | None,
    ) -> list[CrossKeyValues]:
        """Keys, values and mask of each layer's cross-attention, for `num_tokens` target tokens."""
        mask = build_mask(
            num_tokens,
            memory.shape[1],
            memory.device,
            causal=False,
            document_ids=decoder_document_ids,
            key_document_ids=document_ids,
        )
        return [cast(CrossAttentionBlock, block).cross_attention.project_memory(memory, mask) for block in self.blocks]

    def forward(
        self,
        embedding: Embedding,
        tokens: Int[Tensor, "B T"],
        layer_cross_key_values: list[CrossKeyValues],
        document_ids: Int[Tensor, "B T"] | None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        positions = compute_positions(tokens, document_ids) if cache is None else cache.positions(tokens.shape[1])
        contexts = self.position_encodings(positions, document_ids, cache)
        x = self.embedding(embedding(tokens, positions), positions)
        for block, name, cross_key_values in zip(self.blocks, self.encoding_names, layer_cross_key_values, strict=True):
            x = block(x, contexts[name], cross_key_values, cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.final_norm(x)
