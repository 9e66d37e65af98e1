"""Random small models of each family, one file for each file of src/groundup/interop/families.

`DRAWS` has a function for each `model_type`: from a random generator to the configuration of a small model. To add a family,
write its function below in the file of its group; tests/parity/test_random_families.py then compares twenty such models with
transformers in both directions.
"""

from collections.abc import Callable

from family_draws import (
    bert,
    deepseek,
    ernie,
    gemma,
    gpt2,
    gpt_neox,
    gpt_oss,
    llama,
    llama_variants,
    mixtral,
    modernbert,
    olmo,
    sigmoid_moe,
    t5,
    youtu,
)
from family_draws.draw import Draw, DrawnModel

DRAWS: dict[str, Callable[[Draw], DrawnModel]] = {
    **llama.DRAWS,
    **llama_variants.DRAWS,
    **olmo.DRAWS,
    **mixtral.DRAWS,
    **ernie.DRAWS,
    **sigmoid_moe.DRAWS,
    **gpt_oss.DRAWS,
    **youtu.DRAWS,
    **deepseek.DRAWS,
    **gemma.DRAWS,
    **gpt2.DRAWS,
    **gpt_neox.DRAWS,
    **t5.DRAWS,
    **bert.DRAWS,
    **modernbert.DRAWS,
}

__all__ = ["DRAWS", "Draw", "DrawnModel"]
