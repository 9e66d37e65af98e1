"""The families that we read and write, one file for each kind.

Reading order: `family` (what a family is), `positions` (rotary positions and layer patterns), `llama` (the plainest one,
and Mistral, Qwen2, Qwen3), `experts` (Mixtral, Qwen3-MoE), `gemma`, `gpt2`, `t5`, `bert`, `modernbert`.
"""

from groundup.interop.families.family import Family
from groundup.interop.families.gemma import GEMMA, GEMMA2, GEMMA3
from groundup.interop.families.gpt2 import GPT2
from groundup.interop.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3

FAMILIES: dict[str, Family] = {
    family.name: family for family in (LLAMA, QWEN3, QWEN2, MISTRAL, GEMMA, GEMMA2, GEMMA3, GPT2)
}
"""By `model_type`, the plainest first: a model of ours is written as the first family that can hold it."""

__all__ = ["FAMILIES", "Family"]
