import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress
from groundup.data import dedup_estimate, deduplicate, find_duplicates
from groundup.data.dedup import document_keys
from groundup.data.dedup.document_keys import DedupKeyTable, DedupKeyWriter
from groundup.data.dedup.duplicates import NEAR, DedupDecisions, cluster_stats, decide_duplicates, largest_clusters
from groundup.data.dedup.minhash import candidate_probability, union_near
from groundup.data.dedup.passages import (
    flag_repeats,
    ngram_keys,
    paragraph_keys,
    remove_ngrams,
    remove_paragraphs,
    repeat_flags,
)
from groundup.data.dedup.union_find import UnionFind, repeated_pairs
from groundup.data.dedup_estimate import (
    BYTES_PER_DOCUMENT,
    FILE_BYTES_PER_DOCUMENT,
    PROGRAM_BYTES,
    num_passes,
    peak_bytes,
)
from groundup.plan import plan_table
from groundup.recipe.data_config import DataConfig, FileKind, MinHashDedupConfig

# ---- clusters


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_clusters_are_connected_components_with_first_member_as_root(pairs: list[tuple[int, int]]):
    clusters = UnionFind(20)
    clusters.union(numpy.array([a for a, _ in pairs], dtype=int), numpy.array([b for _, b in pairs], dtype=int))
    sets = [{number} for number in range(20)]
    for a, b in pairs:
        joined = next(s for s in sets if a in s) | next(s for s in sets if b in s)
        sets = [s for s in sets if not s & joined] + [joined]
    expected = {number: min(s) for s in sets for number in s}
    assert clusters.roots().tolist() == [expected[number] for number in range(20)]


@given(st.lists(st.integers(0, 9), max_size=60))
def test_cluster_stats_and_largest_clusters(owners: list[int]):
    members = {owner: [place for place, o in enumerate(owners) if o == owner] for owner in owners}
    roots = numpy.array([members[owner][0] for owner in owners], dtype=numpy.int64)
    decisions = DedupDecisions(numpy.zeros(len(owners), dtype=numpy.uint8), roots)
    clusters = sorted((m for m in members.values() if len(m) > 1), key=lambda m: (-len(m), m[0]))
    assert largest_clusters(decisions, 3) == [{"size": len(m), "members": m[:3]} for m in clusters[:3]]
    sizes: dict[str, int] = {}
    for cluster in clusters:
        power = next(str(2**n) for n in range(1, 9) if 2**n >= len(cluster))
        sizes[power] = sizes.get(power, 0) + 1
    counts = cluster_stats(decisions)
    assert (counts["clusters"], counts["documents"]) == (len(clusters), sum(map(len, clusters)))
    assert counts["sizes"] == sizes


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4))
def test_repeated_pairs_in_one_and_several_parts(values: list[int], parts: int):
    keys = numpy.array(values, dtype=numpy.uint64)
    numbers = numpy.arange(len(values), dtype=numpy.int64)
    expected = {(values.index(value), place) for place, value in enumerate(values) if values.index(value) != place}
    found: set[tuple[int, int]] = set()
    for part in range(parts):
        in_part = keys % numpy.uint64(parts) == part  # any partition of the keys
        firsts, others = repeated_pairs(numbers[in_part], keys[in_part])
        found |= set(zip(firsts.tolist(), others.tolist(), strict=True))
    assert found == expected


@given(st.integers(0, 10**9), st.floats(0.5e9, 64e9))
def test_passes_keep_within_the_limit(documents: int, limit: float):
    try:
        parts = num_passes(documents, documents, limit)
    except UserError:
        assert BYTES_PER_DOCUMENT * documents + 5e6 > limit - PROGRAM_BYTES
        return
    assert peak_bytes(documents, documents, parts) <= limit
    assert parts == 1 or peak_bytes(documents, documents, parts - 1) > limit


# ---- MinHash against brute force


def ngrams(text: str, size: int) -> set[str]:
    words = text.split()
    return {" ".join(words[start : start + size]) for start in range(max(len(words) - size + 1, 1))}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def corpus(count: int, seed: int) -> list[str]:
    """Texts, half of them copies of another with some words changed."""
    chance = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(400)]
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and chance.random() < 0.5:
            text = list(chance.choice(texts))
            for _ in range(chance.choice([0, 1, 2, 3, 5, 8, 12])):
                text[chance.randrange(len(text))] = chance.choice(vocabulary)
        else:
            text = chance.choices(vocabulary, k=150)
        texts.append(text)
    return [" ".join(text) for text in texts]


def key_table(texts: list[str], folder: Path, knobs: MinHashDedupConfig) -> DedupKeyTable:
    """Keys in two units."""
    half = len(texts) // 2
    for unit, part in enumerate((texts[:half], texts[half:])):
        writer = DedupKeyWriter(knobs, 1, folder / f"{unit:05d}")
        for text in part:
            writer.add(hash(text) & 0xFFFF, text)
        writer.close()
    return DedupKeyTable(folder, {0: half, 1: len(texts) - half})


def near_pairs(texts: list[str], tmp_path: Path, knobs: MinHashDedupConfig, parts: int = 1) -> set[tuple[int, int]]:
    """Pairs of texts in one cluster."""
    clusters = UnionFind(len(texts))
    union_near(clusters, key_table(texts, tmp_path, knobs), knobs, parts, Progress())
    roots = clusters.roots()
    return {(a, b) for b in range(len(texts)) for a in range(b) if roots[a] == roots[b]}


def test_texts_shorter_than_an_ngram_match_only_equal_texts(tmp_path: Path):
    texts = ["one two", "One, two!", "two three", "???", "!", ""]
    assert near_pairs(texts, tmp_path, MinHashDedupConfig()) == {(0, 1)}


def test_recall_and_precision_against_brute_force(tmp_path: Path):
    texts, knobs = corpus(120, seed=3), MinHashDedupConfig()
    sets = [ngrams(text, knobs.ngram_size) for text in texts]
    found = near_pairs(texts, tmp_path, knobs)
    similarity = {(a, b): jaccard(sets[a], sets[b]) for b in range(len(texts)) for a in range(b)}
    near = {pair for pair, value in similarity.items() if value >= 0.8}
    assert len(near) > 20
    assert (
        len(found & near) / len(near) >= candidate_probability(0.8, knobs) - 0.05
    )  # 0.92 of the pairs at 0.8 exactly, more above
    assert all(similarity[pair] > 0.2 for pair in found), "chains join pairs that differ, but never strangers"


def test_threshold_removes_less_similar_pairs(tmp_path: Path):
    texts = corpus(120, seed=4)
    loose = near_pairs(texts, tmp_path / "a", MinHashDedupConfig()) if (tmp_path / "a").mkdir() is None else set()
    strict = (
        near_pairs(texts, tmp_path / "b", MinHashDedupConfig(threshold=0.9))
        if (tmp_path / "b").mkdir() is None
        else set()
    )
    sets = [ngrams(text, 5) for text in texts]
    assert strict < loose
    assert min(jaccard(sets[a], sets[b]) for a, b in strict) > min(jaccard(sets[a], sets[b]) for a, b in loose)


def test_several_passes_find_the_same_pairs(tmp_path: Path):
    texts = corpus(80, seed=5)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert near_pairs(texts, tmp_path / "a", MinHashDedupConfig()) == near_pairs(
        texts, tmp_path / "b", MinHashDedupConfig(), parts=3
    )


def test_candidate_probability():
    knobs = MinHashDedupConfig()
    assert candidate_probability((1 / knobs.num_bands) ** (1 / knobs.hashes_per_band), knobs) == pytest.approx(
        0.645, abs=0.01
    )
    assert candidate_probability(0.8, knobs) == pytest.approx(
        0.924, abs=0.001
    )  # as datatrove states it for these parameters
    assert all(a < b for a, b in pairwise(candidate_probability(s / 10, knobs) for s in range(11)))


# ---- passages


def test_repeated_paragraph_is_removed(tmp_path: Path):
    shared = "this paragraph of nine words is in both texts"
    texts = [f"first text\n\n{shared}\n\nits end", f"second text\n{shared}\nshort\nshort\n\n{shared.upper()}", shared]
    found = repeat_flags_of([paragraph_keys(text, 8) for text in texts], tmp_path)
    assert [remove_paragraphs(text, mark) for text, mark in zip(texts, found, strict=True)] == [
        texts[0],
        f"second text\nshort\nshort\n\n{shared.upper()}",
        "",
    ]


def repeat_flags_of(keys: list[numpy.ndarray], folder: Path, parts: int = 1) -> list[numpy.ndarray]:
    """Flags for the keys of some texts in two units."""
    half = len(keys) // 2
    for unit, part in enumerate((keys[:half], keys[half:])):
        numpy.concatenate([numpy.zeros(0, dtype=numpy.uint64), *part]).tofile(folder / f"{unit}.ngrams")
        numpy.array([len(row) for row in part]).tofile(folder / f"{unit}.ngrams.lengths")
    flag_repeats([folder / "0.ngrams", folder / "1.ngrams"], parts)
    flags = (folder / "0.ngrams.repeats").stat()
    assert 512 * flags.st_blocks >= flags.st_size, "a hole, which a full disk cannot fill when the map is written"
    return [row for unit in (0, 1) for row in repeat_flags(folder / str(unit), "ngrams") or ()]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=30), min_size=2, max_size=6), st.integers(1, 3))
def test_repeated_ngrams_equal_brute_force(
    tmp_path_factory: pytest.TempPathFactory, words: list[list[str]], parts: int
):
    length = 4
    texts = [" ".join(text) for text in words]
    found = repeat_flags_of([ngram_keys(text, length) for text in texts], tmp_path_factory.mktemp("ngrams"), parts)
    seen: set[tuple[str, ...]] = set()
    for text, mark in zip(words, found, strict=True):
        removed = [False] * len(text)
        for start in range(len(text) - length + 1):
            run = tuple(text[start : start + length])
            if run in seen:
                removed[start : start + length] = [True] * length
            seen.add(run)
        expected = [word for word, drop in zip(text, removed, strict=True) if not drop]
        assert remove_ngrams(" ".join(text), mark, length).split() == expected


def test_removal_keeps_the_layout(tmp_path: Path, prose: Callable[..., str]):
    passage = " ".join(prose(1, 80).split())
    texts = [f"{passage}", f"Before it.\n\n{passage}\n\nBehind  it."]
    found = repeat_flags_of([ngram_keys(text, 50) for text in texts], tmp_path)
    assert remove_ngrams(texts[0], found[0], 50) == texts[0]
    assert remove_ngrams(texts[1], found[1], 50).startswith("Before it.\n\n")
    assert "river" not in remove_ngrams(texts[1], found[1], 50)


# ---- memory


def test_too_low_memory_limit_is_an_error():
    assert num_passes(10**7, 10**9, 2e9) > 10
    with pytest.raises(UserError, match=r"memory_gigabytes = 2: deduplication of 100,000,000 documents needs 3\.2"):
        num_passes(10**8, 10**8, 2e9)


def test_chunked_keys_equal_unchunked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Units of many chunks give the same keys as units of one."""
    texts = corpus(90, seed=6)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    some, parts = numpy.array([3, 44, 45, 89]), [(row, part) for row in range(15) for part in range(2)]
    unchunked = key_table(texts, tmp_path / "a", MinHashDedupConfig(threshold=0.1))
    expected = [unchunked.read_row(row, part, 2) for row, part in parts]
    monkeypatch.setattr(document_keys, "CHUNK_DOCUMENTS", 7)
    monkeypatch.setattr(document_keys, "BATCH_CHARACTERS", 5_000)
    chunked = key_table(texts, tmp_path / "b", MinHashDedupConfig(threshold=0.1))
    for (row, part), (numbers, found) in zip(parts, expected, strict=True):
        same_numbers, same = chunked.read_row(row, part, 2)
        assert numpy.array_equal(numbers, same_numbers)
        assert numpy.array_equal(found, same)
    assert numpy.array_equal(unchunked.signatures(some), chunked.signatures(some))


def test_plan_shows_deduplication_memory(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b"x" * 2_000_000)
    section = DataConfig.model_validate({
        "sources": [
            {"name": "here", "kind": "jsonl", "path": str(tmp_path / "*.jsonl")},
            {"name": "there", "kind": "web", "path": "commoncrawl://CC-MAIN-2024-10/warc"},
        ],
    })  # fmt: skip
    machine = Machine(cache_dir=tmp_path / "cache")
    found = dedup_estimate.estimate_dedup(section, machine)
    assert found == {
        "documents": 1000,
        "peak_bytes": peak_bytes(1000, 1000, 1),
        "limit_bytes": 4e9,
        "passes": 1,
        "unknown_sources": ["there"],
    }
    facts = {"name": "x", "deduplication": found}
    assert plan_table.format_plan(facts).startswith(
        "deduplication  0.35 GB of 4 GB for about 1,000 documents, 1 pass; without there, not downloaded yet"
    )
    with pytest.raises(UserError, match="memory_gigabytes"):
        dedup_estimate.estimate_dedup(section.model_copy(update={"memory_gigabytes": 0.3}), machine)


# ---- scripts without spaces, chains, signs


def random_text(alphabet: str, length: int, generator: random.Random) -> str:
    return "".join(generator.choice(alphabet) for _ in range(length))


@pytest.mark.parametrize("first", [0x4E00, 0x3041, 0x0E01], ids=["Chinese", "Japanese", "Thai"])
def test_near_duplicates_in_scripts_without_spaces(first: int):
    generator = random.Random(1)
    alphabet = "".join(map(chr, range(first, first + 46)))
    texts: list[str] = []
    for _ in range(50):
        text = random_text(alphabet, 600, generator)
        texts += [text, text[:200] + "。" + text[210:]]
    assert find_duplicates(texts) == [index - index % 2 for index in range(100)]


def test_chain_of_drifting_documents_keeps_its_ends():
    generator = random.Random(2)
    words = [f"word{generator.randrange(10**6)}" for _ in range(400 + 30 * 20)]
    texts = [" ".join(words[20 * step : 20 * step + 400]) for step in range(30)]
    found = find_duplicates(texts)
    kept = sorted(set(found))
    assert 5 <= len(kept) <= 15, "neither one document nor all"
    for index, original in enumerate(found):
        overlap = 400 - 20 * (index - original)
        assert overlap / (800 - overlap) > 0.4, "each dropped document is similar to a kept one"
    assert deduplicate(texts) == [texts[index] for index in kept]
    assert find_duplicates([*texts, texts[kept[1]]])[-1] == kept[1], "an exact copy of a kept document"
    assert len(set(find_duplicates(texts, threshold=0.7))) >= len(kept)


def test_chain_in_files_is_decided_as_in_memory(tmp_path: Path):
    generator = random.Random(3)
    words = [f"word{generator.randrange(10**6)}" for _ in range(1_000)]
    texts = [" ".join(words[20 * step : 20 * step + 400]) for step in range(30)]
    config = MinHashDedupConfig()
    writer = DedupKeyWriter(config, 0, tmp_path / "00000")
    for text in texts:
        writer.add(document_keys.text_key(text), text)
    writer.close()
    table = DedupKeyTable(tmp_path, {0: len(texts)})
    expected = [index != original for index, original in enumerate(find_duplicates(texts))]
    for parts in (1, 3):
        assert (decide_duplicates(table, len(texts), True, config, parts).codes == NEAR).tolist() == expected


def test_exact_key_tells_signs_and_vowels():
    names = ["C", "C++", "C#", "5%", "5", "a+b", "a*b", "कि", "की", "क", "กา", "กี"]
    assert len({document_keys.text_key(f"{name} is one.") for name in names}) == len(names)
    assert document_keys.text_key("„So“, he — said!") == document_keys.text_key("so he said")
    assert document_keys.code_key("x = -1\n") == document_keys.code_key("x=-1") != document_keys.code_key("x = 1")


def test_passages_of_scripts_without_spaces():
    text = random_text("".join(map(chr, range(0x4E00, 0x4F00))), 60, random.Random(4))
    assert len(ngram_keys(text, 50)) == 11
    repeated = numpy.zeros(11, dtype=bool)
    repeated[0] = True
    assert remove_ngrams(text, repeated, 50) == text[50:]
    assert paragraph_keys(text, 8)[0] != 0


def test_every_kind_of_source_is_planned():
    """`plan` of a recipe with kind = "pdf" ended with a KeyError."""
    assert set(get_args(FileKind)) == set(FILE_BYTES_PER_DOCUMENT)
