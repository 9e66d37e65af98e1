"""BLEU and chrF: equal to sacrebleu 2.6."""

import pytest

from groundup.evaluate.translation_scores import bleu, chrf, tokenize_words

REFERENCES = [
    "Der Hund läuft schnell über die Straße.", "Guten Morgen!", "Datei 7 öffnen", "Es kostet 3,50 Euro (ohne Steuer).",
]  # fmt: skip
TEXTS = [
    "Der Hund läuft über die Straße.", "Guten Abend!", "Datei 7 öffnen", "Es kostet 3,5 Euro, ohne die Steuer .",
]  # fmt: skip
SHORT = (["ein rotes Haus am See", "ja"], ["ein Haus am roten See", "nein"])
SACREBLEU = {
    "bleu": 30.507678231977568,
    "chrf": 65.8553094409142,
    "short_bleu": 24.274588585366175,
    "short_chrf": 40.19472519984056,
}
"""corpus_bleu(TEXTS, [REFERENCES]).score, corpus_chrf(...).score; the same for SHORT."""


def test_scores_equal_sacrebleu():
    assert bleu(TEXTS, REFERENCES) == pytest.approx(SACREBLEU["bleu"], abs=1e-6)
    assert chrf(TEXTS, REFERENCES) == pytest.approx(SACREBLEU["chrf"], abs=1e-6)
    assert bleu(*SHORT) == pytest.approx(SACREBLEU["short_bleu"], abs=1e-6)
    assert chrf(*SHORT) == pytest.approx(SACREBLEU["short_chrf"], abs=1e-6)


def test_ends_of_the_scale():
    assert bleu(REFERENCES, REFERENCES) == pytest.approx(100)
    assert chrf(REFERENCES, REFERENCES) == pytest.approx(100)
    for texts in (["", "", "", ""], ["xyz"] * 4):
        assert bleu(texts, REFERENCES) == 0
    assert chrf(["", "", "", ""], REFERENCES) == 0
    assert tokenize_words("3,50 Euro (gut).") == ["3,50", "Euro", "(", "gut", ")", "."]
