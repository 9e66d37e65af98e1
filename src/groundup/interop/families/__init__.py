"""Hugging Face model families: one file for each group of similar ones.

Files, in reading order:

    family.py         the description of a family
    rope_config.py    RoPE and layer types in config.json
    llama.py          Llama, Mistral, Qwen2, Qwen3
    llama_variants.py SmolLM3, Granite, Seed-OSS, Ministral, Arcee
    olmo.py           OLMo 1, 2 and 3, EXAONE 4
    nanochat.py       nanochat
    glm.py            GLM-4, Helium
    cohere.py         Command R, R7B and A
    nemotron.py       Nemotron
    phi3.py           Phi-3 and Phi-4
    hyperclova.py     HyperCLOVA X, the Code World Model, Jais 2
    apertus.py        Apertus
    mixtral.py        Mixtral
    qwen_moe.py       Qwen2-MoE, Qwen3-MoE, OLMoE, FlexOlmo
    qwen_next.py      Qwen3-Next, Qwen3.5
    granite_moe.py    Granite-MoE, with and without shared experts
    phimoe.py         Phi-3.5-MoE
    hunyuan.py        Hunyuan, dense and with experts
    ernie.py          ERNIE 4.5 and its mixture of experts
    sigmoid_moe.py    dots.llm1, GLM-4.5, Solar Open, MiniMax-M2
    llama4.py         Llama 4's text
    gpt_oss.py        gpt-oss
    youtu.py          Youtu-LLM: latent attention
    minicpm3.py       MiniCPM3
    deepseek.py       DeepSeek-V2 and V3, Kimi K2, GLM-4.7-Flash, Sarvam
    mamba2.py         Mamba-2
    gemma.py          Gemma 1, 2 and 3
    gpt2.py           GPT-2
    gpt_neo.py        GPT-Neo
    gpt_neox.py       GPT-NeoX, Pythia
    gptj.py           GPT-J, CodeGen
    phi.py            Phi-1, Phi-2
    falcon.py         Falcon
    stablelm.py       StableLM
    starcoder.py      StarCoder (GPT-BigCode), StarCoder2
    opt.py            OPT, BioGPT
    bloom.py          BLOOM, MPT
    t5.py             T5, Flan-T5, mT5, UMT5
    bart.py           BART, mBART, PLBart, Marian, Pegasus, M2M-100, NLLB, Blenderbot
    bert.py           BERT
    roberta.py        RoBERTa, XLM-RoBERTa, CamemBERT
    distilbert.py     DistilBERT
    electra.py        ELECTRA
    nomic_bert.py     NomicBERT
    modernbert.py     ModernBERT
    select_family.py  the family of an export
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.interop.families.apertus import APERTUS
from groundup.interop.families.bart import BART, BLENDERBOT, M2M_100, MARIAN, MBART, PEGASUS, PLBART
from groundup.interop.families.bert import BERT
from groundup.interop.families.bloom import BLOOM, MPT
from groundup.interop.families.cohere import COHERE, COHERE2
from groundup.interop.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3, GLM4_MOE_LITE, SARVAM_MLA
from groundup.interop.families.distilbert import DISTILBERT
from groundup.interop.families.electra import ELECTRA
from groundup.interop.families.ernie import ERNIE4_5, ERNIE4_5_MOE
from groundup.interop.families.falcon import FALCON
from groundup.interop.families.family import Family
from groundup.interop.families.gemma import GEMMA, GEMMA2, GEMMA3
from groundup.interop.families.glm import GLM, GLM4, HELIUM
from groundup.interop.families.gpt2 import GPT2
from groundup.interop.families.gpt_neo import GPT_NEO
from groundup.interop.families.gpt_neox import GPT_NEOX
from groundup.interop.families.gpt_oss import GPT_OSS
from groundup.interop.families.gptj import CODEGEN, GPTJ
from groundup.interop.families.granite_moe import GRANITE_MOE, GRANITE_MOE_SHARED
from groundup.interop.families.hunyuan import HUNYUAN_V1_DENSE, HUNYUAN_V1_MOE
from groundup.interop.families.hyperclova import CWM, HYPERCLOVAX, JAIS2
from groundup.interop.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from groundup.interop.families.llama4 import LLAMA4_TEXT
from groundup.interop.families.llama_variants import ARCEE, GRANITE, MINISTRAL, MINISTRAL3, SEED_OSS, SMOLLM3
from groundup.interop.families.mamba2 import MAMBA2
from groundup.interop.families.minicpm3 import MINICPM3
from groundup.interop.families.mixtral import MIXTRAL
from groundup.interop.families.modernbert import MODERNBERT
from groundup.interop.families.nanochat import NANOCHAT
from groundup.interop.families.nemotron import NEMOTRON
from groundup.interop.families.nomic_bert import NOMIC_BERT
from groundup.interop.families.olmo import EXAONE4, OLMO, OLMO2, OLMO3
from groundup.interop.families.opt import BIOGPT, OPT
from groundup.interop.families.phi import PHI
from groundup.interop.families.phi3 import PHI3
from groundup.interop.families.phimoe import PHIMOE
from groundup.interop.families.qwen_moe import FLEX_OLMO, OLMOE, QWEN2_MOE, QWEN3_MOE
from groundup.interop.families.qwen_next import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT
from groundup.interop.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from groundup.interop.families.sigmoid_moe import DOTS1, GLM4_MOE, MINIMAX_M2, SOLAR_OPEN
from groundup.interop.families.stablelm import STABLELM
from groundup.interop.families.starcoder import GPT_BIGCODE, STARCODER2
from groundup.interop.families.t5 import MT5, T5, UMT5
from groundup.interop.families.youtu import YOUTU

_SIMPLEST_FIRST = (
    LLAMA, QWEN3, QWEN2, MISTRAL,
    SEED_OSS, MINISTRAL, MINISTRAL3, SMOLLM3, GRANITE, ARCEE,
    OLMO, OLMO2, OLMO3, EXAONE4,
    NANOCHAT,
    PHI3,
    NEMOTRON,
    CWM, HYPERCLOVAX, JAIS2, APERTUS,
    COHERE, COHERE2,
    GLM, GLM4, HELIUM,
    MIXTRAL, QWEN3_MOE, QWEN2_MOE, OLMOE, FLEX_OLMO, QWEN3_5, QWEN3_NEXT, QWEN3_5_MOE, GRANITE_MOE, GRANITE_MOE_SHARED,
    PHIMOE, HUNYUAN_V1_DENSE, HUNYUAN_V1_MOE, ERNIE4_5, ERNIE4_5_MOE,
    DOTS1, GLM4_MOE, SOLAR_OPEN, MINIMAX_M2, LLAMA4_TEXT,
    GPT_OSS,
    YOUTU, MINICPM3, DEEPSEEK_V3, DEEPSEEK_V2, GLM4_MOE_LITE, SARVAM_MLA,
    MAMBA2,
    GEMMA, GEMMA2, GEMMA3,
    GPT2,
    GPT_BIGCODE, STARCODER2,
    GPT_NEO,
    GPT_NEOX,
    GPTJ, CODEGEN,
    PHI,
    FALCON,
    STABLELM,
    OPT, BIOGPT,
    BLOOM, MPT,
    T5, MT5, UMT5,
    BART, PLBART, MBART, BLENDERBOT, MARIAN, PEGASUS, M2M_100,
    BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT, ELECTRA,
    MODERNBERT,
    NOMIC_BERT,
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _SIMPLEST_FIRST}
"""By `model_type`, the simplest first: a model is exported as the first family that represents it."""


def find_family(model_type: Any) -> Family | None:
    """The family of a config.json's `model_type`, which may be an alias; None if it is not supported."""
    return next((f for f in _SIMPLEST_FIRST if model_type == f.name or model_type in f.aliases), None)


def require_family(model_type: Any, path: Path | str) -> Family:
    """`find_family`. Raises UserError that names the nearest families; `path` is the file with `model_type`."""
    if (family := find_family(model_type)) is not None:
        return family
    known = [name for each in _SIMPLEST_FIRST for name in (each.name, *each.aliases)]
    nearest = get_close_matches(str(model_type), known, n=3, cutoff=0.5)
    near = f", the nearest are {', '.join(nearest)}" if nearest else ""
    raise UserError(
        f"{path}: model_type = {model_type!r} is not supported{near}",
        hint=f"groundup models lists the {len(known)} that are",
    )


__all__ = ["FAMILIES", "Family", "find_family", "require_family"]
