"""Random small models of each family, one file for each file of src/groundup/interop/families.

`DRAWS` has a function for each `model_type`: from a random generator to the configuration of a small model. To add a family,
write its function below in the file of its group; tests/parity/test_random_families.py then compares twenty such models with
transformers in both directions.
"""

from collections.abc import Callable

from family_draws import (
    bart,
    bert,
    bloom,
    deepseek,
    ernie,
    falcon,
    gemma,
    glm,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    hyperclova,
    llama,
    llama_variants,
    mamba2,
    minicpm3,
    mixtral,
    modernbert,
    olmo,
    opt,
    phi,
    phi3,
    qwen_next,
    sigmoid_moe,
    stablelm,
    starcoder,
    t5,
    youtu,
)
from family_draws.draw import Draw, DrawnModel

DRAWS: dict[str, Callable[[Draw], DrawnModel]] = {
    **llama.DRAWS,
    **llama_variants.DRAWS,
    **olmo.DRAWS,
    **hyperclova.DRAWS,
    **phi3.DRAWS,
    **glm.DRAWS,
    **mixtral.DRAWS,
    **qwen_next.DRAWS,
    **ernie.DRAWS,
    **sigmoid_moe.DRAWS,
    **gpt_oss.DRAWS,
    **youtu.DRAWS,
    **minicpm3.DRAWS,
    **mamba2.DRAWS,
    **deepseek.DRAWS,
    **gemma.DRAWS,
    **gpt2.DRAWS,
    **gpt_neo.DRAWS,
    **gpt_neox.DRAWS,
    **gptj.DRAWS,
    **phi.DRAWS,
    **falcon.DRAWS,
    **stablelm.DRAWS,
    **starcoder.DRAWS,
    **opt.DRAWS,
    **bloom.DRAWS,
    **t5.DRAWS,
    **bart.DRAWS,
    **bert.DRAWS,
    **modernbert.DRAWS,
}

__all__ = ["DRAWS", "Draw", "DrawnModel"]
