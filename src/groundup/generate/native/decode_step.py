"""The step of a decoder in C: one call for all blocks, where a model has no other parts than the C code knows.

Llama, Mistral, Qwen, Gemma, Mixtral and their like: RMSNorm, rotary or no positions, grouped queries, gated feed-forwards or
mixtures of them. Other models, and models with adapters or hooks, run module by module: `next_token_logits` in generation.py.
"""

import ctypes
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.generate.chunked_attention import chunked_attention
from groundup.generate.native.model_state import ModelState
from groundup.generate.native.native_matrix import FLOAT_KINDS, NativeMatrix, float_matrix, native_library
from groundup.generate.paged_kv_cache import PagedBatch
from groundup.model import Decoder, KVCache, StaticKVCache
from groundup.model.attention import Attention, sdpa_attention, softcap_attention, split_and_norm
from groundup.model.block import PreNormBlock, SandwichBlock, SublayerOutputBlock
from groundup.model.embedding import Embedding, PassThrough, Scale, check_tokens
from groundup.model.feed_forward import GatedFeedForward
from groundup.model.frozen_linear import PackedLinear
from groundup.model.head import UntiedHead
from groundup.model.kv_cache import KeyPages
from groundup.model.moe import (
    LOAD_BALANCERS,
    ExpertBias,
    Experts,
    GatedSharedExperts,
    MixtureOfExperts,
    Router,
    ZeroExperts,
    normalize,
)
from groundup.model.norm import RMSNorm, ZeroCenteredRMSNorm
from groundup.model.position_encoding import RotaryPositionEncoding
from groundup.model.rope import RotaryEmbedding, no_rotation
from groundup.model.token_rows import PackedTable

MAX_ROWS = 32
"""Tokens up to which a step in C is faster than PyTorch's operations, which are made for many."""
MAX_HEAD_DIM = 256
ATTENTION_FUNCTIONS = (sdpa_attention, softcap_attention, chunked_attention)
BLOCKS = (PreNormBlock, SandwichBlock, SublayerOutputBlock)
NORM_NAMES = ("attention_norm", "attention_post_norm", "feed_forward_norm", "feed_forward_post_norm")
ACTIVATIONS = {"swiglu": 0, "geglu": 1, "geglu_tanh": 2}

MATRICES = ("gate", "up", "down")
STRIDES = ("page_stride", "block_stride", "head_stride", "token_stride")

_number, _pointer, _float = ctypes.c_long, ctypes.c_void_p, ctypes.c_float


class UnknownPartError(Exception):
    """A part of a model that the C code does not know."""


class MixtureWeights(ctypes.Structure):
    """`mixture` of decode_step.c."""

    _fields_ = (
        *((name, _number) for name in ("count", "chosen", "is_sigmoid", "is_normalized")),
        ("scale", _float),
        *((name, NativeMatrix) for name in ("router", "shared_gate")),
        *((name, _pointer) for name in ("matrices", "selection_bias")),
    )


class BlockWeights(ctypes.Structure):
    """`block_weights` of decode_step.c."""

    _fields_ = (
        *((name, NativeMatrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, _pointer) for name in (*NORM_NAMES, "query_norm", "key_norm", "frequencies")),
        ("magnitude", _float),
        ("window", _number),
        ("experts", MixtureWeights),
    )


class DecoderWeights(ctypes.Structure):
    """`decoder_weights` of decode_step.c."""

    _fields_ = (
        *(
            (name, _number)
            for name in (
                "num_blocks", "hidden", "heads", "kv_heads", "head_dim", "rotary", "activation", "intermediate", "experts",
                "chosen",
            )
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
        *((name, _number) for name in ("rows", "threads", "is_float", "page_size", "table_width", *STRIDES)),
        *((name, _pointer) for name in ("tokens", "positions", "sequences", "tables", "keys", "values")),
    )


class DecoderStep:
    """The weights of a decoder as the C code reads them. Floating weights are not copied, but for norms and biases."""

    def __init__(self, model: Decoder):
        """Raises UnknownPartError."""
        _require(type(model) is Decoder)
        config = self.config = model.config
        self.kept: list[Any] = []
        self.expert_width, self.most_experts = 0, (0, 0)
        _require(config.position_embedding == "rope")
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
            config.rotary_width, ACTIVATIONS[config.feed_forward],
            max(max(block.gate.rows, self.expert_width) for block in blocks), *self.most_experts,
            config.norm_eps, score, config.attention_softcap or 0, _factor(model.embedding.scale),
            _factor(model.blocks[0].residual_scale), _factor(model.head.scale), config.logit_softcap or 0,  # type: ignore[arg-type]
            self.table(model.embedding.tokens, None), self.table(model.head.table, model.head.bias),
            self.norm(model.final_norm), ctypes.addressof(blocks),
        )  # fmt: skip

    def read_block(self, model: Decoder, layer: int) -> BlockWeights:
        block: Any = model.blocks[layer]
        _require(type(block) in BLOCKS)
        attention, feed_forward = block.attention, block.feed_forward
        _require(type(attention) is Attention and type(feed_forward) in (GatedFeedForward, MixtureOfExperts))
        _require(
            attention.gate_proj is None and attention.split is split_and_norm and not attention.norm_after_rotation
        )
        function = attention.attention_function
        _require(isinstance(function, partial) and function.func in ATTENTION_FUNCTIONS)
        encoding: Any = model.position_encodings[model.config.layer_types[layer]]
        frequencies, magnitude = None, 0.0
        if attention.rotate is not no_rotation:
            _require(type(encoding) is RotaryPositionEncoding and type(encoding.rotary) is RotaryEmbedding)
            frequencies, magnitude = self.keep(encoding.rotary.frequencies), encoding.rotary.factor
        layers = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        matrices = [self.linear(each) for each in layers]
        mixture = MixtureWeights()
        if type(feed_forward) is MixtureOfExperts:
            mixture = self.mixture(feed_forward)
            feed_forward = feed_forward.shared_experts
        if type(feed_forward) is ZeroExperts:
            matrices += [NativeMatrix()] * 3
        else:
            _require(type(feed_forward) in (GatedFeedForward, GatedSharedExperts))
            matrices += [self.linear(getattr(feed_forward, f"{name}_proj")) for name in MATRICES]
        norms = [self.norm(getattr(block, name, None)) for name in NORM_NAMES]
        norms += [self.norm(norm) for norm in (attention.q_norm, attention.k_norm)]
        return BlockWeights(*matrices, *norms, frequencies, magnitude, encoding.window or 0, mixture)

    def mixture(self, layer: MixtureOfExperts) -> MixtureWeights:
        """The router and the experts of a layer."""
        router, shared, balancer = layer.router, layer.shared_experts, layer.router.load_balancer
        _require(type(router) is Router and not layer.scale_inputs)
        _require(router.groups_per_token == router.num_groups and type(balancer) in LOAD_BALANCERS.values())
        matrices = [self.matrix(each) for name in MATRICES for each in self.expert_matrices(layer.experts, name)]
        count = len(matrices) // 3
        self.expert_width = max(self.expert_width, matrices[0].rows)
        self.most_experts = (max(self.most_experts[0], count), max(self.most_experts[1], router.experts_per_token))
        stored = (NativeMatrix * len(matrices))(*matrices)
        self.kept.append(stored)
        bias = self.keep(balancer.bias) if isinstance(balancer, ExpertBias) else None
        gate = self.float32(shared.gate) if type(shared) is GatedSharedExperts else NativeMatrix()
        return MixtureWeights(
            count, router.experts_per_token, router.activation is torch.sigmoid, router.normalize is normalize,
            router.scale, self.float32(router), gate, ctypes.addressof(stored), bias,
        )  # fmt: skip

    def expert_matrices(self, experts: nn.Module, name: str) -> Iterable[NativeMatrix | None]:
        """One for each expert: of a stacked tensor, or of separate layers."""
        found: Any = getattr(experts, f"{name}_proj")
        if isinstance(found, nn.ModuleList):
            return [self.linear(layer) for layer in found]
        _require(type(experts) is Experts)
        biases = getattr(experts, f"{name}_bias")
        return map(float_matrix, found, [None] * len(found) if biases is None else biases)

    def float32(self, layer: nn.Linear) -> NativeMatrix:
        """A copy of a small matrix."""
        return self.matrix(float_matrix(layer.weight.detach().float().contiguous(), layer.bias))

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
        _require(
            type(table) in (nn.Embedding, UntiedHead)
        )  # with trained rows it is of another type: they can be disabled
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

    def run(self, rows: Int[Tensor, "3 R"], pages: KeyPages, wanted: int) -> Float[Tensor, "wanted V"]:
        """Logits, in float32, of the last `wanted` rows; keys and values are written to the pages.

        rows: tokens, their positions, and which of the sequences they belong to.
        """
        library = native_library()
        assert library is not None
        width = max(map(len, pages.tables))
        tables = torch.tensor([[*table, *[0] * (width - len(table))] for table in pages.tables])
        given = StepInput(
            rows.shape[1], torch.get_num_threads(), pages.keys.dtype is torch.float32, pages.size, width, *pages.strides,
            *(each.data_ptr() for each in (*rows, tables, pages.keys, pages.values)),
        )  # fmt: skip
        logits = torch.empty(wanted, self.weights.head.rows)
        if library.decode_step(ctypes.byref(self.weights), ctypes.byref(given), wanted, logits.data_ptr()):
            raise MemoryError("no memory for a decoding step")
        return logits


_steps: WeakKeyDictionary[nn.Module, tuple[ModelState, DecoderStep | None]] = WeakKeyDictionary()


def step_in_c(
    model: nn.Module, tokens: Int[Tensor, "B T"], cache: KVCache, max_rows: int = MAX_ROWS, last: int | None = None
) -> Float[Tensor, "wanted V"] | None:
    """Logits, in float32, of the token after each row, whose keys and values are appended to the cache.

    last: of one row, the logits after so many of its last tokens.

    None where the C code does not know the model or the cache, or where the tokens are too many.
    """
    pages = cache.pages(tokens.shape[1]) if isinstance(cache, StaticKVCache | PagedBatch) else None
    if pages is None or tokens.numel() > max_rows or (step := _step_of(model, pages)) is None:
        return None
    check_tokens(tokens, step.config, max(pages.lengths))
    batch, length = tokens.shape
    _check_room([length] * batch, pages)
    positions = torch.tensor(pages.lengths)[:, None] + torch.arange(length)
    rows = torch.stack([tokens, positions, torch.arange(batch)[:, None].expand(batch, length)])
    # rows of which logits are wanted come last
    logits = step.run(torch.cat([rows[:, :, :-1].flatten(1), rows[:, :, -1]], dim=1), pages, last or batch)
    cache.advance(length)
    return logits


def ragged_step_in_c(
    model: nn.Module, tokens: Sequence[Sequence[int]], cache: PagedBatch, wanted: Sequence[int], max_rows: int
) -> Float[Tensor, "wanted V"] | None:
    """`step_in_c` of rows with a number of tokens each. Logits after the last `wanted[i]` tokens of row i, row after row.

    max_rows: tokens in one call of the C code; more are read in several.
    """
    pages = cache.pages(0)
    if pages is None or (step := _step_of(model, pages)) is None:
        return None
    for row, length in zip(tokens, pages.lengths, strict=True):
        check_tokens(torch.tensor([row]), step.config, length)
    _check_room(list(map(len, tokens)), pages)
    rows = torch.tensor([
        (token, length + place, index, place >= len(row) - wanted[index])
        for index, (row, length) in enumerate(zip(tokens, pages.lengths, strict=True))
        for place, token in enumerate(row)
    ])  # fmt: skip
    parts = []
    for part in rows.split(max_rows):
        is_wanted = part[:, 3].bool()
        ordered = torch.cat([part[~is_wanted], part[is_wanted]])[:, :3].T.contiguous()
        count = int(is_wanted.sum())
        parts.append(step.run(ordered, pages, max(count, 1))[max(count, 1) - count :])
    for sequence, row in zip(cache.sequences, tokens, strict=True):
        sequence.length += len(row)
    return torch.cat(parts)


def _step_of(model: nn.Module, pages: KeyPages) -> DecoderStep | None:
    """The weights of a model, where the C code knows them and the cache."""
    if native_library() is None:
        return None
    step = find_step(model)
    return None if pages.keys.dtype not in FLOAT_KINDS or pages.keys.device.type != "cpu" else step


def find_step(model: nn.Module) -> DecoderStep | None:
    """The weights of a model for the C code, read anew if they have changed; None where it does not know a part of it."""
    if nn.modules.module._has_any_global_hook() or torch.is_autocast_enabled("cpu"):
        return None
    found = _steps.get(model)
    if found is None or not found[0].is_current():
        try:
            step = None if any(map(_is_altered, model.modules())) else DecoderStep(model)  # type: ignore[arg-type]
        except UnknownPartError:
            step = None
        found = _steps[model] = (ModelState(model), step)
    return found[1]


def _is_altered(module: nn.Module) -> bool:
    """Whether a module has hooks, or functions of its own in place of its class's."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or vars(module).keys() & {"forward", "hidden_states"}
    )


def _check_room(num_tokens: Sequence[int], pages: KeyPages) -> None:
    """Raises UserError unless the pages are those of rows with so many tokens and have room for them: C checks no addresses."""
    if len(num_tokens) != len(pages.tables):
        raise UserError(f"tokens of {len(num_tokens)} sequences with a cache of {len(pages.tables)}, expected as many")
    for count, table, length in zip(num_tokens, pages.tables, pages.lengths, strict=True):
        if length + count > len(table) * pages.size:
            raise UserError(
                f"cache: {length + count} tokens in {len(table)} pages of {pages.size}",
                hint="PagedKVCache.reserve(sequence, num_tokens)",
            )


def _require(known: bool) -> None:
    if not known:
        raise UnknownPartError


def _factor(scale: nn.Module) -> float:
    return scale.factor if isinstance(scale, Scale) else 1.0
