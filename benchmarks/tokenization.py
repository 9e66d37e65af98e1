"""Benchmark: speed of tokenizer training and encoding, compared with other libraries.

Not named `tokenize`, which would shadow the standard library's module of that name.

    python benchmarks/tokenization.py FOLDER ... [--sizes 32000 128000] [--threads 2]

Every text file below the folders is a document. Each library runs once in a new process, so that caches are empty. All
train on the same text with the same pretokenizer, and all encode with the vocabulary trained by `groundup`. "same": the
vocabulary has the same entries in the same order as that of the `tokenizers` library; "differ": documents whose ids are
not those of the `tokenizers` library. Libraries that are not installed are skipped:
pip install tiktoken rustbpe bpeasy kitoken gigatoken tokie splintr-rs iree-tokenizer
"""

import argparse
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SUFFIXES = {".py", ".md", ".rst", ".txt", ".po"}
PATTERN = "gpt4"
MEGABYTE = 1e6
CHECKED = 7
"""Every 7th encoded document is compared."""

Seconds = tuple[float, float]
"""Wall-clock time, and CPU time of all threads."""

Encode = Callable[[list[str]], Sequence[Sequence[int]]]


@cache
def documents(folders: tuple[str, ...]) -> list[str]:
    texts = []
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*")):
        if path.suffix in SUFFIXES and path.is_file() and "site-packages" not in path.parts:
            try:
                texts.append(path.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                continue
    return texts


def regex() -> str:
    from groundup.tokenizer.split_patterns import PATTERNS

    return PATTERNS[PATTERN].regex


# ---- training: texts and a size -> entries in id order, as bytes, without special tokens


def train_with_groundup(texts: list[str], size: int) -> list[bytes]:
    from groundup.tokenizer.tokenizer_training import train_bpe

    return _entries(train_bpe(texts, size, PATTERN).backend)


def train_with_tokenizers(texts: list[str], size: int) -> list[bytes]:
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    from groundup.tokenizer.special_tokens import SPECIAL_TOKENS
    from groundup.tokenizer.split_patterns import build_pre_tokenizer

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = build_pre_tokenizer(regex())  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _entries(backend)


def train_with_rustbpe(texts: list[str], size: int) -> list[bytes]:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), size - 4, pattern=regex())
    return [bytes(token) for token, _ in trainer.get_mergeable_ranks()]


def train_with_bpeasy(texts: list[str], size: int) -> list[bytes]:
    import bpeasy

    return list(bpeasy.train_bpe(iter(texts), regex(), 128, size - 4))


def train_with_gigatoken(texts: list[str], size: int) -> list[bytes]:
    """One concatenated text; its pretokenizer is fixed."""
    import gigatoken

    vocabulary, _ = gigatoken.train_bpe("\0".join(texts).encode(), size, [], separator=b"\0")
    return [vocabulary[id] for id in sorted(vocabulary)]


def _entries(backend: Any) -> list[bytes]:
    from groundup.tokenizer.bytes_to_unicode import from_unicode

    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    vocabulary = backend.get_vocab()
    return [from_unicode(token) for token in sorted(vocabulary, key=vocabulary.get) if token not in special]


# ---- encoding: a tokenizer.json -> a function


def groundup_encoder(file: str) -> Encode:
    import numpy as np

    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.batch_encoder import BatchEncoder

    encoder = BatchEncoder(Tokenizer.load(Path(file).parent))

    def encode(texts: list[str]) -> Sequence[Sequence[int]]:
        ids, lengths = encoder.encode(texts)
        return [document[:-1] for document in np.split(ids, np.cumsum(lengths)[:-1])]  # without end of text

    return encode


def tokenizers_encoder(file: str) -> Encode:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(file)
    backend.encode_special_tokens = True
    return lambda texts: [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def tiktoken_encoder(file: str) -> Encode:
    import tiktoken
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(file)
    special = {token.content: id for id, token in backend.get_added_tokens_decoder().items()}
    ranks = {token: len(special) + index for index, token in enumerate(_entries(backend))}
    encoding = tiktoken.Encoding("trained", pat_str=regex(), mergeable_ranks=ranks, special_tokens=special)
    threads = int(os.environ["RAYON_NUM_THREADS"])
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads)


def gigatoken_encoder(file: str) -> Encode:
    import gigatoken

    parallel = os.environ["RAYON_NUM_THREADS"] != "1"
    tokenizer = gigatoken.Tokenizer.from_json(Path(file).read_text())
    return lambda texts: tokenizer.encode_batch(texts, parallel=parallel)


def kitoken_encoder(file: str) -> Encode:
    import kitoken

    tokenizer = kitoken.Kitoken.from_file(file)
    return lambda texts: tokenizer.encode_all(texts, False)


def tokie_encoder(file: str) -> Encode:
    import tokie

    tokenizer = tokie.Tokenizer.from_json(file)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def splintr_encoder(file: str) -> Encode:
    import splintr

    tokenizer = splintr.from_json(file)
    return lambda texts: tokenizer.encode_batch(texts)


def iree_encoder(file: str) -> Encode:
    import iree.tokenizer

    tokenizer = iree.tokenizer.Tokenizer.from_file(file)
    return lambda texts: [tokenizer.encode(text, add_special_tokens=False) for text in texts]


TRAINERS = {
    "groundup": train_with_groundup,
    "tokenizers": train_with_tokenizers,
    "rustbpe": train_with_rustbpe,
    "bpeasy": train_with_bpeasy,
    "gigatoken": train_with_gigatoken,
}
ENCODERS = {
    "groundup": groundup_encoder,
    "tokenizers": tokenizers_encoder,
    "tiktoken": tiktoken_encoder,
    "gigatoken": gigatoken_encoder,
    "kitoken": kitoken_encoder,
    "tokie": tokie_encoder,
    "splintr-rs": splintr_encoder,
    "iree-tokenizer": iree_encoder,
}


def measure(function: Callable[[], Any]) -> tuple[Seconds, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    return (time.perf_counter() - start, time.process_time() - cpu), result


def time_training(name: str, folders: tuple[str, ...], size: int) -> tuple[Seconds, float, list[bytes]]:
    """Seconds, peak memory in MB beyond the text itself, and the entries."""
    texts = documents(folders)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, entries = measure(lambda: TRAINERS[name](texts, size))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, entries


def time_encoding(name: str, folders: tuple[str, ...], file: str, every: int) -> tuple[Seconds, int]:
    """Seconds for all documents, and the number of compared documents whose ids differ."""
    texts = documents(folders)[::every]
    function = ENCODERS[name](file)
    function(["warm up the threads"])
    seconds, encoded = measure(lambda: function(texts))
    sample = range(0, len(texts), CHECKED)
    expected = tokenizers_encoder(file)([texts[index] for index in sample])
    num_different = sum(list(encoded[index]) != ids for index, ids in zip(sample, expected, strict=True))
    return seconds, num_different


def run_in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process, or its exception."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except Exception as error:
            return error


def main() -> None:
    from groundup.artifacts.machine import processor_name
    from groundup.tokenizer.tokenizer_training import train_bpe

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--every", type=int, default=3, help="encode every N-th document")
    parser.add_argument("--only", choices=["train", "encode"])
    options = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    folders = tuple(options.folders)
    texts = documents(folders)
    megabytes = sum(len(text.encode()) for text in texts) / MEGABYTE
    print(
        f"{date.today()}, {processor_name()}, {options.threads} threads; {len(texts):,} documents, {megabytes:.1f} MB"
    )
    for size in options.sizes:
        if options.only != "encode":
            print(f"\ntraining {size:,} entries")
            results = {
                name: run_in_new_process(time_training, name, folders, size) for name in TRAINERS if installed(name)
            }
            _, _, expected = results["tokenizers"]
            for name, result in results.items():
                if isinstance(result, Exception):
                    print(f"  {name_and_version(name):24} {type(result).__name__}: {str(result)[:80]}")
                    continue
                seconds, memory, entries = result
                same = "same" if entries == expected else f"{len(set(entries) & set(expected)):,} in common"
                ratio = results["groundup"][0][1] / seconds[1]
                print(
                    f"  {name_and_version(name):22}{seconds[0]:7.1f} s{seconds[1]:7.1f} s of CPU{memory:6.0f} MB"
                    f"{ratio:6.2f} of groundup's speed  {same}",
                    flush=True,
                )
        if options.only != "train":
            print(f"\nencoding with {size:,} entries")
            with TemporaryDirectory() as folder:
                train_bpe(texts, size, PATTERN).save(Path(folder))
                encoded = texts[:: options.every]
                encoded_megabytes = sum(len(text.encode()) for text in encoded) / MEGABYTE
                groundup_seconds = None
                for name in filter(installed, ENCODERS):
                    result = run_in_new_process(time_encoding, name, folders, f"{folder}/tokenizer.json", options.every)
                    if isinstance(result, Exception):
                        print(f"  {name_and_version(name):24} {type(result).__name__}: {str(result)[:80]}")
                        continue
                    seconds, num_different = result
                    groundup_seconds = groundup_seconds or seconds[1]
                    rates = [encoded_megabytes / each for each in seconds]
                    print(
                        f"  {name_and_version(name):22}{rates[0]:7.1f} MB/s{rates[1]:7.1f} MB/s of CPU"
                        f"{groundup_seconds / seconds[1]:6.2f} of groundup's speed  "
                        f"{num_different} of {len(encoded[::CHECKED])} documents differ",
                        flush=True,
                    )


def installed(name: str) -> bool:
    try:
        return bool(name == "groundup" or version(name))
    except PackageNotFoundError:
        return False


def name_and_version(name: str) -> str:
    return name if name == "groundup" else f"{name} {version(name)}"


if __name__ == "__main__":
    main()
