"""How many near duplicates MinHash finds, and how many of those it finds are: against the exact similarity of all pairs.

    python benchmarks/minhash_recall.py --out book/minhash.md 'books:texts/*.txt' 'web:crawl/*.warc.gz' 'text:mail/*.txt'

The documents are as they are: whatever repeats in them, people and programs repeated. Each argument is KIND:GLOB, read by
our readers (HTML by resiliparse). Similarity is Jaccard's over runs of 5 words, computed for every pair that can reach
0.5, by counting what each text shares with every other. The peer is arithmetic: the share that the bands should find.
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

LEAST = 0.5
STEP = 0.05
LONGEST = 100_000
"""Characters: the exact similarity of longer texts takes too long."""


def read(place: str, limit: int) -> list[str]:
    kind, _, pattern = place.partition(":")
    found: list[str] = []
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        read = read_file(kind, InputFile(path.name, path), ReaderOptions(html_extractor="resiliparse"))
        found += [each.text for each in read if isinstance(each, Document) and 200 < len(each.text) < LONGEST]
    step = max(1, len(found) // limit)
    return found[::step]


def met(
    texts: list[str], settings: MinHashDedupConfig, seed: int
) -> tuple[set[tuple[int, int]], numpy.ndarray]:
    """All pairs that agree in a band, and the signatures."""
    found = minhash_signatures(
        texts, settings.ngram_size, settings.num_bands * settings.hashes_per_band, seed
    )
    pairs: set[tuple[int, int]] = set()
    for keys in band_keys(found, settings.num_bands):
        groups = defaultdict(list)
        for number, key in enumerate(keys.tolist()):
            if key != int(NO_KEY):
                groups[key].append(number)
        for group in groups.values():
            pairs.update(itertools.combinations(group, 2))
    return pairs, found


def table(texts: list[str], settings: MinHashDedupConfig) -> list[str]:
    exact = similar_pairs(texts, LEAST, settings.ngram_size)
    pairs, found = met(texts, settings, 1337)
    lines = ["| similarity | pairs | found | share | by the bands' arithmetic |", "|---|---:|---:|---:|---:|"]
    for low in numpy.arange(LEAST, 1, STEP):
        high = low + STEP if low + STEP < 1 else 1.0001
        inside = [pair for pair, value in exact.items() if low - 1e-9 <= value < high - 1e-9]
        if not inside:
            continue
        hits = sum(pair in pairs for pair in inside)
        theory = numpy.mean([candidate_probability(exact[pair], settings) for pair in inside])
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
        shares = [
            sum(exact.get(pair, 0) >= least for pair in some) / max(len(some), 1) for least in (0.8, 0.7, 0.5)
        ]
        chosen = set(some)
        lines.append(
            f"| {'a band' if threshold == 0 else f'and {threshold:g} of the signature'} | {len(some):,} | "
            f"{' | '.join(f'{share:.3f}' for share in shares)} | {sum(pair in chosen for pair in near) / max(len(near), 1):.4f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="+", metavar="KIND:GLOB")
    parser.add_argument("--limit", type=int, default=4_000, help="documents of each place")
    parser.add_argument("--out", type=Path, help="the page to write")
    given = parser.parse_args()
    settings = MinHashDedupConfig()
    shown = " ".join(f"'{place.partition(':')[0]}:{Path(place).name}'" for place in given.places)
    lines = [
        "# Near duplicates that are found, and that are",
        "",
        f"Written by `python benchmarks/minhash_recall.py {shown}`: "
        f"{settings.num_bands} bands of {settings.hashes_per_band}, runs of "
        f"{settings.ngram_size} words, against the exact similarity of all pairs of real documents.",
        f"{date.today()}, {processor_name()}, {len(os.sched_getaffinity(0))} cores.",
    ]
    for place in given.places:
        texts = read(place, given.limit)
        began = time.perf_counter()
        rows = table(texts, settings)
        lines += ["", f"## {place.partition(':')[0]}: {len(texts):,} documents", "", *rows]
        print(f"{place}: {len(texts)} documents in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    page = "\n".join(lines) + "\n"
    print(page)
    if given.out:
        given.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
