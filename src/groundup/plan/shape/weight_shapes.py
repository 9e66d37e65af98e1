"""Name and shape of every weight of a model, without building it.

Equal to `{name: weight.shape for name, weight in build_model(config).named_parameters()}` for every architecture; the tests
draw random configurations. It is a second account of what model/ builds, because building a model needs torch, which takes
longer to import than a whole plan.
"""

from dataclasses import dataclass

from groundup.recipe import ModelConfig
from groundup.recipe.base_config import cached
from groundup.recipe.model_config import MoEConfig

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclass(frozen=True)
class WeightShapes:
    """The weights outside of blocks by full name, and the blocks of each stack by the prefix of their names.

    Attributes:
        ends: embedding, position tables, final norms and head.
        stacks: {"blocks": shapes of each block by name inside the block}; an encoder-decoder has "encoder.blocks" and
            "decoder.blocks". Equal blocks are one dict.
    """

    ends: Shapes
    stacks: dict[str, tuple[Shapes, ...]]

    def named(self) -> Shapes:
        """Every weight of the model by its full name."""
        blocks = {
            f"{stack}.{layer}.{name}": shape
            for stack, layers in self.stacks.items()
            for layer, shapes in enumerate(layers)
            for name, shape in shapes.items()
        }
        return self.ends | blocks


@cached  # a search of layouts asks for those of one model many thousand times
def weight_shapes(config: ModelConfig) -> WeightShapes:
    """The weights of the model of `config`.

    >>> shapes = weight_shapes(ModelConfig(vocab_size=100, hidden_size=48, num_layers=3, num_heads=4, head_dim=16))
    >>> shapes.ends["embedding.tokens.weight"], shapes.stacks["blocks"][2]["attention.q_proj.weight"]
    ((100, 48), (64, 48))
    """
    if config.architecture != "encoder_decoder":
        ends = _embedding(config) | _position_biases(config, config.num_layers) | _final_norm(config) | _head(config)
        return WeightShapes(ends, {"blocks": _blocks(config, config.num_layers)})
    ends, stacks = _embedding(config), {}
    for stack, num_layers in (("encoder", num_encoder_layers(config)), ("decoder", config.num_layers)):
        parts = _positions_and_norm(config, config.hidden_size) | _position_biases(config, num_layers)
        ends |= _under(stack, parts | _final_norm(config))
        stacks[f"{stack}.blocks"] = _blocks(config, num_layers, cross=stack == "decoder")
    return WeightShapes(ends | _head(config), stacks)


def num_encoder_layers(config: ModelConfig) -> int:
    """Blocks of the encoder of an encoder-decoder, beside the `num_layers` of its decoder; else 0."""
    return config.num_encoder_layers or config.num_layers if config.architecture == "encoder_decoder" else 0


def _blocks(config: ModelConfig, num_layers: int, *, cross: bool = False) -> tuple[Shapes, ...]:
    kinds: dict[tuple[bool, ...], Shapes] = {}
    types = config.layer_types_for(num_layers)

    def block(layer: int) -> Shapes:
        is_linear = config.gated_delta is not None and types[layer] == "linear"
        is_sparse = config.moe is not None and not config.moe.is_dense(layer)
        has_norm = layer > 0 or not config.embedding_norm or config.keep_first_norm or config.norm_placement != "pre"
        kind = is_linear, is_sparse, has_norm or cross
        if kind not in kinds:
            kinds[kind] = _block(config, is_linear, is_sparse, has_norm or cross, cross)
        return kinds[kind]

    return tuple(map(block, range(num_layers)))


def _block(config: ModelConfig, is_linear: bool, is_sparse: bool, has_attention_norm: bool, cross: bool) -> Shapes:
    norm = _norm(config, config.hidden_size)
    if config.state_space is not None:
        return _under("norm", norm) | _under("mixer", _state_space(config))
    mixer = _gated_delta(config) if is_linear else _latent(config) if config.latent_attention else _attention(config)
    mixture = config.moe if is_sparse else None
    shapes = _under("attention", mixer)
    shapes |= _under("feed_forward", _feed_forward(config) if mixture is None else _mixture(config, mixture))
    if cross:
        shapes |= _under("cross_attention", _projections(config)) | _under("cross_attention_norm", norm)
    norms = ["attention_norm"] if has_attention_norm else []
    norms += [] if config.shared_norm else ["feed_forward_norm"]
    if config.norm_placement == "sandwich":
        norms += ["attention_post_norm", "feed_forward_post_norm"]
    if config.norm_placement == "sublayer_output":
        norms = ["attention_post_norm", "feed_forward_post_norm"]
    for name in norms:
        shapes |= _under(name, norm)
    return shapes


def _projections(config: ModelConfig) -> Shapes:
    """The four matrices of self-attention or cross-attention."""
    width, queries, keys = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    qkv, output = config.attention_bias in ("qkv", "all"), config.attention_bias in ("output", "all")
    shapes = _linear("q_proj", width, queries, qkv)
    shapes |= _linear("k_proj", width, keys, qkv) | _linear("v_proj", width, keys, qkv)
    shapes |= _linear("o_proj", queries, width, output)
    return shapes | ({"attention_function.sinks": (config.num_heads,)} if config.attention_sinks else {})


def _attention(config: ModelConfig) -> Shapes:
    shapes = _projections(config)
    if config.qk_norm and config.qk_norm_type != "unweighted":
        for name, heads in (("q_norm", config.num_heads), ("k_norm", config.num_kv_heads)):
            if config.qk_norm_type == "per_head":
                shapes |= _under(name, {"weight": (heads * config.head_dim,)})
            else:
                size = config.head_dim * (heads if config.qk_norm_type == "projection" else 1)
                shapes |= _under(name, _norm(config, size))
    if config.attention_gate:
        bias = config.attention_bias in ("qkv", "all")
        shapes |= _linear("gate_proj", config.hidden_size, config.num_heads * config.head_dim, bias)
    return shapes


def _latent(config: ModelConfig) -> Shapes:
    latent, width, heads = config.latent_attention, config.hidden_size, config.num_heads
    assert latent is not None
    bias, rank = config.attention_bias in ("qkv", "all"), latent.q_rank
    shapes = _linear("q_proj", rank or width, heads * config.head_dim, False)
    if rank is not None:
        shapes |= _linear("q_a_proj", width, rank, bias) | {"q_a_norm.weight": (rank,)}
    shapes |= _linear("kv_a_proj", width, latent.kv_rank + latent.rope_head_dim, bias)
    shapes["kv_a_norm.weight"] = (latent.kv_rank,)
    expanded = heads * (config.head_dim - latent.rope_head_dim + latent.value_head_dim)
    shapes |= _linear("kv_b_proj", latent.kv_rank, expanded, False)
    shapes |= _linear("o_proj", heads * latent.value_head_dim, width, config.attention_bias in ("output", "all"))
    return shapes | ({"attention_function.sinks": (heads,)} if config.attention_sinks else {})


def _state_space(config: ModelConfig) -> Shapes:
    settings, heads = config.state_space, config.num_heads
    assert settings is not None
    inner, bias = heads * config.head_dim, config.attention_bias == "all"
    convolved = inner + 2 * settings.num_groups * settings.state_size
    shapes = _linear("in_proj", config.hidden_size, inner + convolved + heads, bias)
    shapes["convolution.weight"] = (convolved, 1, settings.convolution_width)
    shapes |= {"convolution.bias": (convolved,)} if settings.convolution_bias else {}
    shapes |= {"step_bias": (heads,), "log_decay": (heads,), "skip": (heads,), "norm.weight": (inner,)}
    return shapes | _linear("o_proj", inner, config.hidden_size, bias)


def _gated_delta(config: ModelConfig) -> Shapes:
    delta, width = config.gated_delta, config.hidden_size
    assert delta is not None
    heads = delta.num_value_heads
    keys, values = delta.num_key_heads * delta.key_head_dim, heads * delta.value_head_dim
    outputs = {"qkv_proj": 2 * keys + values, "gate_proj": values, "strength_proj": heads, "step_proj": heads}
    shapes: Shapes = {f"{name}.weight": (size, width) for name, size in outputs.items()}
    shapes["convolution.weight"] = (2 * keys + values, 1, delta.convolution_width)
    shapes |= {"step_bias": (heads,), "log_decay": (heads,), "norm.weight": (delta.value_head_dim,)}
    return shapes | {"o_proj.weight": (width, values)}


def _feed_forward(config: ModelConfig) -> Shapes:
    width, inner, bias = config.hidden_size, config.intermediate_size, config.feed_forward_bias
    shapes = _linear("gate_proj", width, inner, bias) if config.gated else {}
    shapes |= _linear("up_proj", width, inner, bias) | _linear("down_proj", inner, width, bias)
    if config.feed_forward == "xielu":
        shapes |= {"activation.alpha_p": (1,), "activation.alpha_n": (1,)}
    return shapes


def _mixture(config: ModelConfig, moe: MoEConfig) -> Shapes:
    width, inner, experts = config.hidden_size, moe.intermediate_size, moe.num_experts
    shapes = _linear("router", width, experts, moe.router_bias)
    sizes = {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    for name, (outputs, inputs) in sizes.items():
        shapes[f"experts.{name}_proj"] = (experts, outputs, inputs)
        shapes |= {f"experts.{name}_bias": (experts, outputs)} if moe.expert_bias else {}
        if shared := moe.num_shared_experts:
            shape = (width, shared * inner) if name == "down" else (shared * inner, width)
            shapes[f"shared_experts.{name}_proj.weight"] = shape
    return shapes | ({"shared_experts.gate.weight": (1, width)} if moe.shared_expert_gate else {})


def _embedding(config: ModelConfig) -> Shapes:
    width = config.embedding_size or config.hidden_size
    shapes: Shapes = {"tokens.weight": (config.vocab_size, width)}
    if config.architecture != "encoder_decoder":
        shapes |= _positions_and_norm(config, width, prefix="")
    shapes |= {"token_types.weight": (config.num_token_types, width)} if config.num_token_types else {}
    shapes |= _linear("projection", width, config.hidden_size, True) if config.embedding_size else {}
    return _under("embedding", shapes)


def _positions_and_norm(config: ModelConfig, width: int, prefix: str = "embedding.") -> Shapes:
    learned = config.position_embedding == "learned"
    shapes: Shapes = {f"{prefix}positions.weight": (config.context_length, width)} if learned else {}
    return shapes | (_under(f"{prefix}norm", _norm(config, width)) if config.embedding_norm else {})


def _position_biases(config: ModelConfig, num_layers: int) -> Shapes:
    """T5's table of biases: one for each type of layer, or one for each layer."""
    if config.position_embedding != "relative":
        return {}
    names = map(str, range(num_layers)) if config.relative_bias_per_layer else config.layer_types_for(num_layers)
    table = (config.relative_buckets, config.num_heads)
    return {f"position_encodings.{name}.bias.weight": table for name in names if name != "linear"}


def _final_norm(config: ModelConfig) -> Shapes:
    return {} if config.norm_placement == "post" else _under("final_norm", _norm(config, config.hidden_size))


def _head(config: ModelConfig) -> Shapes:
    width = config.embedding_size or config.hidden_size
    matrix: Shapes = {} if config.tie_embeddings else {"weight": (config.vocab_size, width)}
    if config.architecture != "encoder":
        return _under("head", matrix | ({"bias": (config.vocab_size,)} if config.head_bias else {}))
    if not config.masked_lm_head:
        return {}
    bias = config.feed_forward_bias if config.masked_head_bias is None else config.masked_head_bias
    shapes = _linear("dense", config.hidden_size, width, bias) | _under("norm", _norm(config, width))
    return _under("head", shapes | _under("head", matrix | {"bias": (config.vocab_size,)}))


def _norm(config: ModelConfig, size: int) -> Shapes:
    if config.norm.startswith("unweighted"):
        return {}
    return {"weight": (size,)} | ({"bias": (size,)} if config.norm_bias else {})


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> Shapes:
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}
