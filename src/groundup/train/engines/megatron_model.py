"""Megatron-Core's GPT model and optimizer from a recipe's decoder, and an adapter with our model's interface."""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.model.feed_forward import ACTIVATIONS
from groundup.model.head import ModelOutput, shift_labels
from groundup.model.loss import IGNORE_INDEX
from groundup.parallel.rendezvous import COLLECTIVE_TIMEOUT
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.model_config import MoEConfig
from groundup.recipe.train_config import TrainConfig
from groundup.train.engines.base_engine import import_engine
from groundup.train.engines.megatron_weights import stage_parameters, to_megatron


def check_megatron() -> None:
    """Raises UserError if Megatron-Core cannot be imported or there is no CUDA device."""
    import_engine("megatron", "megatron.core")
    try:
        torch.cuda.current_device()
    except (AssertionError, RuntimeError) as error:
        raise UserError(
            f"train.engine = 'megatron': Megatron-Core needs a CUDA device, found none ({error})",
            hint="set train.engine=native",
        ) from None


def build_megatron(
    model: nn.Module, settings: TrainConfig, layout: LayoutConfig, checkpointing: str
) -> tuple[Any, Any]:
    """(Megatron's model with the weights of `model`, wrapped for data parallelism; its optimizer). Collective.

    Args:
        checkpointing: none or full: recompute the activations of layers in the backward pass.
    """
    from megatron.core import parallel_state  # type: ignore[import-not-found]
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # type: ignore[import-not-found]
    from megatron.core.models.gpt import GPTModel  # type: ignore[import-not-found]
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec  # type: ignore[import-not-found]
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # type: ignore[import-not-found]
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed  # type: ignore[import-not-found]
    from megatron.core.transformer import TransformerConfig  # type: ignore[import-not-found]
    from megatron.core.transformer.module import Float16Module  # type: ignore[import-not-found]

    config: Any = model.config
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()  # of an earlier engine
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        expert_model_parallel_size=layout.expert,
        distributed_timeout_minutes=COLLECTIVE_TIMEOUT // timedelta(minutes=1),
    )
    _define_gemm_of_transformer_engine()
    model_parallel_cuda_manual_seed(0)  # required, although there is no dropout
    half = settings.precision == "bfloat16"
    transformer_config = TransformerConfig(
        **model_config_fields(config), **_compute_config_fields(layout, half, checkpointing)
    )
    network: Any = GPTModel(
        config=transformer_config,
        transformer_layer_spec=get_gpt_decoder_block_spec(
            transformer_config, use_transformer_engine=False, normalization=NORM_NAMES[config.norm]
        ),
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        vocab_size=config.vocab_size,
        max_sequence_length=config.context_length,
        share_embeddings_and_output_weights=config.tie_embeddings,
        position_embedding_type="rope" if config.position_embedding == "rope" else "learned_absolute",
        rotary_base=config.rope_theta,
    )
    rank = parallel_state.get_tensor_model_parallel_rank()
    converted = to_megatron(dict(model.named_parameters()), config, rank, layout.tensor)
    with torch.no_grad():
        for name, weight in stage_parameters(network, parallel_state.get_expert_model_parallel_rank()).items():
            weight.copy_(converted[name])
    network = network.to(next(model.parameters()).device)
    if half:
        network = Float16Module(transformer_config, network)
    is_sharded = layout.shard not in (None, 1)
    ddp_config = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=is_sharded)
    wrapped = DistributedDataParallel(transformer_config, ddp_config, network)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam", lr=settings.learning_rate, weight_decay=settings.weight_decay, bf16=half,
            adam_beta1=settings.beta1, adam_beta2=settings.beta2, adam_eps=1e-8, clip_grad=0.0,
            params_dtype=torch.bfloat16 if half else torch.float32, use_distributed_optimizer=is_sharded,
        ),
        [wrapped],
    )  # fmt: skip
    wrapped.train()
    return wrapped, optimizer


FULL_RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}

NORM_NAMES = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}


def model_config_fields(config: ModelConfig) -> dict[str, Any]:
    """TransformerConfig fields of the model."""
    return {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_query_groups": config.num_kv_heads,
        "kv_channels": config.head_dim,
        "normalization": NORM_NAMES[config.norm],
        "layernorm_epsilon": config.norm_eps,
        "qk_layernorm": config.qk_norm,
        "add_bias_linear": config.feed_forward_bias,
        "add_qkv_bias": config.attention_bias != "none",
        "gated_linear_unit": config.gated,
        "activation_func": ACTIVATIONS[config.feed_forward],
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    } | ({} if config.moe is None else _moe_config_fields(config, config.moe))


def _moe_config_fields(config: ModelConfig, moe: MoEConfig) -> dict[str, Any]:
    return {
        "num_moe_experts": moe.num_experts,
        "moe_layer_freq": [int(not moe.is_dense(layer)) for layer in range(config.num_layers)],
        "moe_ffn_hidden_size": moe.intermediate_size,
        "moe_shared_expert_intermediate_size": moe.num_shared_experts * moe.intermediate_size or None,
        "moe_router_topk": moe.experts_per_token,
        "moe_router_score_function": moe.router_activation,
        "moe_router_pre_softmax": not moe.normalize_scores,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
        "moe_router_load_balancing_type": "none",  # others are refused: plan/checks/engine_support.py
    }


def _compute_config_fields(layout: LayoutConfig, half: bool, checkpointing: str) -> dict[str, Any]:
    """TransformerConfig fields of precision and parallelism."""
    return {
        "tensor_model_parallel_size": layout.tensor,
        "pipeline_model_parallel_size": layout.pipeline,
        "expert_model_parallel_size": layout.expert,
        "params_dtype": torch.bfloat16 if half else torch.float32,
        "pipeline_dtype": torch.bfloat16 if half else torch.float32,
        "bf16": half,
        # Weights are overwritten, but CPU initialization marks sharded parameters; the norm counts all others once.
        "use_cpu_initialization": True,
        "calculate_per_token_loss": True,  # gradients are summed over ranks, not averaged
        "gradient_accumulation_fusion": False,
        "masked_softmax_fusion": False,
        "attention_softmax_in_fp32": True,
        "persist_layer_norm": False,
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "apply_rope_fusion": False,
    } | (FULL_RECOMPUTE if checkpointing == "full" else {})


def _define_gemm_of_transformer_engine() -> None:
    """A name that Megatron-Core 0.16 defines with TransformerEngine only, and that its router reads without it."""
    from megatron.core.transformer.moe import moe_utils  # type: ignore[import-not-found]

    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


class MegatronAdapter(nn.Module):
    """Megatron's model with our model's interface. Collective over the tensor and pipeline axes, and over experts.

    Pipeline stages compute one after the other, and the last one sends the result to all.
    """

    def __init__(self, config: ModelConfig, network: nn.Module):
        super().__init__()
        from megatron.core import parallel_state  # type: ignore[import-not-found]

        self.config = config
        self.network = network
        self.pipeline = parallel_state.get_pipeline_model_parallel_group()

    def forward(
        self, tokens: Int[Tensor, "B T"], labels: Int[Tensor, "B T"] | None = None, *, z_loss: float = 0.0
    ) -> ModelOutput:
        hidden = self.hidden_states(tokens)
        if labels is None:
            return ModelOutput(self.logits(hidden), None)
        targets = shift_labels(labels)
        loss = torch.zeros((), device=hidden.device)
        if self._is_last:
            losses = self._inner.compute_language_model_loss(targets, self._scores(hidden.transpose(0, 1), False))
            loss = losses[targets != IGNORE_INDEX].mean()
        return ModelOutput(None, self._from_stage(self.pipeline.size() - 1, loss))

    def losses(
        self, network: nn.Module, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T"] | Float[Tensor, "T B D"]:
        """Loss in nats at each position, by the network or its wrapper; undefined where the label is -100.

        Hidden states on pipeline stages before the last one.
        """
        return network(tokens, _positions(tokens), None, labels=targets)

    def hidden_states(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        inner = self._inner
        was_last, inner.post_process = inner.post_process, False  # stop before the head
        shape = (tokens.shape[1], tokens.shape[0], self.config.hidden_size)
        hidden = torch.empty(shape, dtype=inner.config.params_dtype, device=tokens.device)
        try:
            for stage in range(self.pipeline.size()):
                if stage == self.pipeline.rank():
                    inner.set_input_tensor(hidden)
                    hidden = inner(tokens, _positions(tokens), None)
                hidden = self._from_stage(stage, hidden)
        finally:
            inner.post_process = was_last
        return hidden.transpose(0, 1)

    def logits(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        scores = torch.empty((*hidden.shape[:-1], self.config.vocab_size), device=hidden.device)
        if self._is_last:
            scores = self._scores(hidden, True).float()
        return self._from_stage(self.pipeline.size() - 1, scores)

    def _scores(self, hidden: Tensor, gathered: bool) -> Tensor:
        """Logits over the vocabulary, or over the tensor parallel shard of it."""
        inner = self._inner
        tied = self.config.tie_embeddings
        weight = inner.shared_embedding_or_output_weight() if tied else inner.output_layer.weight
        return inner.output_layer(hidden.to(weight.dtype), weight=weight, runtime_gather_output=gathered)[0]

    def _from_stage(self, stage: int, tensor: Tensor) -> Tensor:
        """The tensor of a pipeline stage, on all of them."""
        if self.pipeline.size() > 1:
            tensor = tensor.contiguous()
            dist.broadcast(tensor, group=self.pipeline, group_src=stage)
        return tensor

    @property
    def _is_last(self) -> bool:
        return self.pipeline.rank() == self.pipeline.size() - 1

    @property
    def _inner(self) -> Any:
        """The GPT model inside the bfloat16 wrapper."""
        return getattr(self.network, "module", self.network)


def _positions(tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    return torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
