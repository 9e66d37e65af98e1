"""The step of a decoder in C: one call for all blocks, where a model has no other parts than the C code knows.

Llama, Mistral, Qwen, Gemma and their like: RMSNorm, rotary or no positions, grouped queries, gated feed-forwards. Other models,
and models with adapters or hooks, run module by module: `next_token_logits` in generation.py.
"""

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.generate.native.native_matrix import NativeMatrix, float_matrix, native_library
from groundup.model import Decoder, KVCache, StaticKVCache
from groundup.model.attention import Attention, sdpa_attention, softcap_attention, split_and_norm
from groundup.model.block import PreNormBlock, SandwichBlock, SublayerOutputBlock
from groundup.model.embedding import Embedding, PassThrough, Scale, check_tokens
from groundup.model.feed_forward import GatedFeedForward
from groundup.model.frozen_linear import PackedLinear
from groundup.model.norm import RMSNorm, ZeroCenteredRMSNorm
from groundup.model.position_encoding import RotaryPositionEncoding
from groundup.model.rope import RotaryEmbedding, no_rotation
from groundup.model.token_rows import PackedTable

MAX_ROWS = 32
"""Tokens up to which a step in C is faster than PyTorch's operations, which are made for many."""
MAX_HEAD_DIM = 256
BLOCKS = (PreNormBlock, SandwichBlock, SublayerOutputBlock)
NORM_NAMES = ("attention_norm", "attention_post_norm", "feed_forward_norm", "feed_forward_post_norm")
ACTIVATIONS = {"swiglu": 0, "geglu": 1, "geglu_tanh": 2}

_number, _pointer, _float = ctypes.c_long, ctypes.c_void_p, ctypes.c_float


class UnknownPartError(Exception):
    """A part of a model that the C code does not know."""


class BlockWeights(ctypes.Structure):
    """`block_weights` of decode_step.c."""

    _fields_ = (
        *((name, NativeMatrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, _pointer) for name in (*NORM_NAMES, "query_norm", "key_norm", "frequencies")),
        ("magnitude", _float),
        ("window", _number),
    )


class DecoderWeights(ctypes.Structure):
    """`decoder_weights` of decode_step.c."""

    _fields_ = (
        *(
            (name, _number)
            for name in ("num_blocks", "hidden", "heads", "kv_heads", "head_dim", "rotary", "intermediate", "activation")
        ),
        *(
            (name, _float)
            for name in (
                "eps", "score_scale", "score_cap", "embedding_scale", "residual_scale", "logit_scale", "logit_cap",
            )
        ),
        ("embedding", NativeMatrix),
        ("head", NativeMatrix),
        ("final_norm", _pointer),
        ("blocks", _pointer),
    )  # fmt: skip


class StepInput(ctypes.Structure):
    """`step_input` of decode_step.c."""

    _fields_ = (
        *((name, _number) for name in ("rows", "threads", "is_float", "block_stride", "head_stride", "token_stride")),
        *((name, _pointer) for name in ("tokens", "positions", "keys", "values")),
    )


class DecoderStep:
    """The weights of a decoder as the C code reads them. Floating weights are not copied, but for norms and biases."""

    def __init__(self, model: Decoder):
        """Raises UnknownPartError."""
        _require(type(model) is Decoder)
        config = self.config = model.config
        self.kept: list[Any] = []
        _require(config.feed_forward in ACTIVATIONS and config.head_dim <= MAX_HEAD_DIM and not config.attention_sinks)
        _require(type(model.embedding) is Embedding and isinstance(model.embedding.positions, PassThrough))
        _require(isinstance(model.embedding.norm, PassThrough) and isinstance(model.embedding.projection, PassThrough))
        blocks = (BlockWeights * config.num_layers)(
            *(self.read_block(model, layer) for layer in range(config.num_layers))
        )
        self.kept.append(blocks)
        attention: Any = model.blocks[0].attention
        score = attention.attention_function.keywords["scale"]
        self.weights = DecoderWeights(
            config.num_layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim,
            config.rotary_width, config.intermediate_size, ACTIVATIONS[config.feed_forward],
            config.norm_eps, score, config.attention_softcap or 0, _factor(model.embedding.scale),
            _factor(model.blocks[0].residual_scale), _factor(model.head.scale), config.logit_softcap or 0,  # type: ignore[arg-type]
            self.table(model.embedding.tokens, None), self.table(model.head.table, model.head.bias),
            self.norm(model.final_norm), ctypes.addressof(blocks),
        )  # fmt: skip

    def read_block(self, model: Decoder, layer: int) -> BlockWeights:
        block: Any = model.blocks[layer]
        _require(type(block) in BLOCKS)
        attention, feed_forward = block.attention, block.feed_forward
        _require(type(attention) is Attention and type(feed_forward) is GatedFeedForward)
        _require(
            attention.gate_proj is None and attention.split is split_and_norm and not attention.norm_after_rotation
        )
        function = attention.attention_function
        _require(isinstance(function, partial) and function.func in (sdpa_attention, softcap_attention))
        encoding: Any = model.position_encodings[model.config.layer_types[layer]]
        frequencies, magnitude = None, 0.0
        if attention.rotate is not no_rotation:
            _require(type(encoding) is RotaryPositionEncoding and type(encoding.rotary) is RotaryEmbedding)
            frequencies, magnitude = self.keep(encoding.rotary.frequencies), encoding.rotary.factor
        layers = (
            attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            feed_forward.gate_proj, feed_forward.up_proj, feed_forward.down_proj,
        )  # fmt: skip
        norms = [self.norm(getattr(block, name, None)) for name in NORM_NAMES]
        norms += [self.norm(norm) for norm in (attention.q_norm, attention.k_norm)]
        return BlockWeights(*map(self.linear, layers), *norms, frequencies, magnitude, encoding.window or 0)

    def linear(self, layer: nn.Module) -> NativeMatrix:
        matrix = None
        if type(layer) is nn.Linear:
            matrix = float_matrix(layer.weight, layer.bias)
        elif isinstance(layer, PackedLinear):
            matrix = layer.native_matrix()
        return self.matrix(matrix)

    def table(self, table: nn.Module, bias: Tensor | None) -> NativeMatrix:
        """The token embedding, or the matrix of the head."""
        if isinstance(table, PackedTable):
            _require(bias is None)
            return self.linear(table.matrix)
        return self.matrix(float_matrix(table.weight, bias))  # type: ignore[arg-type]

    def matrix(self, matrix: NativeMatrix | None) -> NativeMatrix:
        if matrix is None:
            raise UnknownPartError
        self.kept.append(matrix)
        return matrix

    def norm(self, norm: nn.Module | None) -> int | None:
        """The address of the weight of a norm, in float32; None without one."""
        if norm is None or type(norm) is nn.Identity:
            return None
        _require(type(norm) in (RMSNorm, ZeroCenteredRMSNorm))
        weight: Any = norm.weight
        return self.keep(weight.float() + 1.0 if type(norm) is ZeroCenteredRMSNorm else weight)

    def keep(self, x: Tensor) -> int:
        _require(x.device.type == "cpu")
        x = x.detach().float().contiguous()
        self.kept.append(x)
        return x.data_ptr()

    def run(
        self, tokens: Int[Tensor, " R"], positions: Int[Tensor, " R"], rows: Sequence[tuple[int, int]], strides: Sequence[int],
        is_float: bool, wanted: int,
    ) -> Float[Tensor, "wanted V"]:  # fmt: skip
        """Logits, in float32, of the last `wanted` rows.

        rows: the addresses of the first key and the first value of each row's sequence, of block 0 and head 0.
        strides: from block to block, head to head, token to token, in numbers.
        """
        library = native_library()
        assert library is not None
        keys, values = ((_pointer * len(rows))(*each) for each in zip(*rows, strict=True))
        given = StepInput(
            len(rows), torch.get_num_threads(), is_float, *strides,
            tokens.data_ptr(), positions.data_ptr(), ctypes.addressof(keys), ctypes.addressof(values),
        )  # fmt: skip
        logits = torch.empty(wanted, self.weights.head.rows)
        if library.decode_step(ctypes.byref(self.weights), ctypes.byref(given), wanted, logits.data_ptr()):
            raise MemoryError("no memory for a decoding step")
        return logits


_steps: WeakKeyDictionary[nn.Module, tuple[Any, DecoderStep | None]] = WeakKeyDictionary()
"""Of each model, with the state of its weights."""
_checked: WeakKeyDictionary[KVCache, DecoderStep | None] = WeakKeyDictionary()
"""Of each cache: weights do not change while a text is generated."""


def step_in_c(model: nn.Module, tokens: Int[Tensor, "B T"], cache: KVCache) -> Float[Tensor, "B V"] | None:
    """Logits, in float32, of the token after each row, whose keys and values are appended to the cache.

    None where the C code does not know the model or the cache, or where the tokens are too many.
    """
    if type(cache) is not StaticKVCache or tokens.numel() > MAX_ROWS or native_library() is None:
        return None
    if cache not in _checked:
        _checked[cache] = find_step(model)
    step = _checked[cache]
    if step is None or cache.keys.dtype not in (torch.float32, torch.bfloat16) or cache.keys.device.type != "cpu":
        return None
    check_tokens(tokens, step.config, cache.length)
    batch, length = tokens.shape
    positions = cache.positions(length).repeat(batch, 1)
    if length > 1:  # rows of which logits are wanted come last
        tokens, positions = (torch.cat([each[:, :-1].reshape(-1), each[:, -1]]) for each in (tokens, positions))
    size, stride = cache.keys.element_size(), cache.keys.stride(1)
    bases = [
        (cache.keys.data_ptr() + size * stride * b, cache.values.data_ptr() + size * stride * b) for b in range(batch)
    ]
    rows = [base for base in bases for _ in range(length - 1)] + bases
    strides = (cache.keys.stride(0), cache.keys.stride(2), cache.keys.stride(3))
    logits = step.run(
        tokens.reshape(-1).contiguous(), positions.reshape(-1).contiguous(), rows, strides,
        cache.keys.dtype is torch.float32, batch,
    )  # fmt: skip
    cache.advance(length)
    return logits


def find_step(model: nn.Module) -> DecoderStep | None:
    """The weights of a model for the C code, read anew if they have changed; None where it does not know a part of it."""
    if torch.is_autocast_enabled("cpu") or any(
        module._forward_hooks or module._forward_pre_hooks for module in model.modules()
    ):
        return None
    tensors = [*model.parameters(), *model.buffers()]
    state = [(each.data_ptr(), None if each.is_inference() else each._version) for each in tensors if not each.is_meta]
    found = _steps.get(model)
    if found is None or found[0] != state:
        try:
            found = _steps[model] = (state, DecoderStep(model))  # type: ignore[arg-type]
        except UnknownPartError:
            found = _steps[model] = (state, None)
    return found[1]


def _require(known: bool) -> None:
    if not known:
        raise UnknownPartError


def _factor(scale: nn.Module) -> float:
    return scale.factor if isinstance(scale, Scale) else 1.0
