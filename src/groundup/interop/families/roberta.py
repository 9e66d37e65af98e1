"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT, with positions that begin after the padding token's and another head.

Sources: Liu et al. 2019; Conneau et al. 2020; transformers 5, models/{roberta,xlm_roberta,camembert}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from groundup.interop.families.bert import (
    BERT,
    DEFAULTS,
    KEYS,
    TENSORS,
    masked_head_map,
    read_post_norm,
    write_post_norm,
)
from groundup.interop.families.family import ClassifierTensors, Json
from groundup.interop.weight_map import TensorMap, map_offset_positions
from groundup.recipe import ModelConfig

PADDING_ID = 1
OFFSET = PADDING_ID + 1
"""Position of the first token; the rows before it belong to padding."""

POSITIONS = "roberta.embeddings.position_embeddings.weight"
HEAD = {
    "head.dense.": "lm_head.dense.",
    "head.norm.": "lm_head.layer_norm.",
    "head.head.weight": "lm_head.decoder.weight",
}
ENCODER = {
    native: foreign.replace("bert.", "roberta.", 1) for native, foreign in TENSORS.items() if "cls." not in foreign
}


def _read(json: Json) -> Json:
    length = json["max_position_embeddings"] - OFFSET
    return read_post_norm(json) | {"masked_head_activation": "gelu", "context_length": length}


def _write(config: ModelConfig) -> Json:
    return write_post_norm(config) | {"max_position_embeddings": config.context_length + OFFSET}


def _weight_map(config: ModelConfig, names: Sequence[str]) -> Iterator[TensorMap]:
    yield map_offset_positions("embedding.positions.weight", POSITIONS, OFFSET)
    others = [name for name in names if name != "embedding.positions.weight"]
    yield from masked_head_map(ENCODER | HEAD, "lm_head.bias", "lm_head.decoder.bias")(config, others)


ROBERTA = replace(
    BERT,
    name="roberta",
    architecture="RobertaForMaskedLM",
    headless_architecture="RobertaModel",
    keys={native: foreign for native, foreign in KEYS.items() if native != "context_length"},
    defaults={**DEFAULTS, "pad_token_id": PADDING_ID},
    fixed={**BERT.fixed, "pad_token_id": PADDING_ID},
    read=_read,
    write=_write,
    weight_map=_weight_map,
    prefix="roberta.",
    embedding="roberta.embeddings.word_embeddings.weight",
    head="lm_head.decoder.weight",
    masked_head="lm_head.dense.weight",
    text_classifier=ClassifierTensors(dense="classifier.dense.", output="classifier.out_proj."),
    ignored=("roberta.pooler.*", "*.position_ids", "lm_head.decoder.bias"),
)
XLM_ROBERTA = replace(
    ROBERTA, name="xlm-roberta", architecture="XLMRobertaForMaskedLM", headless_architecture="XLMRobertaModel"
)
CAMEMBERT = replace(
    ROBERTA, name="camembert", architecture="CamembertForMaskedLM", headless_architecture="CamembertModel"
)
