"""groundup: build a language model from the ground up.

The folders, read from top to bottom, are the pipeline: see each one's own first lines.

    artifacts  the ground: folders that are complete or absent
    recipe     1 what we want          model      5 the transformer       train      10 learning
    plan       2 what it will cost     interop    6 foreign weights       finetune   11 teaching
    data       3 text                  generate   7 speaking              quantize   12 shrinking
    tokenizer  4 tokens                evaluate   8 measuring             serve      13 answering
                                                                          report     14 telling

Names below are imported when they are first used: `import groundup` alone is quick and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.model import Decoder as Decoder
    from groundup.model import Encoder as Encoder
    from groundup.model import EncoderDecoder as EncoderDecoder
    from groundup.quantize import open_model as open_model
    from groundup.recipe import ModelConfig as ModelConfig
    from groundup.tokenizer import Tokenizer as Tokenizer

_LAZY_IMPORTS = {
    "ModelConfig": "groundup.recipe",
    "Decoder": "groundup.model",
    "Encoder": "groundup.model",
    "EncoderDecoder": "groundup.model",
    "Tokenizer": "groundup.tokenizer",
    "open_model": "groundup.quantize",
}

__all__ = ["Decoder", "Encoder", "EncoderDecoder", "ModelConfig", "Tokenizer", "open_model"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'groundup' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_LAZY_IMPORTS[name]), name)
