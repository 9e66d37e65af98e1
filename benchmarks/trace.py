"""Benchmark: suffix arrays of training text: time, memory and size to build, and time of a query, by the number of tokens.

    python benchmarks/trace.py [--tokens 1000000 10000000] [--memory 2000000000]

Tokens are drawn from Zipf's law over 50,257 entries, and a tenth of the text stands twice, as in repeated epochs. The last line
extrapolates to a billion tokens: time as N log N from the largest measured number, size as N.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from groundup.evaluate.trace.suffix_array import SuffixArray
from groundup.evaluate.trace.verbatim_spans import match_lengths
from groundup.tokenizer import TokenShard
from groundup.tokenizer.token_shards import ShardWriter

VOCAB_SIZE, DOCUMENT_TOKENS, QUERY_TOKENS = 50_257, 1_000, 200
BILLION = 1_000_000_000


def write_shard(folder: Path, tokens: int) -> TokenShard:
    weights = 1 / np.arange(1, VOCAB_SIZE)
    edges = np.cumsum(weights / weights.sum())
    with ShardWriter(folder, "train", vocab_size=VOCAB_SIZE, tokenizer="none", end_of_text=0) as writer:
        count = tokens // DOCUMENT_TOKENS
        unique = max(1, count * 10 // 11)
        for index in range(count):
            generator = np.random.default_rng(index % unique)
            ids = np.searchsorted(edges, generator.random(DOCUMENT_TOKENS)).clip(0, VOCAB_SIZE - 2) + 1
            ids[-1] = 0
            writer.append(ids, [DOCUMENT_TOKENS], ["text"], [DOCUMENT_TOKENS * 4])
        writer.commit(1)
        writer.finish()
    return TokenShard(folder / "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--memory", type=int, default=2_000_000_000)
    arguments = parser.parse_args()
    print(
        "tokens | processor s to build | wall s | peak MB of the process | bytes a token on disk | s a query of 200 tokens"
    )
    processor, size, tokens = 0.0, 0.0, 1
    for tokens in sorted(arguments.tokens):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shard = write_shard(folder, tokens)
            start, processor = time.perf_counter(), time.process_time()
            index = SuffixArray.open(shard, folder / "index", memory=arguments.memory)
            seconds, processor = time.perf_counter() - start, time.process_time() - processor
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
            size = sum(path.stat().st_size for path in (folder / "index").iterdir()) / shard.num_tokens
            query = shard.tokens[5_000 : 5_000 + QUERY_TOKENS // 2].tolist() + shard.tokens[-150:-50].tolist()
            start = time.perf_counter()
            lengths = match_lengths(index, query)
            query_seconds = time.perf_counter() - start
            assert max(lengths) >= 90
            print(
                f"{shard.num_tokens:,} | {processor:.1f} | {seconds:.1f} | {peak:.0f} | {size:.2f} | {query_seconds:.3f}"
            )
    hours = processor * BILLION * math.log(BILLION) / (tokens * math.log(tokens)) / 3600
    print(f"a billion tokens, extrapolated: {hours:.1f} processor hours, {size * BILLION / 1e9:.1f} GB on disk")


if __name__ == "__main__":
    main()
