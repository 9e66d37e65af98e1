"""The encoder-decoder: reads one text as a whole, then writes another from left to right (T5).

The decoder's tokens see each other as in any decoder, and by cross-attention all of the encoder's output.
What they see of it is made once for each source text, and then kept in the cache.
"""

from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.model.attention import Crossing
from groundup.model.block import CrossBlock, build_blocks, build_final_norm
from groundup.model.cache import KeyValueCache
from groundup.model.embedding import Embedding, check_labels, check_tokens
from groundup.model.head import build_head
from groundup.model.init import init_weights
from groundup.model.mask import build_mask, positions_of
from groundup.model.moe import balancing_loss
from groundup.model.output import Output, shift_right
from groundup.model.sight import build_sights
from groundup.recipe import ModelConfig


class CrossCache(KeyValueCache):
    """Keys and values of the target's tokens so far, and what each layer sees of the source."""

    crossings: list[Crossing]


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
        documents: Int[Tensor, "B S"] | None = None,
        decoder_documents: Int[Tensor, "B T"] | None = None,
        z_loss: float = 0.0,
    ) -> Output:
        """Scores of the token after each of `decoder_tokens`, or the mean loss of predicting `labels`.

        Args:
            tokens: the source text.
            labels: the target text; -100 is not predicted. The decoder reads it one place to the right,
                behind `decoder_start_id`, unless `decoder_tokens` says what it reads.
            documents: number of the text that each source token belongs to; padding is a text of its own.
            decoder_documents: the same for the target. A target token sees the source tokens of its number;
                default: the number of the row's first source token.
            z_loss: weight of the squared log-partition, see loss.py.

        Raises UserError beyond the context length and, on a CPU, for ids outside the vocabulary.
        """
        if decoder_tokens is None:
            if labels is None:
                raise ValueError("found neither labels nor decoder_tokens, expected one of them")
            decoder_tokens = shift_right(labels, self.config.decoder_start_id)
        check_tokens(decoder_tokens, self.config)
        memory = self.encode(tokens, documents=documents)
        if documents is not None and decoder_documents is None:
            decoder_documents = documents[:, :1].expand_as(decoder_tokens)
        crossings = self.decoder.look_at(memory, decoder_tokens.shape[1], documents, decoder_documents)
        hidden = self.decoder(self.embedding, decoder_tokens, crossings, decoder_documents)
        if labels is None:
            return Output(self.head(hidden), None)
        check_labels(labels, decoder_tokens, self.config)
        return Output(None, self.head.loss(hidden, labels, z_loss) + balancing_loss(self))

    def encode(
        self, tokens: Int[Tensor, "B S"], *, documents: Int[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """The encoder's output."""
        check_tokens(tokens, self.config)
        return self.encoder(self.embedding, tokens, documents)

    def new_cache(
        self,
        tokens: Int[Tensor, "B S"],
        max_length: int | None = None,
        *,
        documents: Int[Tensor, "B S"] | None = None,
    ) -> CrossCache:
        """Reads the source text: a cache of what `decode` needs of it, with room for `max_length` tokens."""
        weight = self.embedding.tokens.weight
        length = max_length or self.config.context_length
        cache = CrossCache(self.config, tokens.shape[0], length, weight.dtype, weight.device)
        memory = self.encode(tokens, documents=documents)
        own = None if documents is None else documents[:, :1]
        cache.crossings = self.decoder.look_at(memory, 1, documents, own)
        return cache

    def decode(self, decoder_tokens: Int[Tensor, "B T"], cache: CrossCache) -> Float[Tensor, "B T V"]:
        """Scores of the token after each of these, which follow those in the cache."""
        check_tokens(decoder_tokens, self.config, cache.length)
        return self.head(self.decoder(self.embedding, decoder_tokens, cache.crossings, None, cache))


class EncoderStack(nn.Module):
    """The blocks that read."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.kinds = config.kinds_of(config.num_encoder_layers)
        self.sights = build_sights(config, self.kinds, causal=False)
        self.blocks = build_blocks(config, config.num_encoder_layers)
        self.final_norm = build_final_norm(config)

    def forward(
        self, embedding: Embedding, tokens: Int[Tensor, "B S"], documents: Int[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S D"]:
        positions = positions_of(tokens, documents)
        views = {kind: sight(positions, documents) for kind, sight in self.sights.items()}
        x = embedding(tokens, positions)
        for block, kind in zip(self.blocks, self.kinds, strict=True):
            x = block(x, views[kind])
        return self.final_norm(x)


class DecoderStack(nn.Module):
    """The blocks that write."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.kinds = config.layer_kinds
        self.sights = build_sights(config, self.kinds, causal=True)
        self.blocks = nn.ModuleList(CrossBlock(config, layer) for layer in range(config.num_layers))
        self.final_norm = build_final_norm(config)

    def look_at(
        self,
        memory: Float[Tensor, "B S D"],
        num_tokens: int,
        documents: Int[Tensor, "B S"] | None,
        decoder_documents: Int[Tensor, "B T"] | None,
    ) -> list[Crossing]:
        """What `num_tokens` target tokens see of the encoder's output, in each layer."""
        mask = build_mask(
            num_tokens,
            memory.shape[1],
            memory.device,
            causal=False,
            documents=decoder_documents,
            key_documents=documents,
        )
        return [cast(CrossBlock, block).cross_attention.look_at(memory, mask) for block in self.blocks]

    def forward(
        self,
        embedding: Embedding,
        tokens: Int[Tensor, "B T"],
        crossings: list[Crossing],
        documents: Int[Tensor, "B T"] | None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        positions = positions_of(tokens, documents) if cache is None else cache.positions(tokens.shape[1])
        views = {kind: sight(positions, documents, cache) for kind, sight in self.sights.items()}
        x = embedding(tokens, positions)
        for block, kind, crossing in zip(self.blocks, self.kinds, crossings, strict=True):
            x = block(x, views[kind], crossing, cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.final_norm(x)
