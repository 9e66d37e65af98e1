"""Language measures, beside slow obvious versions and models that are made to have them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.artifacts.measure_rows import measure_rows
from groundup.artifacts.progress import Progress
from groundup.evaluate import sample_validation_documents, score_documents
from groundup.evaluate.continuations import score_continuations
from groundup.evaluate.language_measures import language_scores, measure_language
from groundup.evaluate.language_measures.calibration_error import calibration_error, score_calibration
from groundup.evaluate.language_measures.linear_probe import (
    WEIGHT_DECAY,
    cross_validate,
    fit_logistic_regression,
    stratified_folds,
)
from groundup.evaluate.language_measures.memorization import draw_passages, longest_overlap, score_memorization
from groundup.evaluate.language_measures.needle_in_context import score_needles
from groundup.evaluate.language_measures.sample_diversity import diversity, longest_loop
from groundup.evaluate.likelihood import ScoredDocument
from groundup.evaluate.trace import SuffixArray
from groundup.generate import GREEDY, generate
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import TokenShard


class LookupModel(Decoder):
    """Predicts by a function of the tokens so far: logits (T V) of a row of tokens."""

    def __init__(self, vocab_size: int, predict, context_length: int = 160):
        super().__init__(
            ModelConfig(
                vocab_size=vocab_size, hidden_size=8, num_layers=1, num_heads=2, context_length=context_length,
                position_embedding="alibi",
            )
        )  # fmt: skip
        self.predict = predict

    def hidden_states(self, tokens, **_):  # type: ignore[override]
        return torch.stack([self.predict(row.tolist()) for row in tokens])

    def logits(self, hidden):  # type: ignore[override]
        return hidden


def copying(vocab_size: int, ids: list[int], width: int = 8):
    """Predicts what comes after the last `width` tokens in `ids`; token 0 where they are not in it."""
    after = {tuple(ids[end - width : end]): ids[end] for end in range(width, len(ids))}

    def predict(row: list[int]) -> torch.Tensor:
        likeliest = [after.get(tuple(row[max(0, end - width) : end]), 0) for end in range(1, len(row) + 1)]
        return 20 * F.one_hot(torch.tensor(likeliest), vocab_size).float()

    return predict


def induction(vocab_size: int, reach: int):
    """Predicts what came after the last two tokens at their place before, at most `reach` tokens away."""

    def predict(row: list[int]) -> torch.Tensor:
        logits = torch.zeros(len(row), vocab_size)
        for end in range(2, len(row)):
            for place in range(end - 1, max(1, end - reach), -1):
                if row[place - 1 : place + 1] == row[end - 1 : end + 1]:
                    logits[end, row[place + 1]] = 10
                    break
        return logits

    return predict


class RandomDocuments:
    """A shard of 20 random documents, in which eight tokens are followed by one token only."""

    def __init__(self, seed: int):
        self.documents = np.random.default_rng(seed).integers(1, 50, (20, 100))
        self.document_lengths = [100] * 20

    def document(self, index: int) -> np.ndarray:
        return self.documents[index]


def slow_calibration_error(confidences, is_right):
    error = 0.0
    for index in range(15):
        members = [
            t for t, p in enumerate(confidences) if index / 15 <= p < (index + 1) / 15 or (p == 1 and index == 14)
        ]
        if members:
            mean = sum(confidences[t] for t in members) / len(members)
            accuracy = sum(is_right[t] for t in members) / len(members)
            error += len(members) / len(confidences) * abs(mean - accuracy)
    return error


def test_calibration_error_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    confidences = [*generator.uniform(size=500).tolist(), 1.0]
    is_right = (generator.uniform(size=501) < 0.4).tolist()
    found = calibration_error(confidences, is_right, [index // 20 for index in range(501)])
    assert found["error"] == pytest.approx(slow_calibration_error(confidences, is_right))
    assert found["interval"][0] > 0.1
    assert sum(row["tokens"] for row in found["bins"]) == 501
    assert calibration_error(confidences, is_right, [7] * 501)["interval"] is None


@pytest.mark.parametrize(("documents", "shift"), [(4, 0.0), (30, 0.0), (4, 0.2), (30, 0.2)])
def test_interval_of_the_calibration_error_covers(documents, shift):
    """Documents differ in how often the model is right; the true error is `shift`."""
    generator = np.random.default_rng(documents)
    covered = 0
    for _ in range(60):
        offsets = np.repeat(generator.normal(0, 0.05, documents), 50)
        confidences = generator.uniform(0.3, 0.7, documents * 50)
        is_right = generator.uniform(size=documents * 50) < confidences - shift + offsets
        low, high = calibration_error(confidences, is_right, np.repeat(np.arange(documents), 50).tolist())["interval"]
        covered += low <= shift <= high
    assert covered >= 54


def test_a_uniform_model_of_uniform_tokens_is_calibrated():
    uniform = LookupModel(50, lambda row: torch.zeros(len(row), 50))
    generator = np.random.default_rng(0)
    documents = [ScoredDocument(generator.integers(0, 50, 200), 1) for _ in range(20)]
    found = score_calibration(uniform, documents)
    assert found["interval"][0] == 0
    assert found["error"] < 0.02
    assert found["tokens"] == 20 * 199
    certain = LookupModel(50, lambda row: 50 * F.one_hot(torch.tensor(row), 50).float())
    assert score_calibration(certain, documents)["error"] == pytest.approx(0.98, abs=0.01)


def test_diversity_is_that_of_the_definition():
    samples = np.random.default_rng(0).integers(0, 4, (5, 40)).tolist()
    found = diversity(samples)
    for n in (1, 2, 3):
        grams = [tuple(sample[begin : begin + n]) for sample in samples for begin in range(41 - n)]
        assert found[f"distinct_{n}"] == len(set(grams)) / len(grams)
    repeated = 0
    for sample in samples:
        for begin in range(37):
            repeated += sample[begin : begin + 4] in [sample[other : other + 4] for other in range(begin)]
    assert found["repeated_4grams"] == pytest.approx(repeated / (5 * 37))
    low, high = found["repeated_4grams_interval"]
    assert low < found["repeated_4grams"] < high
    assert diversity([[1], []])["repeated_4grams"] is None


def test_longest_loop_is_that_of_all_stretches():
    generator = np.random.default_rng(1)
    for _ in range(30):
        row = generator.integers(0, 3, 18).tolist()
        longest = 0
        for begin in range(18):
            for end in range(begin + 1, 19):
                part = row[begin:end]
                if any(part[period:] == part[:-period] for period in range(1, len(part) // 2 + 1)):
                    longest = max(longest, len(part))
        assert longest_loop(row) == longest


def test_a_model_that_copies_its_training_text_memorizes_all_of_it():
    train, held_out = (RandomDocuments(seed) for seed in (0, 1))
    ids = [id for document in train.documents for id in document]
    found = score_memorization(LookupModel(50, copying(50, ids)), train, held_out, seed=0, progress=Progress())  # type: ignore[arg-type]
    assert found is not None
    assert found["train"]["share"] == 1
    assert found["held_out"]["share"] == 0
    assert found["held_out"]["passages"] == 20


def test_memorized_is_what_greedy_decoding_gives(shards, trained):
    torch.manual_seed(0)
    passages = [(prompt[-8:], ending[:3]) for prompt, ending in draw_passages(TokenShard(shards / "train"), 0)[:30]]
    written = [
        generate(trained, prompt.tolist(), max_tokens=3, sampling=GREEDY) == list(ending) for prompt, ending in passages
    ]
    assert [score.is_greedy for score in score_continuations(trained, passages)] == written
    assert 0 < sum(written) < 30


def test_longest_overlap_with_training_text(shards, tmp_path):
    pytest.importorskip("pydivsufsort")
    train = TokenShard(shards / "train")
    index = SuffixArray.open(train, tmp_path / "index")
    copied = train.document(3)[5:25].tolist()
    assert longest_overlap(index, [[0, 0, 0, *copied, 0, 0]]) == 20
    assert longest_overlap(index, []) == 0


def test_needle_is_found_as_far_as_the_model_reads(tokenizer):
    text = np.random.default_rng(0).integers(10, tokenizer.vocab_size, 2000).tolist()
    size = tokenizer.vocab_size
    everywhere = score_needles(LookupModel(size, induction(size, 160)), tokenizer, [text], seed=0, progress=Progress())
    nearby = score_needles(LookupModel(size, induction(size, 60)), tokenizer, [text], seed=0, progress=Progress())
    assert everywhere is not None
    assert nearby is not None
    assert everywhere["accuracy"] == 1
    by_depth = {cell["depth"]: cell for cell in nearby["cells"] if cell["length"] == 160}
    assert by_depth[1.0]["accuracy"] == 1
    assert by_depth[1.0]["advantage"] > 5
    assert by_depth[0.0]["accuracy"] < 0.6
    assert abs(by_depth[0.0]["advantage"]) < 3
    assert (
        score_needles(
            LookupModel(size, induction(size, 9), context_length=24), tokenizer, [text], seed=0, progress=Progress()
        )
        is None
    )


def test_logistic_regression_is_at_its_minimum():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (60,), generator=generator)
    weights, bias = (tensor.requires_grad_() for tensor in fit_logistic_regression(inputs, labels, 3))
    loss = F.cross_entropy(inputs @ weights + bias, labels, reduction="sum") + WEIGHT_DECAY / 2 * (weights**2).sum()
    loss.backward()
    assert weights.grad is not None
    assert bias.grad is not None
    assert weights.grad.abs().max() < 1e-3
    assert bias.grad.abs().max() < 1e-3


def test_probe_reads_labels_that_are_there_and_no_others():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    vectors = torch.randn(120, 8, generator=generator)
    folds = stratified_folds(labels, 0)
    counts = torch.stack([torch.bincount(labels[folds == fold], minlength=3) for fold in range(5)])
    assert counts.unique().tolist() == [8]
    assert cross_validate(vectors, labels, folds).mean() < 0.5  # noise
    vectors[:, :3] += 4 * F.one_hot(labels, 3)
    assert cross_validate(vectors, labels, folds).mean() > 0.95


def test_all_measures_of_a_model(shards, tokenizer, trained):
    validation = TokenShard(shards / "validation")
    documents = sample_validation_documents(validation, tokenizer, max_tokens=3000, seed=0)
    texts = [tokenizer.decode(list(document.ids[1:])) for document in documents]
    options = {"seed": 0, "progress": Progress(), "shards": (TokenShard(shards / "train"), validation)}
    found, again = (measure_language(trained, tokenizer, documents, **options) for _ in range(2))
    assert found == again
    assert found["calibration"]["interval"] is not None
    assert found["samples"]["greedy"]["repeated_4grams"] >= 0
    languages = language_scores(texts, score_documents(trained, documents))
    assert sum(row["documents"] for row in languages.values()) == len(documents)
    names = [row[0] for row in measure_rows({"languages": languages} | found)]
    assert "calibration error" in names
    assert "repeated 4-grams, greedy" in names
    assert list(measure_rows({})) == []


def test_a_probe_needs_two_labels(tokenizer, trained):
    from groundup.evaluate.language_measures import probe_labels

    with pytest.raises(UserError, match="1 labels"):
        probe_labels(trained, tokenizer, [("a text", "a")] * 20)
    examples = [(f"The {'river' if index % 2 else 'stone'} went.", str(index % 2)) for index in range(20)]
    assert probe_labels(trained, tokenizer, examples)["accuracy"] > 0.9
