"""Contrastive fine-tuning: the loss against a slow version and sentence-transformers, batches, passages, and learning."""

import json
import math
import random

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.finetune import finetune_embeddings
from groundup.finetune.contrastive import (
    ContrastiveBatches,
    FixedPairs,
    choose_token_weights,
    contrastive_loss,
    info_nce,
)
from groundup.finetune.training_data.passage_pairs import PassagePairs
from groundup.generate import embed_texts
from groundup.interop import export, open_model
from groundup.model import build_model, save_model
from groundup.model.token_weights import get_token_weights
from groundup.recipe import ModelConfig
from groundup.tokenizer import TokenShard, write_token_shard
from groundup.tokenizer.tokenizer_training import train_bpe

MULTIPLE_NEGATIVES_RANKING_LOSS = 14.12612436248798
"""Of sentence-transformers 6.2.0, with scale = 20, on `vectors()`."""


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.arange(30, dtype=torch.float64)
    return (grid * 1.7).sin().reshape(6, 5), (grid * 2.3).cos().reshape(6, 5)


def encoder(architecture: str = "encoder", vocab_size: int = 260):
    torch.manual_seed(0)
    shape = {"vocab_size": vocab_size, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}
    if architecture == "encoder":  # as ModernBERT
        shape |= {"norm": "layernorm", "feed_forward": "geglu", "embedding_norm": True, "tie_embeddings": True}
    return build_model(ModelConfig(architecture=architecture, **shape)).eval()


def test_loss_equals_a_slow_version_and_sentence_transformers():
    queries, texts = vectors()
    total = 0.0
    for index, query in enumerate(queries.tolist()):
        cosines = []
        for text in texts.tolist():
            product = sum(a * b for a, b in zip(query, text, strict=True))
            cosines.append(product / math.sqrt(sum(a * a for a in query)) / math.sqrt(sum(b * b for b in text)))
        total -= math.log(math.exp(cosines[index] / 0.05) / sum(math.exp(cosine / 0.05) for cosine in cosines)) / 6
    loss = info_nce(queries, texts, 0.05, torch.arange(6)).item()
    assert loss == pytest.approx(total, rel=1e-9)
    assert loss == pytest.approx(MULTIPLE_NEGATIVES_RANKING_LOSS, rel=1e-5)


def test_a_repeated_text_is_no_negative():
    queries, texts = vectors()
    texts[3] = texts[0]
    others = {0: [0, 1, 2, 4, 5], 3: [1, 2, 3, 4, 5]}
    groups = torch.tensor([0, 1, 2, 0, 4, 5])
    similarity = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T / 0.05
    expected = [
        torch.logsumexp(similarity[row, others.get(row, list(range(6)))], 0) - similarity[row, row] for row in range(6)
    ]
    assert info_nce(queries, texts, 0.05, groups).item() == pytest.approx(torch.stack(expected).mean().item())


def test_a_batch_is_one_row_of_pairs_and_a_function_of_the_step():
    pairs = [(f"query {index}", f"text {index % 5}") for index in range(9)]
    tokenizer, model = train_bpe([], 260), encoder()
    batches = ContrastiveBatches(FixedPairs(pairs), model, tokenizer, batch_tokens=60, seed=1)
    assert (batches.num_rows, batches.sequence_length, batches.batch_rows) == (9, 13, 4)
    batch = batches.batch(2)
    assert all(torch.equal(batch[name], batches.batch(2)[name]) for name in batch)
    assert {len(tensor) for tensor in batch.values()} == {1}
    shown = []
    for step in range(2):
        tokens = batches.batch(step)
        for row, length in zip(tokens["query_tokens"][0], tokens["query_lengths"][0].tolist(), strict=True):
            shown.append(tokenizer.decode(row[:length].tolist()))
    assert len(set(shown[:8])) == 8, "no pair twice in an epoch"
    texts = [pairs[int(query.split()[1])][1] for query in shown[:4]]
    groups = batches.batch(0)["groups"][0].tolist()
    assert [[a == b for b in texts] for a in texts] == [[a == b for b in groups] for a in groups]
    assert [len(each["groups"][0]) for each in batches.first_epoch()] == [4, 4], "one pair alone has no negatives"


def test_loss_reads_the_same_vectors_as_embed_texts():
    pairs = [("a", "what is a?"), ("longer query", "b"), ("c", "c")]
    tokenizer, model = train_bpe([], 260), encoder()
    batch = ContrastiveBatches(FixedPairs(pairs), model, tokenizer, 1000, 0).first_epoch()[0]
    queries, texts = (embed_texts(model, tokenizer, list(side)) for side in zip(*pairs, strict=True))
    expected = info_nce(queries, texts, 0.1, torch.arange(3))
    assert contrastive_loss(model, batch, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_passages_are_cut_out_of_one_document(tmp_path):
    tokenizer = train_bpe([], 260)
    documents = [letter * 100 + letter.upper() * 100 for letter in "abc"] + ["too short"]
    write_token_shard(tmp_path / "train", documents, tokenizer)
    pairs = PassagePairs(TokenShard(tmp_path / "train"), tokenizer, half_tokens=32, seed=0)
    assert len(pairs) == 9, "three passages of 64 of each document; the last 8 tokens are too few"
    whole = 0
    for index in range(9):
        for epoch in range(4):
            query, text = pairs.pair(index, epoch)
            assert {letter.lower() for letter in query + text} == {"abc"[index // 3]}
            assert 8 <= len(query) <= 32
            assert len(query) + len(text) == 64 or (len(text) == 64 and query in text)
            whole += len(text) == 64
    assert 0 < whole < 9, "few spans stay in their text"
    assert pairs.pair(4, 2) == pairs.pair(4, 2) != pairs.pair(4, 3)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_embeddings_learn_pairs_that_share_no_word(method):
    """The text is the query in capitals: bytes that have nothing in common before training."""
    words = [a + b + c for a in "bdfg" for b in "aeiou" for c in "nprst"]
    pairs = [(word, word.upper()) for word in words]
    validation, train = pairs[::6], [pair for index, pair in enumerate(pairs) if index % 6]
    options = {"batch_tokens": 400, "learning_rate": 1e-2, "epochs": 20, "lora_rank": 16}
    machine = Machine(threads=1, device="cpu")
    model, tokenizer = encoder(), train_bpe([], 260)
    metrics = finetune_embeddings(model, tokenizer, train, validation, method=method, machine=machine, **options)
    retrieval = metrics["retrieval"]
    assert retrieval["before"] < 0.3
    assert retrieval["accuracy"] > 0.8
    assert metrics["loss"]["validation_end"] < metrics["loss"]["validation_start"]
    head = sum(weight.numel() for weight in model.head.parameters())
    assert (metrics["parameters"]["trained"] == metrics["parameters"]["all"] - head) == (method == "full")


@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_a_second_call_resumes(architecture, tmp_path):
    """The head has no gradients, so that its optimizer has no state to restore."""
    pairs = [(str(number), str(number + 1)) for number in range(8)]
    machine = Machine(threads=1, device="cpu", checkpoint_every_seconds=0.0)
    options = {"batch_tokens": 20, "epochs": 1, "machine": machine, "folder": tmp_path}
    models = [encoder(architecture) for _ in range(2)]
    results = [finetune_embeddings(model, train_bpe([], 260), pairs, pairs, **options) for model in models]
    assert results[0]["retrieval"] == results[1]["retrieval"]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(weight.requires_grad for weight in models[0].parameters())


FILLERS = ["the", "of", "and", "in", "to", "a", "is", "it"]


def keyword_pairs() -> list[tuple[str, str]]:
    """Queries and texts that share one word, among others that all texts have."""
    noise = random.Random(0)
    words = [first + rest for first in "bdfgklmn" for rest in ("oko", "iri", "unu", "ava", "elle")]
    side = lambda word: " ".join([*noise.sample(FILLERS, 6), word])  # noqa: E731
    return [(side(word), side(word)) for word in words]


def test_frequent_tokens_count_less_where_more_is_found_so(tmp_path):
    pairs = keyword_pairs()
    tokenizer, model = train_bpe([" ".join(pair) for pair in pairs] * 3, 330), encoder(vocab_size=330)
    equal = embed_texts(model, tokenizer, [pairs[0][0]])
    assert choose_token_weights(model, tokenizer, FixedPairs(pairs))
    weights = get_token_weights(model)
    assert weights is not None
    counts = torch.zeros(330)
    for text in [text for pair in pairs for text in pair]:
        counts += torch.bincount(torch.tensor(tokenizer.encode(text)), minlength=330)
    assert torch.allclose(weights, 1e-3 / (1e-3 + counts / counts.sum()))
    ids = torch.tensor([tokenizer.encode(pairs[0][0])])
    with torch.no_grad():
        states: torch.Tensor = model.hidden_states(ids)  # type: ignore[operator]
        mean = (states[0] * weights[ids[0], None]).sum(dim=0)
    vectors = embed_texts(model, tokenizer, [pairs[0][0], "elle"])
    assert torch.allclose(vectors[0], mean / mean.norm(), atol=1e-6)
    assert not torch.allclose(vectors[0], equal[0], atol=1e-2)

    save_model(model, tmp_path / "native")
    tokenizer.save(tmp_path / "native")
    export(model, tokenizer, tmp_path / "exported", format="huggingface")
    for folder in ("native", "exported"):
        opened = open_model(tmp_path / folder, device="cpu")
        assert torch.allclose(embed_texts(*opened, [pairs[0][0], "elle"]), vectors, atol=1e-5)
    modules = json.loads((tmp_path / "exported" / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_WordWeights", "2_Pooling"]
    table = json.loads((tmp_path / "exported" / "1_WordWeights" / "config.json").read_text())
    assert [table["word_weights"][name] for name in table["vocab"]] == weights.tolist()
    assert table["vocab"].index("Ġthe") == tokenizer.encode(" the")[0]
    (tmp_path / "native" / "token_weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"token_weights\.safetensors: damaged"):
        open_model(tmp_path / "native", device="cpu")


def test_tokens_count_alike_where_that_finds_as_much():
    pairs = [(word * 3, word * 4) for word in ("ab", "cd", "ef", "gh")]
    model = encoder()
    assert not choose_token_weights(model, train_bpe([], 260), FixedPairs(pairs))
    assert get_token_weights(model) is None


def test_one_pair_has_no_negatives():
    with pytest.raises(UserError, match="1 pairs to train on, expected at least 2"):
        finetune_embeddings(encoder(), train_bpe([], 260), [("a", "b")])
