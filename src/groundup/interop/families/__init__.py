"""The families that we read and write, one file for each kind.

Reading order: `family` (what a family is), `positions` (rotary positions and layer patterns), `llama` (the
plainest one, and Mistral, Qwen2, Qwen3), `experts` (Mixtral, Qwen3-MoE), `gemma`, `gpt2`, `t5`, `bert`,
`modernbert`.
"""

from groundup.interop.families.bert import BERT
from groundup.interop.families.family import Family
from groundup.interop.families.gemma import GEMMA, GEMMA2, GEMMA3
from groundup.interop.families.gpt2 import GPT2
from groundup.interop.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from groundup.interop.families.mixtral import MIXTRAL, QWEN3_MOE
from groundup.interop.families.modernbert import MODERNBERT
from groundup.interop.families.t5 import T5

IN_ORDER = (
    LLAMA,
    QWEN3,
    QWEN2,
    MISTRAL,
    MIXTRAL,
    QWEN3_MOE,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GPT2,
    T5,
    BERT,
    MODERNBERT,
)
FAMILIES: dict[str, Family] = {family.name: family for family in IN_ORDER}
"""By `model_type`, the plainest first: a model of ours is written as the first family that can hold it."""

__all__ = ["FAMILIES", "Family"]
