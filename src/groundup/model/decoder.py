"""Decoder-only language models (GPT, Llama, ...): each token attends to the tokens before it."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model.attention_mask import compute_positions
from groundup.model.block import build_blocks, build_final_norm
from groundup.model.embedding import Embedding, check_architecture, check_labels, check_tokens
from groundup.model.head import ModelOutput, build_head, shift_labels
from groundup.model.kv_cache import KVCache, StaticKVCache
from groundup.model.moe import pop_aux_loss
from groundup.model.position_encoding import build_position_encodings
from groundup.model.weight_init import init_weights
from groundup.recipe import ModelConfig


class Decoder(nn.Module):
    """Predicts each token from those before it.

    Attributes:
        cache_type: of `new_cache`.
    """

    cache_type: type[StaticKVCache] = StaticKVCache

    def __init__(self, config: ModelConfig):
        check_architecture(config, "decoder")
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.position_encodings = build_position_encodings(config, config.layer_types, causal=True)
        self.blocks = build_blocks(config, config.num_layers)
        self.final_norm = build_final_norm(config)
        self.head = build_head(config, self.embedding, bias=config.head_bias)
        init_weights(self, config)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        labels: Int[Tensor, "B T"] | None = None,
        *,
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
        z_loss: float = 0.0,
    ) -> ModelOutput:
        """Logits of the token after each position, or the mean loss of predicting `labels`.

        Args:
            labels: usually the tokens themselves: the model shifts them, so that position t predicts labels[t + 1].
                -100 is not predicted.
            document_ids: document of each token in a packed sequence; attention stays inside a document.
            cache: keys and values of earlier tokens; those of `tokens` are appended.
            z_loss: weight of the squared log-partition; see loss.py.

        Raises UserError beyond the context length and, on a CPU, for ids outside the vocabulary.

        >>> model = Decoder(ModelConfig(vocab_size=256, hidden_size=32, num_layers=2, num_heads=2, context_length=64))
        >>> tokens = torch.randint(256, (4, 16))
        >>> model(tokens, labels=tokens).loss.backward()
        >>> model(tokens).logits.shape
        torch.Size([4, 16, 256])
        """
        hidden = self.hidden_states(tokens, document_ids=document_ids, cache=cache)
        if labels is None:
            return ModelOutput(self.logits(hidden), None)
        check_labels(labels, tokens, self.config)
        return ModelOutput(None, self.head.loss(hidden, shift_labels(labels), z_loss) + pop_aux_loss(self))

    def hidden_states(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The output of the final norm: the input of the head."""
        if document_ids is not None and self.config.has_state:
            raise UserError(
                "document_ids with state-space layers or linear attention: a state goes on into the next document of a sequence",
                hint="set train.document_mask=false, or one document per sequence",
            )
        check_tokens(tokens, self.config, None if cache is None else cache.length)
        positions = compute_positions(tokens, document_ids) if cache is None else cache.positions(tokens.shape[1])
        contexts = self.position_encodings(positions, document_ids, cache)
        x = self.embedding(tokens, positions)
        for block, layer_type in zip(self.blocks, self.config.layer_types, strict=True):
            x = block(x, contexts[layer_type], cache)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.final_norm(x)

    def logits(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of hidden states."""
        return self.head(hidden)

    def new_cache(self, batch_size: int, max_length: int | None = None) -> StaticKVCache:
        """An empty cache for `batch_size` sequences of `max_length` tokens (default: as many as the model can cache)."""
        weight = next(self.parameters())  # the embedding may be packed
        length = max_length or self.config.cached_context_length
        return self.cache_type(self.config, batch_size, length, weight.dtype, weight.device)
