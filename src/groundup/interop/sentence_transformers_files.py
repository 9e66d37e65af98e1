"""The files by which sentence-transformers makes one vector of a text: how tokens are pooled, and their weights.

Format: modules.json names the parts, each with a folder: a transformer, WordWeights and Pooling (sentence-transformers 2 to 6).
"""

import json
from pathlib import Path

from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.model.serialization import save_token_weights
from groundup.model.token_weights import get_token_weights
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

MODULES_FILE = "modules.json"
POOLING_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
READ_PARTS = ("Transformer", "Pooling", "Normalize", "WordWeights")
MODULES = {"Transformer": "", "WordWeights": "1_WordWeights", "Pooling": "2_Pooling"}


def write_token_weights(model: nn.Module, tokenizer: Tokenizer | None, out: Path) -> list[Path]:
    """Write the weights of tokens of `model`, if it has any, or the pooling of the first token, for `open_model` and for
    sentence-transformers.

    Returns the files written.
    """
    weights, config = get_token_weights(model), model.config
    if weights is None:
        return _write_cls_pooling(config, out) if config.pooling == "cls" else []  # type: ignore[union-attr]
    if tokenizer is None:
        return []
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


def _write_cls_pooling(config: ModelConfig, out: Path) -> list[Path]:
    parts = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (name, path) in enumerate(parts.items())
    ]
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_cls_token": True}
    pooling["pooling_mode_mean_tokens"] = False
    files = []
    for name, content in {MODULES_FILE: modules, "1_Pooling/config.json": pooling}.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        files.append(out / name)
    return files


def read_pooling(folder: Path) -> str | None:
    """The pooling that modules.json in `folder` asks for, mean or cls; None without such a file.

    Normalize changes no cosine similarity, and `embed_texts` always normalizes. Raises UserError for other parts, such as
    Dense, and for other poolings, such as max.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    try:
        parts = {
            part["type"].rsplit(".", 1)[-1]: part["path"] for part in json.loads((folder / MODULES_FILE).read_text())
        }
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        raise UserError(f"{folder / MODULES_FILE}: damaged, expected a list of parts with type and path") from None
    hint = f"without {MODULES_FILE} the encoder opens alone, and its embeddings are the mean over the tokens"
    for name in parts:
        if name not in READ_PARTS:
            raise UserError(
                f"{folder / MODULES_FILE}: part {name} is not supported, expected one of {', '.join(READ_PARTS)}",
                hint=hint,
            )
    if "Pooling" not in parts:
        return None
    path = folder / parts["Pooling"] / "config.json"
    settings = read_json_object(path)
    modes = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    mode = settings.get("pooling_mode")  # a newer spelling: mean, cls
    found = [POOLING_FLAGS.get(key, key) for key in modes] or ([mode] if isinstance(mode, str) else ["mean"])
    if len(found) > 1 or found[0] not in POOLING_FLAGS.values():
        raise UserError(f"{path}: pooling {' and '.join(found)} is not supported, expected mean or cls", hint=hint)
    return found[0]
