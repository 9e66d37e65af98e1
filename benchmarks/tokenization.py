"""How fast are vocabularies learnt and texts encoded, beside the libraries that do the same?

Not named `tokenize`: a script's folder comes first on the path, and the standard library has a module of that name.

    python benchmarks/tokenization.py FOLDER ... [--sizes 32000 128000] [--threads 2]

Every file with text below the folders is a document. Each contender runs in a process of its own, once, on text that it
has not seen: caches begin empty. All learn from the same text with the same pattern, and all encode with the vocabulary
that `groundup` learnt; "differs" counts documents whose ids are not those of the `tokenizers` library, and "same" says
that a learnt vocabulary has its entries in the same order. Peers that are not installed are left out:
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
"""Of the encoded documents, every seventh is compared."""

Seconds = tuple[float, float]
"""By the clock, and of all processors together."""

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


# ---- learning: texts and a size in, the entries in the order of their ids out, as bytes, without special tokens


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

    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter(texts), size - 4, pattern=regex())
    return [bytes(token) for token, _ in learner.get_mergeable_ranks()]


def train_with_bpeasy(texts: list[str], size: int) -> list[bytes]:
    import bpeasy

    return list(bpeasy.train_bpe(iter(texts), regex(), 128, size - 4))


def train_with_gigatoken(texts: list[str], size: int) -> list[bytes]:
    """It takes one text and cuts by a rule of its own; given documents in a row."""
    import gigatoken

    vocabulary, _ = gigatoken.train_bpe("\0".join(texts).encode(), size, [], separator=b"\0")
    return [vocabulary[id] for id in sorted(vocabulary)]


def _entries(backend: Any) -> list[bytes]:
    from groundup.tokenizer.bytes_to_unicode import from_unicode

    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    vocabulary = backend.get_vocab()
    return [from_unicode(token) for token in sorted(vocabulary, key=vocabulary.get) if token not in special]


# ---- encoding: the file of a tokenizer in, a function out


def groundup_encoder(file: str) -> Encode:
    import numpy as np

    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.batch_encoder import BatchEncoder

    encoder = BatchEncoder(Tokenizer.load(Path(file).parent))

    def encode(texts: list[str]) -> Sequence[Sequence[int]]:
        ids, lengths = encoder.encode(texts)
        return [row[:-1] for row in np.split(ids, np.cumsum(lengths)[:-1])]  # without the end of text

    return encode


def tokenizers_encoder(file: str) -> Encode:
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(file)
    backend.encode_special_tokens = True
    return lambda texts: [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=False)]


def tiktoken_encoder(file: str) -> Encode:
    import tiktoken
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(file)
    special = {token.content: id for id, token in backend.get_added_tokens_decoder().items()}
    ranks = {token: len(special) + place for place, token in enumerate(_entries(backend))}
    encoding = tiktoken.Encoding("own", pat_str=regex(), mergeable_ranks=ranks, special_tokens=special)
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
    return lambda texts: [row.ids for row in tokenizer.encode_batch(texts, add_special_tokens=False)]


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


def timed(work: Callable[[], Any]) -> tuple[Seconds, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - began, time.process_time() - cpu), result


def time_training(name: str, folders: tuple[str, ...], size: int) -> tuple[Seconds, float, list[bytes]]:
    """Seconds, peak of memory in MB beyond what the text itself takes, and the entries."""
    texts = documents(folders)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, entries = timed(lambda: TRAINERS[name](texts, size))
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3, entries


def time_encoding(name: str, folders: tuple[str, ...], file: str, every: int) -> tuple[Seconds, int]:
    """Seconds for all documents, and in how many the ids are not those of the `tokenizers` library."""
    texts = documents(folders)[::every]
    function = ENCODERS[name](file)
    function(["warm up the threads"])
    seconds, rows = timed(lambda: function(texts))
    sample = range(0, len(texts), CHECKED)
    expected = tokenizers_encoder(file)([texts[index] for index in sample])
    wrong = sum(list(rows[index]) != ids for index, ids in zip(sample, expected, strict=True))
    return seconds, wrong


def run_in_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a process of its own, or the error that it ended with."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except Exception as error:
            return error


def main() -> None:
    from groundup.artifacts.machine import processor_name
    from groundup.tokenizer.tokenizer_training import train_bpe

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--every", type=int, default=3, help="of the documents, this one is encoded")
    parser.add_argument("--only", choices=["learn", "encode"])
    given = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(given.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    folders = tuple(given.folders)
    texts = documents(folders)
    megabytes = sum(len(text.encode()) for text in texts) / MEGABYTE
    print(
        f"{date.today()}, {processor_name()}, {given.threads} threads; {len(texts):,} documents, {megabytes:.1f} MB"
    )
    for size in given.sizes:
        if given.only != "encode":
            print(f"\nlearning {size:,} entries")
            found = {
                name: run_in_new_process(time_training, name, folders, size)
                for name in TRAINERS
                if installed(name)
            }
            _, _, expected = found["tokenizers"]
            for name, result in found.items():
                if isinstance(result, Exception):
                    print(f"  {titled(name):24} {type(result).__name__}: {str(result)[:80]}")
                    continue
                seconds, memory, entries = result
                same = "same" if entries == expected else f"{len(set(entries) & set(expected)):,} in common"
                ratio = found["groundup"][0][1] / seconds[1]
                print(
                    f"  {titled(name):22}{seconds[0]:7.1f} s{seconds[1]:7.1f} s of CPU{memory:6.0f} MB"
                    f"{ratio:6.2f} of our speed  {same}",
                    flush=True,
                )
        if given.only != "learn":
            print(f"\nencoding with {size:,} entries")
            with TemporaryDirectory() as folder:
                train_bpe(texts, size, PATTERN).save(Path(folder))
                encoded = texts[:: given.every]
                size_of = sum(len(text.encode()) for text in encoded) / MEGABYTE
                ours = None
                for name in filter(installed, ENCODERS):
                    result = run_in_new_process(
                        time_encoding, name, folders, f"{folder}/tokenizer.json", given.every
                    )
                    if isinstance(result, Exception):
                        print(f"  {titled(name):24} {type(result).__name__}: {str(result)[:80]}")
                        continue
                    seconds, wrong = result
                    ours = ours or seconds[1]
                    rates = [size_of / one for one in seconds]
                    print(
                        f"  {titled(name):22}{rates[0]:7.1f} MB/s{rates[1]:7.1f} MB/s of CPU"
                        f"{ours / seconds[1]:6.2f} of our speed  {wrong} of {len(encoded[::CHECKED])} documents differ",
                        flush=True,
                    )


def installed(name: str) -> bool:
    try:
        return bool(name == "groundup" or version(name))
    except PackageNotFoundError:
        return False


def titled(name: str) -> str:
    return name if name == "groundup" else f"{name} {version(name)}"


if __name__ == "__main__":
    main()
