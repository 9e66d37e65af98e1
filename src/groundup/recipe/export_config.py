"""[export]: the chat model in the layout that other software reads."""

from typing import Literal

from groundup.recipe.base_config import BaseConfig, knob


class ExportConfig(BaseConfig):
    format: Literal["huggingface", "gguf"] = knob(
        "huggingface", "a Hugging Face folder, or a GGUF file for llama.cpp"
    )
    dtype: Literal["float32", "bfloat16", "float16", "q8_0", "q4_0"] = knob(
        "float32", "of the stored weights; q8_0 and q4_0 (8 and 4 bits, rounded to nearest): gguf only"
    )
