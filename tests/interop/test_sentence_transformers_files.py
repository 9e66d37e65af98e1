"""Folders of sentence-transformers: the pooling that they ask for."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from groundup.artifacts.errors import UserError
from groundup.generate.text_embedding import embed_batch
from groundup.interop import export_huggingface, load_huggingface

TEXTS = [[5, 7, 9, 11, 3], [8, 4]]


def write_folder(folder: Path, pooling: dict, *others: str) -> transformers.BertModel:  # type: ignore[type-arg]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling"} | {name: f"2_{name}" for name in others}
    parts = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, **pooling}))
    return model


@torch.no_grad()
@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("newer", [False, True])
def test_embeddings_are_pooled_as_the_folder_says(mode: str, newer: bool, tmp_path: Path):
    flags = {"pooling_mode_mean_tokens": mode == "mean", "pooling_mode_cls_token": mode == "cls"}
    model = write_folder(tmp_path, {"pooling_mode": mode} if newer else flags, "Normalize")
    states = [model(torch.tensor([ids])).last_hidden_state[0] for ids in TEXTS]
    expected = torch.stack([state[0] if mode == "cls" else state.mean(dim=0) for state in states])
    vectors = embed_batch(load_huggingface(tmp_path), TEXTS)
    torch.testing.assert_close(vectors, torch.nn.functional.normalize(expected, dim=-1))


def test_an_export_keeps_the_first_token(tmp_path: Path):
    write_folder(tmp_path / "in", {"pooling_mode_cls_token": True})
    model = load_huggingface(tmp_path / "in")
    export_huggingface(model, None, tmp_path / "out")
    torch.testing.assert_close(embed_batch(load_huggingface(tmp_path / "out"), TEXTS), embed_batch(model, TEXTS))


def test_what_would_give_other_vectors_is_refused(tmp_path: Path):
    write_folder(tmp_path / "dense", {"pooling_mode_mean_tokens": True}, "Dense")
    with pytest.raises(UserError, match="part Dense is not supported"):
        load_huggingface(tmp_path / "dense")
    write_folder(tmp_path / "max", {"pooling_mode_max_tokens": True})
    with pytest.raises(UserError, match="pooling pooling_mode_max_tokens is not supported"):
        load_huggingface(tmp_path / "max")
