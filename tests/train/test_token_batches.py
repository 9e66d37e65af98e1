"""Token batches: every token once an epoch, any step on any number of ranks, packing, source weights."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.plan.time.size_warmup import SizeWarmup
from groundup.recipe.train_config import Packing
from groundup.tokenizer import TokenShard
from groundup.tokenizer.token_shards import ShardWriter
from groundup.train.sequence_order import SourceMixture, feistel_permutation
from groundup.train.sequence_packing import best_fit
from groundup.train.token_batches import IGNORE_INDEX, SEQUENCE_PACKINGS, TokenBatches, make_batches


def write_shard(folder: Path, lengths: list[int], sources: list[str] | None = None, ends: bool = False) -> TokenShard:
    """Documents whose tokens count up through the whole shard, so that a token tells where it stood.

    `ends` puts the end of text in the last index of each; without it every token is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(folder, "train", vocab_size=70_000, tokenizer="test", end_of_text=0)
    ids = np.arange(1, sum(lengths) + 1)
    if ends:
        ids[np.cumsum(lengths) - 1] = 0
    writer.append(ids, lengths, sources or ["web"] * len(lengths), lengths)
    writer.commit(1)
    writer.finish()
    return TokenShard(folder / "train")


@pytest.fixture
def shard(tmp_path: Path) -> TokenShard:
    lengths = np.random.default_rng(0).integers(1, 60, 100).tolist()
    return write_shard(tmp_path, lengths, ["web", "books", "web", "code", "books"] * 20)


def predicted(batch: dict[str, torch.Tensor]) -> list[int]:
    labels = batch["labels"][:, 1:]
    return labels[labels != IGNORE_INDEX].tolist()


@pytest.mark.parametrize("length", [8, 31, 64])
def test_an_epoch_predicts_every_token_but_the_first_exactly_once(shard: TokenShard, length: int):
    batches = TokenBatches(shard, length, 1, seed=3)
    tokens = [token for step in range(batches.num_sequences) for token in predicted(batches.batch(step))]
    assert sorted(tokens) == list(range(2, shard.num_tokens + 1))
    assert tokens != sorted(tokens)


def test_epochs_have_different_orders(shard: TokenShard):
    batches = TokenBatches(shard, 32, 1, seed=3)
    n = batches.num_sequences
    first, second = ([index for _, index in batches.order(begin, n)] for begin in (0, n))
    assert sorted(first) == sorted(second) == list(range(n))
    assert first != second
    assert TokenBatches(shard, 32, 1, seed=4).order(0, 8) != batches.order(0, 8)


@pytest.mark.parametrize("packing", SEQUENCE_PACKINGS)
def test_the_global_batch_does_not_depend_on_the_ranks(shard: TokenShard, packing: Packing):
    options = {"packing": packing, "document_mask": True, "weights": {"web": 1.0, "code": 3.0}}
    full = TokenBatches(shard, 32, 12, 5, **options)
    for ranks, step in itertools.product((1, 2, 3, 12), (0, 7, 1000)):
        parts = [
            TokenBatches(shard, 32, 12, 5, rank=rank, num_ranks=ranks, **options).batch(step) for rank in range(ranks)
        ]
        for field, value in full.batch(step).items():
            assert torch.equal(value, torch.cat([part[field] for part in parts]))


def test_batches_cross_epoch_boundaries(shard: TokenShard):
    batches = TokenBatches(shard, 64, 5, seed=0)
    n = batches.num_sequences
    order = [index for _, index in batches.order(0, 10 * n)]
    assert order[13:18] == [index for _, index in batches.order(13, 5)]
    for epoch in range(10):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("packing", SEQUENCE_PACKINGS)
def test_document_ids_start_at_zero_in_each_sequence(tmp_path: Path, packing: Packing):
    lengths = np.random.default_rng(0).integers(2, 60, 100).tolist()
    shard = write_shard(tmp_path, lengths, ["web", "books", "web", "code", "books"] * 20, ends=True)
    for weights in (None, {"web": 1.0, "books": 1.0}):
        batches = TokenBatches(shard, 48, 4, 1, document_mask=True, weights=weights, packing=packing)
        batch = batches.batch(2)
        for row, labels, numbers in zip(
            *(batch[key].numpy() for key in ("tokens", "labels", "document_ids")), strict=True
        ):
            row = row[: np.flatnonzero(labels != IGNORE_INDEX)[-1] + 1]  # without the padding
            true = np.searchsorted(shard.document_offsets, row - 1, side="right") - 1
            for index in np.flatnonzero(row == 0):  # an end of text belongs to the document before it
                true[index] = true[index - 1] if index else -1
            changes = np.flatnonzero(np.diff(true, prepend=true[0]))
            expected = np.cumsum(np.isin(np.arange(len(row)), changes))
            assert numbers[: len(row)].tolist() == expected.tolist()
            assert set(numbers[len(row) :]) <= {expected[-1] + 1}


def test_weights_choose_the_sources_and_no_other_document_appears(shard: TokenShard):
    batches = TokenBatches(shard, 16, 64, 1, weights={"web": 1.0, "code": 3.0, "books": 0.0})
    names = list(shard.sources)
    rows = torch.cat([batches.batch(step)["tokens"] for step in range(64)]).numpy()
    documents = np.searchsorted(shard.document_offsets, rows - 1, side="right") - 1
    sources = np.asarray(shard.document_sources)[documents]
    assert (sources == sources[:, :1]).all()  # a sequence has one source
    ratios = np.bincount(sources[:, 0], minlength=3) / len(rows)
    assert ratios.tolist() == [0.25 if name == "web" else 0.75 if name == "code" else 0 for name in names]
    epochs = batches.step_stats(63)["epochs_by_source"]
    assert epochs["code"] > 3 * epochs["web"] > 0  # three times the share of a smaller source


def test_each_epoch_of_a_weighted_source_covers_it(shard: TokenShard):
    batches = TokenBatches(shard, 16, 8, 1, weights={"web": 1.0, "code": 1.0})
    tokens: dict[int, list[int]] = {0: [], 1: []}
    count = {0: 0, 1: 0}
    for step in range(400):
        batch = batches.batch(step)
        for row, (source, _) in enumerate(batches.order(8 * step, 8)):
            if count[source] < list(batches._sources.values())[source].count:
                labels = batch["labels"][row, 1:]
                tokens[source] += labels[labels != IGNORE_INDEX].tolist()
                count[source] += 1
    for source, name in enumerate(("web", "code")):
        chosen = np.flatnonzero(np.asarray(shard.document_sources) == list(shard.sources).index(name))
        expected = [t + 1 for d in chosen for t in range(shard.document_offsets[d], shard.document_offsets[d + 1])]
        assert sorted(tokens[source]) == expected[1:]


def test_best_fit_keeps_documents_whole_and_loses_none(shard: TokenShard):
    batches = TokenBatches(shard, 64, 1, seed=2, packing="best-fit", document_mask=True)
    found: list[int] = []
    padding = 0
    for step in range(batches.num_sequences):
        batch = batches.batch(step)
        tokens, labels, documents = (batch[name][0].numpy() for name in ("tokens", "labels", "document_ids"))
        labeled = labels != IGNORE_INDEX
        assert (labels[labeled] == tokens[labeled]).all()
        assert (tokens[~labeled] == shard.end_of_text).all()
        for number in np.unique(documents[labeled]):
            span = tokens[labeled & (documents == number)]
            document = np.searchsorted(shard.document_offsets, span[0] - 1, side="right") - 1
            assert span.tolist() == (shard.document(int(document))).tolist()
        found += tokens[labeled].tolist()
        padding += int((~labeled).sum())
    assert sorted(found) == list(range(1, shard.num_tokens + 1))
    assert padding < 0.1 * shard.num_tokens  # few and long documents; usual text has next to none


def test_best_fit_splits_only_documents_longer_than_a_sequence(tmp_path: Path):
    shard = write_shard(tmp_path, [100, 3, 64, 29, 1])
    batches = TokenBatches(shard, 32, 1, seed=2, packing="best-fit", shuffle=False)
    rows = [predicted(batches.batch(step)) for step in range(batches.num_sequences)]
    assert batches.num_sequences == 7
    assert sum(len(row) + 1 for row in rows) == 197


@pytest.mark.parametrize("packing", SEQUENCE_PACKINGS)
@pytest.mark.parametrize("weights", [None, {"web": 1.0, "code": 3.0}])
def test_step_stats_count_the_tokens_of_each_source(
    shard: TokenShard, packing: Packing, weights: dict[str, float] | None
):
    batches = TokenBatches(shard, 24, 6, 1, packing=packing, weights=weights)
    for step in (0, 5, 50):
        batch = batches.batch(step)
        stands = batch["tokens"][batch["tokens"] != shard.end_of_text].numpy()
        documents = np.searchsorted(shard.document_offsets, stands - 1, side="right") - 1
        counts = np.bincount(np.asarray(shard.document_sources)[documents], minlength=3).tolist()
        assert batches.step_stats(step)["tokens_by_source"] == dict(zip(shard.sources, counts, strict=True))
    n = batches.num_sequences
    assert batches.step_stats(2 * n - 1)["epoch"] == 12.0


def test_batch_warmup_loses_and_repeats_nothing(shard: TokenShard):
    grown = TokenBatches(
        shard, 32, 8, 3, initial_sequences=2, initial_length=8, batch_warmup_steps=6, document_mask=True
    )
    shapes = [tuple(grown.batch(step)["tokens"].shape) for step in range(8)]
    assert shapes == [(8, 8)] * 3 + [(8, 16)] * 3 + [(8, 32)] * 2
    full = TokenBatches(shard, 32, 1, 3)
    one_by_one = torch.cat([full.batch(step)["tokens"].flatten() for step in range(3 * 2 + 3 * 4 + 2 * 8)])
    assert torch.equal(torch.cat([grown.batch(step)["tokens"].flatten() for step in range(8)]), one_by_one)
    parts = [
        TokenBatches(
            shard, 32, 8, 3, rank=rank, num_ranks=2, initial_sequences=2, initial_length=8, batch_warmup_steps=6
        )
        for rank in range(2)
    ]
    for step in range(8):
        both = torch.cat([part.batch(step)["tokens"] for part in parts])
        assert torch.equal(both, grown.batch(step)["tokens"])


@given(doublings=st.integers(0, 6), steps=st.integers(0, 40), first=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_size_warmup_sums_up(doublings: int, steps: int, first: int):
    growth = SizeWarmup(first << doublings, first, steps)
    sizes = [growth.size_at(step) for step in range(60)]
    assert sizes == sorted(sizes)
    assert set(sizes) <= {first << n for n in range(doublings + 1)}
    assert sizes[steps:] == [growth.final] * (60 - steps)
    assert [growth.total_before(step) for step in range(60)] == [sum(sizes[:step]) for step in range(60)]


@given(lengths=st.lists(st.integers(1, 32), max_size=200))
@settings(max_examples=100, deadline=None)
def test_best_fit_never_overfills_and_is_near_the_bound(lengths: list[int]):
    sequence_of, count = best_fit(np.array(lengths, dtype=np.int64), 32)
    filled = np.bincount(sequence_of, weights=lengths, minlength=count) if lengths else np.zeros(0)
    assert (filled <= 32).all()
    assert (filled > 0).all()
    assert count <= 11 / 9 * max(-(-sum(lengths) // 32), 0) + sum(length > 16 for length in lengths) + 1


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_order_is_a_permutation(size: int, seed: int, epoch: int):
    assert sorted(feistel_permutation(np.arange(size), size, seed, epoch).tolist()) == list(range(size))


def test_the_order_is_close_to_uniform():
    size = 4096
    permuted = feistel_permutation(np.arange(size), size, 1, 0)
    assert abs(np.corrcoef(permuted[:-1], permuted[1:])[0, 1]) < 0.05
    assert abs(np.mean(permuted == np.arange(size)) * size - 1) < 6  # one fixed point is expected


@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6), number=st.integers(0, 20_000))
@settings(max_examples=50, deadline=None)
def test_mixture_counts_equal_its_sequences(weights: list[float], number: int):
    mixture = SourceMixture(weights, seed=3)
    sources, before = mixture.source_and_index(np.arange(number))
    assert np.bincount(sources, minlength=len(weights)).tolist() == mixture.counts(number).tolist()
    for source in range(len(weights)):
        assert before[sources == source].tolist() == list(range(int(mixture.counts(number)[source])))
    ratios = mixture.counts(4096 * 3) / (4096 * 3)
    assert np.abs(ratios - np.array(weights) / sum(weights)).max() <= 1 / 4096


def test_invalid_arguments_are_refused(shard: TokenShard, tmp_path: Path):
    with pytest.raises(UserError, match="fewer than one sequence of 100000"):
        TokenBatches(shard, 100_000, 4, 1)
    with pytest.raises(UserError, match="batch size = 0, expected at least 1"):
        TokenBatches(shard, 32, 0, 1)
    with pytest.raises(UserError, match="unknown option packin"):
        make_batches(range(100), 8, 2, packin="concat")
    with pytest.raises(UserError, match="10 sequences is not divisible by 4"):
        TokenBatches(shard, 32, 10, 1, num_ranks=4)
    with pytest.raises(UserError, match="3 sequences is not divisible by 4"):
        TokenBatches(shard, 32, 12, 1, num_ranks=4, initial_sequences=3, batch_warmup_steps=9)
    with pytest.raises(UserError, match=r"train\.initial_sequence_length\) = 12: 32 is not a power of two"):
        TokenBatches(shard, 32, 12, 1, initial_length=12, batch_warmup_steps=9)
    with pytest.raises(UserError, match="no source 'wiki'"):
        TokenBatches(shard, 32, 8, 1, weights={"wiki": 1.0})
    with pytest.raises(UserError, match="all weights are 0"):
        TokenBatches(shard, 32, 8, 1, weights={"web": 0.0})
    with pytest.raises(UserError, match="expected at least 0"):
        TokenBatches(shard, 32, 8, 1, weights={"web": -1.0})
