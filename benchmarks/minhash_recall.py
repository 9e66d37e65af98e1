"""Recall and precision of MinHash against the exact similarity of all pairs of documents.

    python benchmarks/minhash_recall.py --out book/minhash.md 'books:texts/*.txt' 'web:crawl/*.warc.gz' 'text:mail/*.txt'

Each argument is KIND:GLOB of real documents, read by the readers (HTML by resiliparse). Similarity is Jaccard's over word
5-grams, computed for every pair that can reach 0.5. The reference is the banding formula.
"""

import argparse
import glob
import itertools
import os
import sys
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import numpy
from data_pipeline import similar_pairs

from groundup.artifacts.machine import processor_name
from groundup.data.dedup.document_keys import NO_KEY, band_keys
from groundup.data.dedup.minhash import candidate_probability
from groundup.data.document import Document
from groundup.data.document_reader import read_file
from groundup.data.executor import minhash_signatures
from groundup.data.inputs import InputFile
from groundup.data.readers.reader_options import ReaderOptions
from groundup.recipe.data_config import MinHashDedupConfig

MIN_SIMILARITY = 0.5
STEP = 0.05
MAX_CHARACTERS = 100_000
"""Longer texts are left out: their exact similarity takes too long."""


def read(argument: str, limit: int) -> list[str]:
    kind, _, pattern = argument.partition(":")
    found: list[str] = []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        read = read_file(kind, InputFile(path.name, path), ReaderOptions(html_extractor="resiliparse"))
        found += [each.text for each in read if isinstance(each, Document) and 200 < len(each.text) < MAX_CHARACTERS]
    step = max(1, len(found) // limit)
    return found[::step]


def candidate_pairs(
    texts: list[str], config: MinHashDedupConfig, seed: int
) -> tuple[set[tuple[int, int]], numpy.ndarray]:
    """All pairs with an equal band key, and the signatures."""
    found = minhash_signatures(texts, config.ngram_size, config.num_bands * config.hashes_per_band, seed)
    pairs: set[tuple[int, int]] = set()
    for keys in band_keys(found, config.num_bands):
        groups = defaultdict(list)
        for number, key in enumerate(keys.tolist()):
            if key != int(NO_KEY):
                groups[key].append(number)
        for group in groups.values():
            pairs.update(itertools.combinations(group, 2))
    return pairs, found


def table(texts: list[str], config: MinHashDedupConfig) -> list[str]:
    exact = similar_pairs(texts, MIN_SIMILARITY, config.ngram_size)
    pairs, found = candidate_pairs(texts, config, 1337)
    lines = ["| similarity | pairs | found | recall | banding formula |", "|---|---:|---:|---:|---:|"]
    for low in numpy.arange(MIN_SIMILARITY, 1, STEP):
        high = low + STEP if low + STEP < 1 else 1.0001
        inside = [pair for pair, value in exact.items() if low - 1e-9 <= value < high - 1e-9]
        if not inside:
            continue
        hits = sum(pair in pairs for pair in inside)
        theory = numpy.mean([candidate_probability(exact[pair], config) for pair in inside])
        lines.append(
            f"| {low:.2f} to {min(high, 1):.2f} | {len(inside):,} | {hits:,} | {hits / len(inside):.3f} | {theory:.3f} |"
        )
    near = [pair for pair, value in exact.items() if value >= 0.8]
    lines += [
        "",
        f"Of {len(near):,} pairs of 0.8 or more {sum(pair in pairs for pair in near):,} are found: recall "
        f"{sum(pair in pairs for pair in near) / max(len(near), 1):.4f}.",
        "",
        "| what counts as found | pairs | precision at 0.8 | at 0.7 | at 0.5 | recall at 0.8 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for threshold in (0.0, 0.7, 0.8):
        some = [(a, b) for a, b in pairs if threshold == 0 or (found[a] == found[b]).mean() >= threshold]
        precisions = [
            sum(exact.get(pair, 0) >= least for pair in some) / max(len(some), 1) for least in (0.8, 0.7, 0.5)
        ]
        chosen = set(some)
        recall = sum(pair in chosen for pair in near) / max(len(near), 1)
        lines.append(
            f"| {'a band' if threshold == 0 else f'and {threshold:g} of the signature'} | {len(some):,} | "
            f"{' | '.join(f'{value:.3f}' for value in precisions)} | {recall:.4f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inputs", nargs="+", metavar="KIND:GLOB")
    parser.add_argument("--limit", type=int, default=4_000, help="documents of each input")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    config = MinHashDedupConfig()
    shown = " ".join(f"'{argument.partition(':')[0]}:{Path(argument).name}'" for argument in options.inputs)
    lines = [
        "# MinHash: recall and precision",
        "",
        f"Written by `python benchmarks/minhash_recall.py {shown}`: "
        f"{config.num_bands} bands of {config.hashes_per_band}, n-grams of "
        f"{config.ngram_size} words, against the exact similarity of all pairs of real documents.",
        f"{date.today()}, {processor_name()}, {len(os.sched_getaffinity(0))} cores.",
    ]
    for argument in options.inputs:
        texts = read(argument, options.limit)
        began = time.perf_counter()
        rows = table(texts, config)
        lines += ["", f"## {argument.partition(':')[0]}: {len(texts):,} documents", "", *rows]
        print(f"{argument}: {len(texts)} documents in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    page = "\n".join(lines) + "\n"
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
