"""Suffix arrays and spans beside a slow search of every position."""

from pathlib import Path

import numpy as np
import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.evaluate.trace import suffix_array
from groundup.evaluate.trace.run_tracer import RunTracer
from groundup.evaluate.trace.suffix_array import SuffixArray, bytes_to_sort, sort_suffixes
from groundup.evaluate.trace.training_documents import TrainingDocuments
from groundup.evaluate.trace.verbatim_spans import covered_fraction, find_spans, match_lengths
from groundup.tokenizer import Tokenizer, TokenShard, write_token_shard
from groundup.tokenizer.token_shards import ShardWriter


def write_random_shard(folder: Path, vocab_size: int, documents: int, letters: int) -> TokenShard:
    """Documents over few different ids, so that n-grams repeat; ids up to the end of the vocabulary."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    alphabet = generator.choice(vocab_size - 1, letters, replace=False) + 1
    texts = [np.append(generator.choice(alphabet, generator.integers(1, 400)), 0) for _ in range(documents)]
    texts += texts[:2]  # a second epoch
    with ShardWriter(folder, "train", vocab_size=vocab_size, tokenizer="t", end_of_text=0) as writer:
        writer.append(np.concatenate(texts), list(map(len, texts)), ["a"] * len(texts), [1] * len(texts))
        writer.commit(1)
        writer.finish()
    return TokenShard(folder / "train")


def slow_positions(tokens: list[int], ids: list[int]) -> list[int]:
    return [begin for begin in range(len(tokens) - len(ids) + 1) if tokens[begin : begin + len(ids)] == ids]


@pytest.mark.parametrize("vocab_size", [200, 60_000, 200_000])
@pytest.mark.parametrize("letters", [3, 50])
def test_counts_equal_a_slow_search(vocab_size, letters, tmp_path):
    shard = write_random_shard(tmp_path, vocab_size, 12, letters)
    tokens = shard.tokens.tolist()
    memory = max(1_000 * bytes_to_sort(vocab_size), 10_000)
    index = SuffixArray.open(shard, tmp_path / "index", memory=memory)
    assert len(list((tmp_path / "index").glob("*.sa"))) > 1, "several parts"
    generator = np.random.default_rng(1)
    for length in (1, 2, 3, 7, 150):
        for _ in range(5):
            begin = int(generator.integers(len(tokens) - length))
            wanted = tokens[begin : begin + length]
            if 0 in wanted[:-1]:
                continue  # across documents: parts may end there
            expected = slow_positions(tokens, wanted)
            assert index.count(wanted) == len(expected) > 0
            assert sorted(index.positions(wanted)) == expected
            assert set(index.positions(wanted, 1)) <= set(expected)
    assert index.count([vocab_size - 1] * 3) == index.count([1 << 40]) == index.count([]) == 0


@pytest.mark.parametrize(("size", "kinds"), [(1, 1), (2, 1), (500, 5), (2_000, 700), (70_000, 66_000)])
def test_order_of_suffixes(size, kinds):
    """Tokens of one, two and three bytes."""
    generator = np.random.default_rng(2)
    tokens = (generator.permutation(np.arange(size) % kinds) * 3).astype(np.uint32)
    listed = tokens.tolist()
    longest = size if size < 1_000 else 20
    expected = sorted(range(size), key=lambda begin: listed[begin : begin + longest])
    assert sort_suffixes(tokens, 200_000).tolist() == expected


def test_longest_matches_equal_a_slow_search(tmp_path):
    shard = write_random_shard(tmp_path, 1_000, 5, 4)
    index = SuffixArray.open(shard, tmp_path / "index", memory=10_000)
    tokens = shard.tokens.tolist()
    alphabet = sorted(set(tokens) - {0})
    generator = np.random.default_rng(3)
    document = shard.document(3)[:-1].tolist()
    query = generator.choice(alphabet, 30).tolist() + document[5:50] + [999] + generator.choice(alphabet, 20).tolist()

    def slow(begin: int) -> int:
        length = 0
        while begin + length < len(query) and slow_positions(tokens, query[begin : begin + length + 1]):
            length += 1
        return length

    assert match_lengths(index, query) == [slow(begin) for begin in range(len(query))]


def test_index_is_reused_continued_and_built_anew(tmp_path, monkeypatch):
    shard = write_random_shard(tmp_path / "one", 500, 10, 9)
    folder = tmp_path / "index"
    sort, sorted_parts = suffix_array.sort_suffixes, []

    def sort_or_die(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
        sorted_parts.append(len(tokens))
        if len(sorted_parts) == 2:
            raise KeyboardInterrupt
        return sort(tokens, vocab_size)

    monkeypatch.setattr(suffix_array, "sort_suffixes", sort_or_die)
    with pytest.raises(KeyboardInterrupt):
        SuffixArray.open(shard, folder, memory=10_000)
    index = SuffixArray.open(shard, folder, memory=10_000)
    assert sum(sorted_parts) == shard.num_tokens + sorted_parts[1], "continued: the part of the kill is done again"
    assert index.count(shard.document(0)[:5]) >= 1
    SuffixArray.open(shard, folder, memory=10**9)
    assert sum(sorted_parts) == shard.num_tokens + sorted_parts[1], "used as it is"
    other = write_random_shard(tmp_path / "two", 501, 3, 5)
    assert SuffixArray.open(other, folder).count(other.document(1)) >= 1
    (folder / "00000.sa").write_bytes(b"1234")
    with pytest.raises(UserError, match="4 bytes, expected"):
        SuffixArray.open(other, folder)
    with pytest.raises(UserError, match="memory of 10 bytes"):
        SuffixArray.open(other, tmp_path / "small", memory=10)


TEXTS = [
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "A tale: it was the best of times and the winter of despair, said the old man by the harbour.",
    "def main(argument):\n    return argument + 1\n",
    "鐵達尼號於一九一二年四月十四日深夜撞上冰山沉沒在北大西洋。",
]  # fmt: skip


@pytest.fixture(scope="module")
def tracer(tokenizer: Tokenizer, tmp_path_factory) -> RunTracer:
    folder = tmp_path_factory.mktemp("shard")
    shard = write_token_shard(folder / "train", TEXTS * 2, tokenizer, "books")
    return RunTracer(SuffixArray.open(shard, folder / "index"), tokenizer, TrainingDocuments(shard, tokenizer, None))


def test_index_follows_documents_in_another_order(tmp_path):
    """The sidecars of both shards are equal."""
    texts = [[1, 2, 3, 0], [4, 5, 6, 0]]
    for documents in (texts, texts[::-1]):
        with ShardWriter(tmp_path, "train", vocab_size=10, tokenizer="t", end_of_text=0) as writer:
            writer.append(np.concatenate(documents), [4, 4], ["a", "a"], [1, 1])
            writer.commit(1)
            writer.finish()
        index = SuffixArray.open(TokenShard(tmp_path / "train"), tmp_path / "index")
        assert index.positions([4, 5]) == [np.concatenate(documents).tolist().index(4)]
        (tmp_path / "train.json").unlink()


def test_spans_are_the_longest_and_end_with_words(tracer):
    text = "He wrote it was the best of times and the wintergreen of despair, said the old man. The end"
    trace = tracer.trace(text, min_words=4)
    assert [text[span.begin : span.end].strip(" ,") for span in trace.spans] == [
        "it was the best of times and the", "of despair, said the old man",
    ]  # fmt: skip
    first = trace.spans[0]
    assert (first.count, first.num_documents, first.documents[0].source) == (2, 2, "books")
    assert first.documents[0].before.endswith("A tale:")
    assert first.documents[0].span.strip() == first.text.strip()
    assert 0.5 < trace.coverage < 0.9
    assert tracer.trace("nothing of this is there").spans == []


def test_beginning_of_a_text_matches_the_middle_of_a_sentence(tracer):
    """Without a space before it a word has other tokens."""
    text = "the worst of times, it was the age of wisdom."
    (span,) = find_spans(tracer.index, tracer.tokenizer, text, 5)
    assert text[span.begin : span.end] == text
    assert covered_fraction([span], text) == 1.0


def test_spans_in_a_script_without_spaces(tracer):
    (span,) = tracer.trace("據說鐵達尼號於一九一二年四月十四日深夜撞上了", min_words=6).spans
    assert span.text == "鐵達尼號於一九一二年四月十四日深夜撞上"


def test_counts_and_items(tracer):
    assert tracer.count("it was the best of times") == 4
    assert tracer.count("it was the best of wisdom") == 0
    items = [("seen", TEXTS[1]), ("new", "Whales are mammals that live in the sea and sing to each other at night.")]
    seen, new = tracer.overlaps(items, Progress())
    assert (seen.fraction, seen.is_dirty) == (1.0, True)
    assert (new.fraction, new.is_dirty, new.longest) == (0.0, False, "")
