"""ELECTRA: BERT with narrow embeddings and a head of their width.

The discriminator's head, which tells replaced tokens from original ones, is left out: its model is read as an encoder of texts.

Sources: Clark et al. 2020; transformers 5, models/electra.
"""

from dataclasses import replace

from groundup.interop.families.bert import BERT, TENSORS, read_post_norm, write_post_norm
from groundup.interop.families.family import ClassifierTensors, Json
from groundup.interop.weight_map import prefix_map
from groundup.recipe import ModelConfig

HEAD = {
    "embedding.projection.": "electra.embeddings_project.",
    "head.dense.": "generator_predictions.dense.",
    "head.norm.": "generator_predictions.LayerNorm.",
    "head.head.": "generator_lm_head.",
}
ENCODER = {
    native: foreign.replace("bert.", "electra.", 1) for native, foreign in TENSORS.items() if "cls." not in foreign
}


def _read(json: Json) -> Json:
    size = json["embedding_size"]
    narrow = None if size == json["hidden_size"] else size
    return read_post_norm(json) | {"masked_head_activation": "gelu", "embedding_size": narrow}


def _write(config: ModelConfig) -> Json:
    return write_post_norm(config) | {"embedding_size": config.embedding_size or config.hidden_size}


ELECTRA = replace(
    BERT,
    name="electra",
    architecture="ElectraForMaskedLM",
    headless_architecture="ElectraModel",
    defaults={**BERT.defaults, "embedding_size": 128},
    read=_read,
    write=_write,
    weight_map=prefix_map(ENCODER | HEAD),
    prefix="electra.",
    embedding="electra.embeddings.word_embeddings.weight",
    head="generator_lm_head.weight",
    masked_head="generator_predictions.dense.weight",
    text_classifier=ClassifierTensors(dense="classifier.dense.", output="classifier.out_proj.", activation="gelu"),
    ignored=("discriminator_predictions.*", "*.position_ids"),
)
