"""Position encodings: the attention mask and positions of one layer type (global or local) in a forward pass.

Global layers attend to all earlier tokens, local layers to a sliding window. The result is computed once per layer type
and pass. Positions enter attention as a rotation of queries and keys (RoPE), as a bias of the scores (T5, ALiBi), or not at all,
where the embedding adds them (GPT-2).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from groundup.model.attention import AttentionContext
from groundup.model.attention_mask import AttentionMask, build_dense_mask, build_mask, build_mask_mod
from groundup.model.kv_cache import KVCache
from groundup.model.rope import Rotation, build_rotary_embedding
from groundup.recipe import ModelConfig


class NoPositionEncoding(nn.Module):
    """The mask alone."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        super().__init__()
        self.causal = causal
        self.window = config.sliding_window if layer_type == "local" else None

    def forward(
        self,
        positions: Int[Tensor, "*B T"],
        document_ids: Int[Tensor, "B T"] | None = None,
        cache: KVCache | None = None,
    ) -> AttentionContext:
        return AttentionContext(self.mask(positions, document_ids, cache), self.rotation(positions))

    def mask(self, positions: Tensor, document_ids: Tensor | None, cache: KVCache | None) -> AttentionMask:
        length = positions.shape[-1]
        if cache is not None:
            return cache.mask(length, self.window)
        return build_mask(
            length, length, positions.device, causal=self.causal, window=self.window, document_ids=document_ids
        )

    def rotation(self, positions: Tensor) -> Rotation | None:
        return None


class RotaryPositionEncoding(NoPositionEncoding):
    """The mask and the rotation of each position (RoPE)."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        super().__init__(config, layer_type, causal)
        self.rotary = build_rotary_embedding(config, layer_type)

    def rotation(self, positions: Tensor) -> Rotation:
        return self.rotary(positions)


class RelativePositionEncoding(NoPositionEncoding):
    """The mask, as a dense tensor that includes a learned bias for each distance (T5)."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        super().__init__(config, layer_type, causal)
        self.bias = RelativeBias(config, causal)

    def mask(self, positions: Tensor, document_ids: Tensor | None, cache: KVCache | None) -> AttentionMask:
        length = positions.shape[-1]
        keys = torch.arange(length + (0 if cache is None else cache.length), device=positions.device)
        if cache is not None:
            queries = positions[..., None]
            attends = (keys <= queries) & (keys > queries - (self.window or len(keys)))
            return self._biased(attends[..., None, :, :], positions, keys)
        mask_mod = build_mask_mod(self.causal, self.window, document_ids, document_ids)
        batch = 1 if document_ids is None else document_ids.shape[0]
        return self._biased(build_dense_mask(mask_mod, batch, length, length, positions.device), keys, keys)

    def _biased(self, attends: Bool[Tensor, "*B 1 T S"], queries: Tensor, keys: Tensor) -> AttentionMask:
        dense = torch.where(attends, self.bias(queries, keys), -torch.inf)
        return AttentionMask(dense=dense if dense.ndim == 4 else dense[None])


class RelativeBias(nn.Embedding):
    """A learned number per head and distance (Raffel et al. 2020, section 2.1); small distances have a bucket each."""

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config.relative_buckets, config.num_heads)
        self.causal = causal
        self.max_distance = config.relative_max_distance

    def forward(self, queries: Int[Tensor, "*B T"], keys: Int[Tensor, " S"]) -> Float[Tensor, "*B H T S"]:
        distance = keys - queries[..., None]
        buckets = relative_position_bucket(distance, self.num_embeddings, self.max_distance, self.causal)
        return super().forward(buckets).movedim(-1, -3)


class AlibiPositionEncoding(RelativePositionEncoding):
    """The mask, as a dense tensor that includes ALiBi's bias for each distance (Press et al. 2022)."""

    def __init__(self, config: ModelConfig, layer_type: str, causal: bool):
        NoPositionEncoding.__init__(self, config, layer_type, causal)
        self.bias = AlibiBias(config.num_heads)


class AlibiBias(nn.Module):
    """slope * (key - query): attention falls with the distance, in each head at its own rate (Press et al. 2022, section 3).

    An encoder's bias falls in both directions.
    """

    def __init__(self, num_heads: int):
        super().__init__()
        self.slopes = alibi_slopes(num_heads)

    def forward(self, queries: Int[Tensor, "*B T"], keys: Int[Tensor, " S"]) -> Float[Tensor, "*B H T S"]:
        distance = (keys - queries[..., None]).abs()
        slopes = torch.tensor(self.slopes, device=keys.device)
        return -slopes[:, None, None] * distance[..., None, :, :]


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(-8 i / n) for n heads, a power of two; for other numbers, those of n below, then every second one of 2n."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return (*slopes, *between)[:num_heads]


def relative_position_bucket(
    distance: Int[Tensor, "..."], num_buckets: int, max_distance: int, causal: bool
) -> Int[Tensor, "..."]:
    """The bucket of key position minus query position: half the buckets are exact, half logarithmic.

    Without a causal mask, half the buckets are for earlier keys and half for later ones.
    """
    if causal:
        base, distance = torch.zeros_like(distance), (-distance).clamp(min=0)
    else:
        num_buckets //= 2
        base, distance = (distance > 0).long() * num_buckets, distance.abs()
    exact = num_buckets // 2
    far = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    far = (exact + far.long()).clamp(max=num_buckets - 1)
    return base + torch.where(distance < exact, distance, far)


POSITION_ENCODINGS = {
    "rope": RotaryPositionEncoding,
    "relative": RelativePositionEncoding,
    "alibi": AlibiPositionEncoding,
    "learned": NoPositionEncoding,
    "sinusoidal": NoPositionEncoding,
    "sinusoidal_fairseq": NoPositionEncoding,
}


class PositionEncodings(nn.ModuleDict):
    """A position encoding for each layer type."""

    def forward(
        self, positions: Int[Tensor, "*B T"], document_ids: Int[Tensor, "B T"] | None, cache: KVCache | None = None
    ) -> dict[str, AttentionContext]:
        return {layer_type: encoding(positions, document_ids, cache) for layer_type, encoding in self.items()}


def build_position_encodings(config: ModelConfig, layer_types: Sequence[str], causal: bool) -> PositionEncodings:
    """One position encoding for each of the layer types, or for each layer."""
    encoding = POSITION_ENCODINGS[config.position_embedding]
    kinds = dict(zip(encoding_names(config, layer_types), layer_types, strict=True))
    return PositionEncodings(
        {
            name: (NoPositionEncoding if kinds[name] == "linear" else encoding)(config, kinds[name], causal)
            for name in sorted(kinds)
        }
    )


def encoding_names(config: ModelConfig, layer_types: Sequence[str]) -> tuple[str, ...]:
    """The position encoding of each layer: its type, or its number where each layer has a bias table of its own (UMT5)."""
    own_tables = config.position_embedding == "relative" and config.relative_bias_per_layer
    return tuple(map(str, range(len(layer_types)))) if own_tables else tuple(layer_types)
