"""Keys and values in 8 bits: half the memory of a bfloat16 cache, and the same tokens nearly always.

Each head of each position has a scale of its own, the largest magnitude divided by 127, and codes from -127 to 127. The
scale, in bfloat16, is stored as two more bytes. All keys and values of a layer are dequantized when attention reads them.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model import Decoder, StaticKVCache

MAX_CODE = 127


class QuantizedKVCache(StaticKVCache):
    """A `StaticKVCache` of int8: per head and position the codes and the two bytes of the scale."""

    stored_dtype = torch.int8
    extra_width = 2

    @staticmethod
    def encode(states: Float[Tensor, "... K"], dtype: torch.dtype) -> Int8[Tensor, "... stored"]:
        if not states.shape[-1]:
            return states.to(dtype)
        largest = states.abs().amax(-1, keepdim=True).float()
        scale = (largest / MAX_CODE).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
        codes = (states.float() / scale.float()).round().clamp(-MAX_CODE, MAX_CODE).to(dtype)
        return torch.cat([codes, scale.view(dtype)], dim=-1)

    @staticmethod
    def decode(stored: Int8[Tensor, "... stored"], dtype: torch.dtype) -> Float[Tensor, "... K"]:
        if not stored.shape[-1]:
            return stored.to(dtype)
        scale = stored[..., -QuantizedKVCache.extra_width :].contiguous().view(torch.bfloat16)
        return stored[..., : -QuantizedKVCache.extra_width].to(dtype) * scale.to(dtype)


def use_kv_bits(model: nn.Module, bits: int | None) -> nn.Module:
    """Let the caches of a decoder hold keys and values in `bits` bits; None: as they are computed. Returns the model.

    Raises UserError for other numbers than 8, and for another architecture.

    >>> use_kv_bits(model, 8)
    """
    if bits is None:
        return model
    if bits != 8:
        raise UserError(f"kv_bits = {bits}, expected 8", hint="without it, keys and values are stored as computed")
    if not isinstance(model, Decoder):
        raise UserError(
            "kv_bits = 8 with a model that is no decoder", hint="only decoders cache keys and values that long"
        )
    model.cache_type = QuantizedKVCache
    return model
