"""Hugging Face folders against transformers: dtypes, shards, dynamic RoPE, and the table of all families.

The families themselves are compared in test_random_families.py.
"""

import sys
from pathlib import Path

import torch
import transformers

from groundup.interop import export_huggingface, load_huggingface

sys.path.insert(0, str(Path(__file__).parent))
from family_draws import DRAWS, Draw, DrawnModel
from test_random_families import DRAWN_MODELS, LIMIT, build_reference, difference, logits


def test_dynamic_rope_beyond_the_original_length(tmp_path: Path):
    drawn = DRAWS["llama"](Draw(0))
    scaling = {"rope_type": "dynamic", "factor": 3.0}
    fields = drawn.config | {"max_position_embeddings": 24, "rope_scaling": scaling}
    reference = build_reference(DrawnModel(fields))
    reference.save_pretrained(tmp_path / "theirs")
    ours = load_huggingface(tmp_path / "theirs")
    assert difference(logits(ours), logits(reference)) < LIMIT
    export_huggingface(ours, None, tmp_path / "ours")
    reopened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert difference(logits(ours), logits(reopened)) < LIMIT


def test_bfloat16_import_has_equal_logits(tmp_path: Path):
    drawn = DRAWS["gemma2"](Draw(0))
    reference = build_reference(drawn).bfloat16()
    reference.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.bfloat16}
    exact = logits(build_reference(drawn))
    assert difference(logits(ours).float(), exact) < 2 * difference(logits(reference).float(), exact)


def test_sharded_export_opens_in_transformers(tmp_path: Path):
    fields = DRAWS["qwen3"](Draw(0)).config | {"num_hidden_layers": 3, "hidden_size": 60}
    reference = build_reference(DrawnModel(fields))
    reference.save_pretrained(tmp_path / "reference", max_shard_size="30KB")
    ours = load_huggingface(tmp_path / "reference")
    files = export_huggingface(ours, None, tmp_path / "ours", max_shard_bytes=30_000)
    assert sum(file.suffix == ".safetensors" for file in files) > 2
    reopened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert difference(logits(reopened), logits(reference)) == 0


def test_parity_table_is_complete_and_below_the_limit():
    book = (Path(__file__).parents[2] / "book" / "parity.md").read_text(encoding="utf-8")
    families, _ = book.split("GGUF files in float32")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in families.splitlines() if line[:1] == "|"]
    assert {name for name, *_ in rows[2:]} == set(DRAWS)
    for _, draws, *figures in rows[2:]:
        assert int(draws) >= DRAWN_MODELS
        assert all(float(figure) < LIMIT for figure in figures)
