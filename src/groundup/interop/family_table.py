"""The table of model families: what each can be used for, by the checks that the commands make on a small model of it."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families import FAMILIES, Family
from groundup.interop.families.select_family import select_family
from groundup.plan.checks.engine_support import check_engine_layout
from groundup.plan.checks.stage_support import check_finetuning
from groundup.recipe import ModelConfig
from groundup.recipe.layout_config import LayoutConfig
from groundup.recipe.train_config import TrainConfig

COLUMNS = {
    "model_type": "`model_type` in config.json",
    "class": "the class in transformers",
    "train": "training engines on one device",
    "fine-tune": "chat from conversations, or text from pairs (all weights, LoRA); labels; embeddings",
    "quantize": "GPTQ, AWQ and rounding",
    "serve": "what the server answers with",
    "huggingface": "the `model_type` of an export as a Hugging Face folder",
    "gguf": "llama.cpp's architecture of an export as GGUF",
}
"""Meaning by column."""

SIZES = {
    "vocab_size": 512, "hidden_size": 256, "num_layers": 4, "num_encoder_layers": 4,
    "num_heads": 4, "num_kv_heads": 4, "head_dim": 64,
    "intermediate_size": 512, "context_length": 128, "norm_eps": 1e-6,
}  # fmt: skip
VALUES = {
    "n_routed_experts": 64,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "moe_intermediate_size": 64,
    "max_position_embeddings": 130,
    "query_pre_attn_scalar": 64,
    "expand": 1,
    "n_groups": 1,
}
"""Keys of config.json without a default in some families; counts that are missing beside them are 2."""

PUBLISHED: dict[str, dict[str, Any]] = {name: {"norm_topk_prob": False} for name in ("qwen2_moe", "olmoe")}
"""Values of a family's published models that differ from these."""

SERVED = {"decoder": "chat, text", "encoder_decoder": "text", "encoder": "embeddings"}


@cache
def family_rows() -> list[dict[str, str]]:
    """A row for each family, sorted by `model_type`: a text for each of COLUMNS, empty where there is nothing."""
    return [_row(FAMILIES[name]) for name in sorted(FAMILIES)]


def small_config(family: Family) -> ModelConfig:
    """A small model of `family` with its default settings."""
    json: dict[str, Any] = {**VALUES, **PUBLISHED.get(family.name, {}), **family.fixed}
    json |= {family.keys[knob]: size for knob, size in SIZES.items() if knob in family.keys}
    while True:
        try:
            return family.read_config(json)
        except UserError as error:
            missing = re.search(r"'(\w+)' is missing", error.message)
            if missing is None or missing[1] in json:
                raise
            json[missing[1]] = 2


def format_rows(rows: list[dict[str, str]]) -> str:
    """`rows` as a table of plain text, a line each."""
    lines = [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]
    widths = {column: max(len(line[column]) for line in lines) for column in COLUMNS}
    return "\n".join("  ".join(line[column].ljust(widths[column]) for column in COLUMNS).rstrip() for line in lines)


def _row(family: Family) -> dict[str, str]:
    config = small_config(family)
    kind = config.architecture
    learns = _passes(check_finetuning, "generation", kind)
    learnt = f"{'chat' if kind == 'decoder' else 'pairs'} (full, LoRA)" if learns else ""
    return {
        "model_type": ", ".join((family.name, *family.aliases)),
        "class": family.architecture,
        "train": ", ".join(engine for engine in ("native", "deepspeed", "megatron") if _trains(config, engine)),
        "fine-tune": ", ".join(filter(None, (learnt, "labels, embeddings"))),
        "quantize": "yes",
        "serve": SERVED[kind],
        "huggingface": _name_of(select_family, config),
        "gguf": _name_of(_gguf_architecture, config),
    }


def _passes(check: Callable, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except UserError:
        return False
    return True


def _trains(config: ModelConfig, engine: str) -> bool:
    train = TrainConfig(engine=engine)  # type: ignore[arg-type]
    return _passes(check_engine_layout, LayoutConfig(shard=1), config, train)


def _name_of(select: Callable[[ModelConfig], Any], config: ModelConfig) -> str:
    try:
        return select(config).name
    except UserError:
        return ""


def _gguf_architecture(config: ModelConfig) -> Any:
    from groundup.interop.gguf import check_gguf  # optional dependency

    return check_gguf(config, "float32")
