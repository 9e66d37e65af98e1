"""Wishes of people with data of their own, from `groundup init` to an answer: the scores of benchmarks/wishes.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from groundup.report.quality_checks import strongest_baseline, word_search

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wishes.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wishes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wishes"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


wishes = load_script()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("wish", wishes.WISHES, ids=lambda wish: wish.name)
def test_wish(wish: Any, tmp_path: Path):
    try:
        row = wishes.grant(wish, tmp_path / "wish")
    except wishes.NotAvailable as reason:
        pytest.skip(f"input not available: {reason}")
    metrics, warnings = row["metrics"], " ".join(row["warnings"])
    scores, chat = metrics.get("scores", {}), metrics.get("chat", {})
    assert row["sample"].strip()
    assert not row["is_degenerate"] or "repeat themselves" in warnings
    if "bits_per_byte" in scores and (baseline := strongest_baseline(scores)):
        assert scores["bits_per_byte"] < baseline[1] or "no better than" in warnings
    if translation := chat.get("translation"):
        assert translation["bleu"] > translation["copying"]["bleu"]
    if retrieval := chat.get("retrieval"):
        words = max(word_search(retrieval).values())
        assert retrieval["accuracy"] > 0.75 * words, "as good as search by words, within the noise of 200 passages"
        assert retrieval["accuracy"] > words or "search by words" in warnings
        assert "attachment" in row["sample"], "the right neighbour first"
    if recall := chat.get("recall"):
        assert 2 * recall["recalled"] > recall["questions"] or "training questions as trained" in warnings
