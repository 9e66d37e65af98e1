"""The encoder-decoder: reads one text as a whole, then writes another from left to right (T5).

The decoder's tokens see each other as in any decoder, and by cross-attention all of the encoder's output.
What they see of it is made once for each source text, and then kept in the cache.
"""

from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.attention import CrossKeyValues
from groundup.model.attention_mask import build_mask, compute_positions
from groundup.model.block import CrossAttentionBlock, build_blocks, build_final_norm
from groundup.model.embedding import Embedding, check_labels, check_tokens
from groundup.model.head import build_head
from groundup.model.kv_cache import StaticKVCache
from groundup.model.model_output import ModelOutput, shift_right
from groundup.model.moe import pop_aux_loss
from groundup.model.position_encoding import build_position_encodings
from groundup.model.weight_init import init_weights
from groundup.recipe import ModelConfig


class EncoderDecoderCache(StaticKVCache):
    """Keys and values of the target's tokens so far, and what each layer sees of the source."""

    layer_cross_key_values: list[CrossKeyValues]


class EncoderDecoder(nn.Module):
    """Predicts each token of a target text from those before it and from all of a source text."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.encoder = EncoderStack(config)
        self.decoder = DecoderStack(config)
        self.head = build_head(config, self.embedding)
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
        """Scores of the token after each of `decoder_tokens`, or the mean loss of predicting `labels`.

        Args:
            tokens: the source text.
            labels: the target text; -100 is not predicted. The decoder reads it one place to the right,
                behind `decoder_start_id`, unless `decoder_tokens` says what it reads.
            documents: number of the text that each source token belongs to; padding is a text of its own.
            decoder_document_ids: the same for the target. A target token sees the source tokens of its number;
                default: the number of the row's first source token.
            z_loss: weight of the squared log-partition, see loss.py.

        Raises UserError beyond the context length and, on a CPU, for ids outside the vocabulary.
        """
        if decoder_tokens is None:
            if labels is None:
                raise ValueError("found neither labels nor decoder_tokens, expected one of them")
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
        """Reads the source text: a cache of what `decode` needs of it, with room for `max_length` tokens."""
        weight = self.embedding.tokens.weight
        length = max_length or self.config.context_length
        cache = EncoderDecoderCache(self.config, tokens.shape[0], length, weight.dtype, weight.device)
        memory = self.encode(tokens, document_ids=document_ids)
        own = None if document_ids is None else document_ids[:, :1]
        cache.layer_cross_key_values = self.decoder.project_memory(memory, 1, document_ids, own)
        return cache

    def decode(
        self, decoder_tokens: Int[Tensor, "B T"], cache: EncoderDecoderCache
    ) -> Float[Tensor, "B T V"]:
        """Scores of the token after each of these, which follow those in the cache."""
        check_tokens(decoder_tokens, self.config, cache.length)
        return self.head(
            self.decoder(self.embedding, decoder_tokens, cache.layer_cross_key_values, None, cache)
        )


class EncoderStack(nn.Module):
    """The blocks that read."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        num_layers = config.num_encoder_layers or config.num_layers
        self.layer_kinds = config.layer_types_for(num_layers)
        self.position_encodings = build_position_encodings(config, self.layer_kinds, causal=False)
        self.blocks = build_blocks(config, num_layers)
        self.final_norm = build_final_norm(config)

    def forward(
        self, embedding: Embedding, tokens: Int[Tensor, "B S"], document_ids: Int[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        positions = compute_positions(tokens, document_ids)
        views = {kind: sight(positions, document_ids) for kind, sight in self.position_encodings.items()}
        x = embedding(tokens, positions)
        for block, kind in zip(self.blocks, self.layer_kinds, strict=True):
            x = block(x, views[kind])
        return self.final_norm(x)


class DecoderStack(nn.Module):
    """The blocks that write."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.layer_kinds = config.layer_types
        self.position_encodings = build_position_encodings(config, self.layer_kinds, causal=True)
        self.blocks = nn.ModuleList(CrossAttentionBlock(config, layer) for layer in range(config.num_layers))
        self.final_norm = build_final_norm(config)

    def project_memory(
        self,
        memory: Float[Tensor, "B S D"],
        num_tokens: int,
        document_ids: Int[Tensor, "B S"] | None,
        decoder_document_ids: Int[Tensor, "B T"] | None,
    ) -> list[CrossKeyValues]:
        """What `num_tokens` target tokens see of the encoder's output, in each layer."""
        mask = build_mask(
            num_tokens,
            memory.shape[1],
            memory.device,
            causal=False,
            document_ids=decoder_document_ids,
            key_document_ids=document_ids,
        )
        return [
            cast(CrossAttentionBlock, block).cross_attention.project_memory(memory, mask)
            for block in self.blocks
        ]

    def forward(
        self,
        embedding: Embedding,
        tokens: Int[Tensor, "B T"],
        layer_cross_key_values: list[CrossKeyValues],
        document_ids: Int[Tensor, "B T"] | None,
        cache: StaticKVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        positions = (
            compute_positions(tokens, document_ids) if cache is None else cache.positions(tokens.shape[1])
        )
        views = {
            kind: sight(positions, document_ids, cache) for kind, sight in self.position_encodings.items()
        }
        x = embedding(tokens, positions)
        for block, kind, cross_key_values in zip(
            self.blocks, self.layer_kinds, layer_cross_key_values, strict=True
        ):
            x = block(x, views[kind], cross_key_values, cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.final_norm(x)
