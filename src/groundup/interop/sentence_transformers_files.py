"""The files by which sentence-transformers weights the tokens of a text as this project does.

Format: modules.json names the parts, each with a folder: a transformer, WordWeights and Pooling (sentence-transformers 2 to 6).
"""

import json
from pathlib import Path

from torch import nn

from groundup.model.serialization import save_token_weights
from groundup.model.token_weights import get_token_weights
from groundup.tokenizer import Tokenizer

MODULES = {"Transformer": "", "WordWeights": "1_WordWeights", "Pooling": "2_Pooling"}


def write_token_weights(model: nn.Module, tokenizer: Tokenizer, out: Path) -> list[Path]:
    """Write the weights of tokens of `model`, if it has any, for `open_model` and for sentence-transformers.

    Returns the files written.
    """
    if (weights := get_token_weights(model)) is None:
        return []
    config = model.config
    width, length = int(config.hidden_size), int(config.context_length)  # type: ignore[union-attr, arg-type]
    names = [tokenizer.backend.id_to_token(token) or f"<unused {token}>" for token in range(len(weights))]
    table = dict(zip(names, weights.tolist(), strict=True))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(MODULES.items())
    ]
    contents = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": length, "do_lower_case": False},
        "1_WordWeights/config.json": {"vocab": names, "word_weights": table, "unknown_word_weight": 1.0},
        "2_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    }
    files = save_token_weights(model, out)
    for name, content in contents.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        files.append(out / name)
    return files
