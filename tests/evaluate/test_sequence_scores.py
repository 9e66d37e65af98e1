"""BLEU, chrF and ROUGE-L with their intervals, and the pairs of a file."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.evaluate.sequence_scores import read_pairs, score_pairs, sequence_intervals, sequence_scores
from groundup.model import build_model
from groundup.recipe import ModelConfig

REFERENCES = [
    "Der Hund läuft schnell über die Straße.", "Guten Morgen!", "Datei 7 öffnen", "Es kostet 3,50 Euro (ohne Steuer).",
]  # fmt: skip
TEXTS = [
    "Der Hund läuft über die Straße.", "Guten Abend!", "Datei 7 öffnen", "Es kostet 3,5 Euro, ohne die Steuer .",
]  # fmt: skip


def test_scores_of_translations_and_summaries():
    found = sequence_scores(TEXTS, REFERENCES)
    assert found["bleu"] == pytest.approx(30.507678231977568, abs=1e-6)
    assert found["chrf"] == pytest.approx(65.8553094409142, abs=1e-6)
    # 2 common words of 4 and 3: precision 2/4, recall 2/3.
    assert sequence_scores(["the cat sat down"], ["the cat ran"])["rouge_l"] == pytest.approx(100 * 4 / 7)


def test_ends_of_the_scale():
    assert sequence_scores(REFERENCES, REFERENCES) == pytest.approx({"bleu": 100, "chrf": 100, "rouge_l": 100})
    assert sequence_scores([""] * 4, REFERENCES) == {"bleu": 0, "chrf": 0, "rouge_l": 0}


def test_intervals_contain_the_scores_and_repeat():
    scores, intervals = sequence_scores(TEXTS, REFERENCES), sequence_intervals(TEXTS, REFERENCES)
    assert intervals == sequence_intervals(TEXTS, REFERENCES)
    for name, (low, high) in intervals.items():
        assert 0 <= low <= scores[name] <= high <= 100
    assert set(sequence_intervals(TEXTS[:1], REFERENCES[:1]).values()) == {None}


def test_model_writes_the_texts(tokenizer):
    """An encoder-decoder; a decoder's text follows the input."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "context_length": 320,
    }
    model = build_model(ModelConfig(architecture="encoder_decoder", **shape)).eval()
    found = score_pairs(model, tokenizer, [("The river", "The stone"), ("saw the", "went")], Progress())
    assert found["pairs"] == 2
    assert found["copying"] == sequence_scores(["The river", "saw the"], ["The stone", "went"])
    assert {"bleu", "chrf", "rouge_l", "bleu_interval"} <= found.keys()


def test_pairs_of_a_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('﻿{"source": "a", "target": "b\u2028c"}\n\n', encoding="utf-8")
    assert read_pairs(path) == [("a", "b\u2028c")]
    for text, message in (("", "no pairs"), ('{"source": "a"}', "line 1: .*expected an object"), ("{", "line 1")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_pairs(path)
