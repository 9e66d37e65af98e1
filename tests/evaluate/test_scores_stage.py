import json
from types import SimpleNamespace
from typing import Any

import pytest

from groundup.artifacts.fingerprint import canonical_json
from groundup.artifacts.machine import Machine
from groundup.evaluate.stage import run
from groundup.model import save_model
from groundup.recipe.evaluate_config import EvaluateConfig


@pytest.fixture
def inputs(trained, tokenizer, shards, tmp_path):
    save_model(trained, tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    return {"base": tmp_path / "base", "tokens": shards, "tokenizer": tmp_path / "base"}


def test_scores(inputs, tmp_path):
    settings = EvaluateConfig(max_tokens=2000, num_continuations=5, prompts=("The river", "The"), max_new_tokens=8)
    recipe: Any = SimpleNamespace(evaluate=settings, seed=3)
    machine = Machine(device="cpu", threads=1)
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
    metrics, again = (run(recipe, inputs, out, machine) for out in outs)
    assert metrics.pop("speed")["tokens_per_second"] > 0
    again.pop("speed")
    assert canonical_json(metrics) == canonical_json(again)
    assert (outs[0] / "documents.jsonl").read_bytes() == (outs[1] / "documents.jsonl").read_bytes()

    low, high = metrics["bits_per_byte_interval"]
    assert low < metrics["bits_per_byte"] < high
    assert metrics["bits_per_byte"] < metrics["baselines"]["bigram"] < metrics["baselines"]["unigram"]
    assert set(metrics["sources"]) == {"tales", "legends"}
    assert sum(metrics["mix"].values()) == pytest.approx(1)
    means = {name: row["bits_per_byte"] for name, row in metrics["sources"].items()}
    assert metrics["mix_bits_per_byte"] == pytest.approx(sum(metrics["mix"][name] * means[name] for name in means))
    assert metrics["not_scored"] == []
    assert [sample["prompt"] for sample in metrics["samples"]] == ["The river", "The"]
    assert all(sample["text"] for sample in metrics["samples"])
    rows = [json.loads(line) for line in (outs[0] / "documents.jsonl").read_text().splitlines()]
    assert sum(row["tokens"] for row in rows) == metrics["tokens"]
