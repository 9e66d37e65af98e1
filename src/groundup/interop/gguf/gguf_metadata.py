"""GGUF metadata of a model, in both directions."""

from collections.abc import Collection
from functools import lru_cache

import torch
from pydantic import ValidationError

from groundup.artifacts.errors import UserError
from groundup.interop.families.family import first_validation_error
from groundup.interop.families.select_family import config_differences, select_family
from groundup.interop.fold_scales import fold_config
from groundup.interop.gguf.architectures import GGUF_ARCHITECTURES, GGUFArchitecture
from groundup.interop.gguf.architectures.gguf_architecture import REQUIRED, GGUFFields, Metadata, gguf_weight_map
from groundup.interop.gguf.gguf_rope import read_scaling, rope_factors, write_scaling
from groundup.model import build_meta_model
from groundup.recipe import ModelConfig

TOKEN_TYPES = "token_types.weight"
HEADLESS: Metadata = {"masked_lm_head": False, "tie_embeddings": True}
"""Knobs of an encoder without its head."""


def select_architecture(config: ModelConfig) -> GGUFArchitecture:
    """llama.cpp's architecture for `config`: of its family, else the first that represents it.

    Raises UserError if there is none, with the knobs that metadata and tensors of the family's architecture lack.
    """
    family = select_family(fold_config(config)).name
    config = fold_config(config, family_scale=False)
    nearest = [architecture for architecture in GGUF_ARCHITECTURES.values() if family in architecture.families]
    others = [architecture for architecture in GGUF_ARCHITECTURES.values() if family not in architecture.families]
    for architecture in nearest + others:
        if not lossy_knobs(architecture, config):
            return architecture
    if not nearest:
        known = sorted({family for architecture in others for family in architecture.families})
        raise UserError(
            f"a {family} model cannot be exported as GGUF, expected one of {', '.join(known)}",
            hint="use the huggingface format",
        )
    lost = "; ".join(lossy_knobs(nearest[0], config))
    raise UserError(
        f"the model cannot be exported as GGUF ({nearest[0].name}): {lost}", hint="use the huggingface format"
    )


def lossy_knobs(architecture: GGUFArchitecture, config: ModelConfig) -> list[str]:
    """`knob must be x, is y` for each knob that metadata and tensors of the architecture do not preserve."""
    if architecture.left_out:  # an encoder's head, and so whether it is tied
        config = config.model_copy(update=HEADLESS)
    try:
        tensors = tensor_names(config)  # pyright: ignore[reportArgumentType]  (pydantic's frozen models have a hash)
        names = {name for each in gguf_weight_map(architecture, config, tensors) for name in each.foreign}
        return config_differences(
            config, read_metadata(write_metadata(architecture, config), names, rope_factors(config))
        )
    except UserError as error:
        return [error.message]
    except ValidationError as error:
        return [first_validation_error(error, architecture.keys)]


@lru_cache(maxsize=4)
def tensor_names(config: ModelConfig) -> tuple[str, ...]:
    """Names of the model's tensors; kept, because many architectures are compared with one configuration."""
    return tuple(build_meta_model(config).state_dict())


def read_metadata(metadata: Metadata, tensors: Collection[str], factors: torch.Tensor | None = None) -> ModelConfig:
    """The configuration of `metadata`, tensor names and RoPE factors.

    Raises UserError for an unknown architecture, and for a missing or unknown entry that has an effect.
    """
    name = metadata.get("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        raise UserError(
            f"general.architecture = {name!r} is not supported, expected one of {', '.join(GGUF_ARCHITECTURES)}"
        )
    architecture, fields = GGUF_ARCHITECTURES[name], GGUFFields(metadata, name)
    for key in architecture.keys.values():
        if key in REQUIRED:
            fields.require(key)
    knobs: Metadata = {knob: fields.get(key) for knob, key in architecture.keys.items() if key in fields}
    knobs["vocab_size"] = fields.get("vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ()))
    types = metadata.get("tokenizer.ggml.token_type_count")
    if types and TOKEN_TYPES in tensors:
        knobs["num_token_types"] = types
    knobs |= {"tie_embeddings": "output.weight" not in tensors} | architecture.knobs
    knobs |= _biases({name.split(".", 2)[-1] for name in tensors})
    knobs |= architecture.read(fields, tensors, knobs)
    if knobs.get("position_embedding", "rope") == "rope":
        knobs["rope_scaling"] = read_scaling(fields, factors, knobs)
        if architecture.untruncated_yarn and knobs["rope_scaling"]:
            knobs["rope_scaling"]["truncate"] = False
        rotated = fields.get("rope.dimension_count")
        if architecture.partial_rotation and rotated != knobs.get(
            "head_dim", knobs["hidden_size"] // knobs["num_heads"]
        ):
            knobs["rotary_dim"] = rotated
    config = ModelConfig.model_validate(knobs)
    latent = config.latent_attention
    fields.expect("attention.key_length", latent.kv_rank + latent.rope_head_dim if latent else config.head_dim)
    fields.expect("attention.value_length", latent.kv_rank if latent else config.head_dim)
    fields.expect("rope.dimension_count", config.rotary_width)
    fields.expect("attention.causal", config.architecture != "encoder")
    fields.expect("attention.head_count_kv", 1 if latent else config.num_kv_heads)
    _check_window(fields, config)
    fields.check_all_read()
    return config


def write_metadata(architecture: GGUFArchitecture, config: ModelConfig) -> Metadata:
    """The metadata of `config` under `architecture.name`; integers are int, others float."""
    fields: Metadata = {key: getattr(config, knob) for knob, key in architecture.keys.items()}
    fields["vocab_size"] = config.vocab_size
    if "head_dim" in architecture.keys:
        fields["attention.value_length"] = config.head_dim
    if config.position_embedding == "rope":
        fields |= {"rope.dimension_count": config.rotary_width} | write_scaling(config)
    fields |= architecture.write(config)
    named = {f"{architecture.name}.{key}": value for key, value in fields.items()}
    if TOKEN_TYPES.removesuffix("weight") in architecture.tensors.values():
        named["tokenizer.ggml.token_type_count"] = config.num_token_types or 1  # llama.cpp refuses 0
    return {"general.architecture": architecture.name} | named


def _biases(tensors: Collection[str]) -> Metadata:
    """The knobs of biases, by the tensors of a block."""
    qkv = "attn_q.bias" in tensors or "attn_qkv.bias" in tensors
    attention = ("all" if "attn_output.bias" in tensors else "qkv") if qkv else "none"
    return {"attention_bias": attention, "feed_forward_bias": "ffn_down.bias" in tensors}


def _check_window(fields: GGUFFields, config: ModelConfig) -> None:
    """A window as long as the context is none; a shorter one that the architecture does not read is refused."""
    if config.sliding_window is None:
        window = fields.get("attention.sliding_window") or config.context_length
        if window < config.context_length:
            raise UserError(
                f"{fields.name}.attention.sliding_window = {window} is not supported, "
                f"expected none or the context length, {config.context_length}"
            )
