"""[export]: the final model in a format for other software."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob


class ExportConfig(BaseConfig):
    format: Literal["huggingface", "gguf"] = knob(
        "huggingface", "huggingface: folder for transformers; gguf: file for llama.cpp"
    )
    dtype: Literal["float32", "bfloat16", "float16", "q8_0", "q4_0"] = knob(
        "float32", "data type of the weights; q8_0 and q4_0 (8 and 4 bits, round to nearest) only in gguf"
    )
