"""Bytes that a forward pass keeps for its backward pass, block by block.

Counted like autograd keeps them: an input or result of an operation once, however many operations need it. Notation as in
model/: D hidden size, H heads, G key/value heads, K head dim, F feed-forward, S keys. Autocast keeps the residual stream in
float32 and the inputs of matrix products in bfloat16. The tests compare with what the built model saves, over random
configurations; a table of the same kind for Megatron's kernels is in Korthikanti et al. 2022, section 4.
"""

from dataclasses import dataclass, replace

from groundup.artifacts.machine import ActivationCheckpointing
from groundup.recipe import ModelConfig
from groundup.recipe.model_config import LayerType, MoEConfig

FP32, INDEX = 4, 8
EAGER_MAX_SCORES = 2**18
"""Scores per head (T S) up to which a CPU computes attention in bfloat16 without a fused kernel: model/attention.py."""
STATE_CHUNK = 64
"""Tokens of a chunk of state-space layers and linear attention: model/state_space.py, model/gated_delta.py."""
GATED_FACTORS = {"swiglu": 4, "geglu": 4, "geglu_tanh": 4, "swiglu_clamped": 7}
PLAIN_FACTORS = {"gelu": 2, "gelu_tanh": 2, "silu": 2, "relu": 1, "relu2": 2}
"""Tensors of width F that a feed-forward keeps: results of the products, of the activation, and the input of the last product."""


@dataclass(frozen=True)
class ForwardPass:
    """The tokens of one forward pass on one device, and how it computes.

    Attributes:
        rows, length: sequences, and tokens of each on this device.
        keys: tokens to which a query may attend; more than `length` where the context is sharded.
        products: bytes of a value in matrix products: 2 for bfloat16.
        stream: bytes of a value of the residual stream.
        fused: whether kernels are those of an accelerator: attention never keeps scores.
        documents: whether attention is masked by document.
        tensor, sequence_parallel: of the layout.
    """

    rows: int
    length: int
    keys: int
    products: int = 2
    stream: int = FP32
    fused: bool = True
    documents: bool = False
    tensor: int = 1
    sequence_parallel: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    def with_length(self, length: int) -> "ForwardPass":
        """The same rows with another number of tokens."""
        return replace(self, length=length, keys=length)

    @property
    def local_stream(self) -> float:
        """Tokens whose residual stream this device keeps."""
        return self.tokens / (self.tensor if self.sequence_parallel else 1)


def block_activations(
    config: ModelConfig,
    step: ForwardPass,
    layer: int,
    layer_type: LayerType = "global",
    memory: ForwardPass | None = None,
) -> float:
    """Bytes that one block keeps.

    Args:
        layer_type: global, local or linear.
        memory: of a decoder with cross-attention, the tokens of the encoder.
    """
    width = config.hidden_size
    if config.state_space is not None:
        return _stream_norm(config, step) + _state_space(config, step)
    linear = layer_type == "linear" and config.gated_delta is not None
    if linear:
        mixer = _gated_delta(config, step)
    elif config.latent_attention is not None:
        mixer = _latent_attention(config, step, layer_type)
    else:
        mixer = _self_attention(config, step, layer, layer_type)
    sparse = config.moe is not None and not config.moe.is_dense(layer)
    feed_forward = _mixture(config, config.moe, step) if sparse and config.moe else _feed_forward(config, step)
    inputs = 1 if sparse else 2
    if config.shared_norm and step.products == step.stream:
        inputs = 1  # one tensor is the input of both
    total = mixer + feed_forward + inputs * step.tokens * width * step.products
    total += _block_norms(config, step, layer)
    if memory is not None:
        total += _cross_attention(config, step, memory) + _stream_norm(config, step)
    return total


def kept_activations(
    config: ModelConfig, block: float, step: ForwardPass, checkpointing: ActivationCheckpointing
) -> float:
    """Bytes that a block with activation checkpointing keeps, of the `block` bytes that it keeps without.

    Full: its input. Selective: its input and the results of matrix products and attention.
    """
    if checkpointing == "none":
        return block
    kept = step.local_stream * config.hidden_size * step.stream
    if checkpointing == "full":
        return kept
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim / step.tensor
    inner = (2 if config.gated else 1) * config.intermediate_size / step.tensor
    return min(block, kept + step.tokens * (heads + inner + 2 * config.hidden_size) * step.products)


def end_activations(config: ModelConfig, step: ForwardPass) -> float:
    """Bytes that embedding, final norm and position encodings keep."""
    norms = (config.norm_placement != "post") + config.embedding_norm
    tables = 2 * step.length * config.rotary_width * FP32 if config.position_embedding == "rope" else 0
    biases = (
        config.num_heads * step.length * step.keys * FP32 if config.position_embedding in ("relative", "alibi") else 0
    )
    return norms * _stream_norm(config, step) + step.tokens * 2 * INDEX + tables + biases


def _block_norms(config: ModelConfig, step: ForwardPass, layer: int) -> float:
    """Inputs of the norms of a block, which are results of products where a norm is the last of a sublayer."""
    before, after = _stream_norm(config, step), _norm(config, step.local_stream, config.hidden_size, step.products)
    if config.norm_placement == "sandwich":
        return 2 * before + 2 * after
    if config.norm_placement == "sublayer_output":
        return 2 * after
    if config.norm_placement == "parallel":  # both norms, or the only one, read the same stream
        statistics = 0 if config.shared_norm else before - step.local_stream * config.hidden_size * step.stream
        return before + statistics
    first = layer == 0 and config.embedding_norm and not config.keep_first_norm and config.norm_placement == "pre"
    return before if first else 2 * before


def _stream_norm(config: ModelConfig, step: ForwardPass) -> float:
    return _norm(config, step.local_stream, config.hidden_size, step.stream)


def _norm(config: ModelConfig, vectors: float, size: int, value_bytes: int) -> float:
    """The input of a norm of `vectors` of `size` values, and one or two statistics of each."""
    if config.norm in ("zero_centered_rmsnorm", "unweighted_rmsnorm"):
        value_bytes = FP32
    return vectors * (size * value_bytes + (2 if "layernorm" in config.norm else 1) * FP32)


def _self_attention(config: ModelConfig, step: ForwardPass, layer: int, layer_type: LayerType) -> float:
    heads, kv_heads, dim = config.num_heads / step.tensor, max(1.0, config.num_kv_heads / step.tensor), config.head_dim
    total = _attention(config, step, layer_type, (heads + kv_heads) * dim, kv_heads * dim, heads * dim)
    if config.attention_gate:
        total += 2 * step.tokens * heads * dim * step.products
    if config.qk_norm:
        total += _qk_norm(config, step, layer, heads + kv_heads)
    if config.rotates(layer):
        total += _rotation(step, config.rotary_width, calls=2)
    return total


def _attention(
    config: ModelConfig, step: ForwardPass, layer_type: LayerType, query_key: float, value: float, output: float
) -> float:
    """Queries, keys, values and results of attention, of so many values a token; scores where no kernel is fused."""
    kept = step.tokens * (query_key + value + output) * step.products
    heads = config.num_heads / step.tensor
    windowed = layer_type == "local" and config.sliding_window is not None and config.sliding_window < step.keys
    biased = config.position_embedding in ("relative", "alibi")
    is_masked = windowed or step.documents or biased
    mask_rows = step.rows if step.documents else 1
    mask = mask_rows * step.length * step.keys * step.products * (heads if biased else 1) if is_masked else 0.0
    scores = step.tokens * heads * step.keys * step.products
    small = step.products == 2 and step.length * step.keys <= EAGER_MAX_SCORES
    if not step.fused and config.attention_softcap is not None:
        return kept + 2 * scores
    if not step.fused and config.attention_sinks:
        return kept + 3 * scores
    latent = config.latent_attention  # a CPU's kernel wants values as wide as keys, and a bias that does not learn
    unequal = latent is not None and latent.value_head_dim != config.head_dim
    if not step.fused and (small or unequal or config.position_embedding == "relative"):
        return kept + scores + (step.tokens * output * step.products if step.products == FP32 else 0)
    if (step.fused and not biased) or (biased and step.products == FP32):  # one for all blocks
        mask = 0.0
    return kept + step.tokens * heads * FP32 + mask


def _qk_norm(config: ModelConfig, step: ForwardPass, layer: int, heads: float) -> float:
    if config.qk_norm_type == "unweighted":
        if not config.rotates(layer):
            return 0.0
        return step.tokens * heads * (config.head_dim + 1) * FP32
    if config.qk_norm_type == "per_head":
        normed = step.products if config.norm == "layernorm" else FP32  # before the weights of each head
        return step.tokens * heads * (config.head_dim * (normed + step.products) + FP32)
    if config.qk_norm_type == "projection":
        return sum(
            _norm(config, step.tokens, each * config.head_dim, step.products)
            for each in (config.num_heads, config.num_kv_heads)
        )
    return _norm(config, step.tokens * heads, config.head_dim, step.products)


def _rotation(step: ForwardPass, width: int, calls: int) -> float:
    """Cosines and sines in the precision of products, of each call; in float32 one table serves all blocks."""
    return 0.0 if step.products == FP32 else 2 * calls * step.length * width * step.products


def _cross_attention(config: ModelConfig, step: ForwardPass, memory: ForwardPass) -> float:
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    total = step.tokens * (config.hidden_size + 2 * queries) * step.products
    total += memory.tokens * 2 * keys * step.products
    total += memory.tokens * config.hidden_size * step.products if step.products < memory.stream else 0.0
    if not step.fused and step.products == 2 and step.length * memory.length <= EAGER_MAX_SCORES:
        return total + step.tokens * config.num_heads * memory.length * step.products
    return total + step.tokens * config.num_heads * FP32


def _latent_attention(config: ModelConfig, step: ForwardPass, layer_type: LayerType) -> float:
    latent = config.latent_attention
    assert latent is not None
    heads, queries = config.num_heads / step.tensor, config.num_heads / step.tensor * config.head_dim
    values = heads * latent.value_head_dim
    total = _attention(config, step, layer_type, 2 * queries, values, values)
    narrow = latent.kv_rank + (latent.q_rank or 0)
    total += step.tokens * 2 * narrow * step.products + step.tokens * FP32 * (2 if latent.q_rank else 1)
    return total + _rotation(step, latent.rope_head_dim, calls=2)


def _feed_forward(config: ModelConfig, step: ForwardPass) -> float:
    inner = step.tokens * config.intermediate_size / step.tensor
    if config.feed_forward == "xielu":
        return inner * (1 + 4 * step.products + FP32)
    factors = GATED_FACTORS if config.gated else PLAIN_FACTORS
    return inner * factors[config.feed_forward] * step.products


def _mixture(config: ModelConfig, moe: MoEConfig, step: ForwardPass) -> float:
    """Router in float32, routed experts with as many rows as tokens have experts, and shared experts; with their input."""
    width, routed = config.hidden_size, step.tokens * moe.experts_per_token
    factor = GATED_FACTORS[config.feed_forward]
    router = step.tokens * (width + moe.num_experts + 1) * FP32 + routed * (2 * FP32 + 3 * INDEX)
    experts = routed * (3 * width + factor * moe.intermediate_size / step.tensor) * step.products
    shared = moe.num_shared_experts * moe.intermediate_size / step.tensor
    inputs = width if shared and step.products < FP32 else 0
    gated = width if moe.shared_expert_gate else 0
    return router + experts + step.tokens * (factor * shared + inputs + gated) * step.products


def _state_space(config: ModelConfig, step: ForwardPass) -> float:
    """The sum of model/state_space.py: the convolution, one chunk after the other, and the gated norm in float32."""
    settings, heads, inner = config.state_space, config.num_heads, config.num_heads * config.head_dim
    assert settings is not None
    chunk, state = min(STATE_CHUNK, step.length), settings.state_size
    convolved = inner + 2 * settings.num_groups * state
    products = config.hidden_size + 2 * convolved + 3 * heads * state + heads * 2 * chunk + 4 * inner
    floats = 6 * heads + heads * chunk + 7 * inner
    states = inner * state * (FP32 + step.products) / chunk
    return step.tokens * (products * step.products + floats * FP32 + states) + step.length * chunk


def _gated_delta(config: ModelConfig, step: ForwardPass) -> float:
    """The sum of model/gated_delta.py, likewise; without its input."""
    delta = config.gated_delta
    assert delta is not None
    heads, chunk = delta.num_value_heads, min(STATE_CHUNK, step.length)
    keys, values = heads * delta.key_head_dim, heads * delta.value_head_dim
    convolved = 2 * delta.num_key_heads * delta.key_head_dim + values
    products = 2 * convolved + 5 * keys + heads * 3 * chunk + 5 * values
    floats = 10 * heads + 4 * keys + heads * 3 * chunk + 4 * values
    states = keys * delta.value_head_dim * (FP32 + 2 * step.products) / chunk
    return step.tokens * (products * step.products + floats * FP32 + states) + step.length * chunk
