"""Documents per second from raw text to a deduplicated corpus: groundup and datatrove with the same input and filters.

    python benchmarks/data_pipeline.py --peer-python PYTHON 'web:docs-*.warc.gz' 'books:texts/*.txt' ...
    python benchmarks/data_pipeline.py --memory 'web:docs-*.warc.gz' ...   # groundup at 1, 2, 8 and 24 times the input

Each argument is KIND:GLOB, read by our readers (HTML by resiliparse) into JSON lines, which both then start from. A
fifth of the documents come once more with some words changed. "pipeline": Gopher's repetition and quality rules,
FineWeb's rules, personal data (datatrove: e-mail and IP addresses; groundup: numbers and secrets as well), MinHash
(14 bands of 8, runs of 5 words), Parquet. "minhash_dedup": the last two alone. Gopher's share of words with a letter
is off in both: datatrove counts punctuation marks as words there (we and the paper do not), and a third of these
documents would fall on one side only. Each contestant runs in processes of its own, bound to its cores; memory is of
all of them together. Recall is measured on the output: of all pairs of input documents with a Jaccard similarity of
0.8 or more of which at least one was kept, how many were parted, and how many the bands should part at least: 14
bands of 8 find 92% of the pairs of 0.8, and all but one in 10,000 of 0.9.
datatrove lives in an environment of its own.
"""

import argparse
import glob
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

FILES = 8
CHANGED = 0.2
NEAR = 0.8


# ---- the input


def make_input(places: list[str], folder: Path, times: int = 1) -> int:
    """FILES files of JSON lines; with `times`, each document so often, other words in each copy. Returns documents."""
    from groundup.data.document import Document
    from groundup.data.document_reader import read_file
    from groundup.data.inputs import InputFile
    from groundup.data.readers.reader_options import ReaderOptions

    chance, count = random.Random(0), 0
    folder.mkdir(parents=True)
    outs = [(folder / f"{number:05d}.jsonl").open("w") for number in range(FILES)]
    for kind, path in (
        (kind, Path(path))
        for place in places
        for kind, _, pattern in [place.partition(":")]
        for path in sorted(glob.glob(pattern, recursive=True))
    ):
        for found in read_file(kind, InputFile(path.name, path), ReaderOptions(html_extractor="resiliparse")):
            if not isinstance(found, Document) or not found.text.strip():
                continue
            for copy in range(times):
                texts = [renamed(found.text, copy)]
                if chance.random() < CHANGED:
                    texts.append(altered(texts[0], chance))
                for text in texts:
                    outs[count % FILES].write(json.dumps({"text": text, "id": str(count)}) + "\n")
                    count += 1
    for out in outs:
        out.close()
    return count


def altered(text: str, chance: random.Random) -> str:
    """Another text for every fiftieth, every hundredth or every two hundredth word."""
    words = text.split(" ")
    for place in range(chance.randrange(50), len(words), chance.choice((50, 100, 200))):
        words[place] = chance.choice(words)
    return " ".join(words)


def renamed(text: str, copy: int) -> str:
    """A text as like the first as two languages are: every word of four letters or more gets a number."""
    return " ".join(word + str(copy) if len(word) > 3 else word for word in text.split(" ")) if copy else text


# ---- the contestants: each is started with its role in a process of its own


def groundup(mode: str, source: Path, out: Path, cores: int) -> None:
    from types import SimpleNamespace

    from groundup.artifacts.machine import Machine
    from groundup.data import stage
    from groundup.recipe.data_config import DataConfig

    sources = [
        {"name": f"s{n}", "kind": "jsonl", "path": str(path), "clean": mode == "pipeline"}
        for n, path in enumerate(sorted(source.glob("*.jsonl")))
    ]
    section = DataConfig.model_validate(
        {
            "sources": sources,
            "language": {"languages": []},
            "gopher_quality": {"min_alphabetic_words_ratio": 0.0},
            "fineweb": {"kinds": ["jsonl"]},
            "validation_fraction": 0.0,
            "memory_gigabytes": 1.0,
        }
    )
    out.mkdir()
    stage.run(SimpleNamespace(data=section, seed=0), {}, out, Machine(threads=cores, cache_dir=out.parent / "cache"))


def datatrove(mode: str, source: Path, out: Path, cores: int) -> None:
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
    )
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.pipeline.writers.parquet import ParquetWriter

    def run(tasks: int, *steps: Any) -> None:
        number = len(list(out.glob("logs*")))
        LocalPipelineExecutor(
            pipeline=list(steps), tasks=tasks, workers=cores, logging_dir=str(out / f"logs{number}"), skip_completed=False
        ).run()  # fmt: skip

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    cleaned = str(source)
    if mode == "pipeline":
        cleaned = str(out / "cleaned")
        rules = (
            GopherRepetitionFilter(),
            GopherQualityFilter(max_non_alpha_words_ratio=None),
            FineWebQualityFilter(),
            PIIFormatter(),
        )
        run(FILES, JsonlReader(str(source)), *rules, JsonlWriter(cleaned, compression=None))
    sigs, buckets, removed = (str(out / name) for name in ("sigs", "buckets", "removed"))
    run(FILES, JsonlReader(cleaned), MinhashDedupSignature(sigs, config=config))
    run(14, MinhashDedupBuckets(sigs, buckets, config=config))
    run(1, MinhashDedupCluster(buckets, removed, config=config))
    run(FILES, JsonlReader(cleaned), MinhashDedupFilter(removed), ParquetWriter(str(out / "train")))


ROLES = {"groundup": groundup, "datatrove": datatrove}


# ---- measuring


def measure(
    role: str, python: str, mode: str, source: Path, out: Path, cores: int, allowed: list[int]
) -> dict[str, float]:
    """Wall seconds, processor seconds, and the most memory (GB) that its processes held together."""
    command = [python, __file__, "--role", role, mode, str(source), str(out), str(cores)]
    began = time.perf_counter()
    process = subprocess.Popen(
        ["taskset", "-c", ",".join(map(str, allowed[:cores])), *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    peak = [0]
    ticks: dict[int, int] = {}

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], family_bytes(process.pid, ticks))
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    thread.join()
    if process.returncode:
        raise SystemExit(f"{role} failed:\n{errors[-3000:]}")
    processor = sum(ticks.values()) / os.sysconf("SC_CLK_TCK")
    return {"seconds": seconds, "processor": processor, "gigabytes": peak[0] / 1e9}


def family_bytes(root: int, ticks: dict[int, int]) -> int:
    """Proportional memory of a process and all that it started. Notes the processor time of each: what a busy machine
    leaves comparable.
    """
    children = defaultdict(list)
    used = {}
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = Path(stat).read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[1])].append(int(stat.split("/")[2]))
        used[int(stat.split("/")[2])] = int(fields[11]) + int(fields[12])
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children[pid]
        ticks[pid] = used.get(pid, 0)
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
        except OSError:
            continue
    return total


def kept(out: Path) -> set[int]:
    import pyarrow.parquet

    found: set[int] = set()
    for path in (out / "train").glob("*.parquet"):
        found |= {int(name) for name in pyarrow.parquet.read_table(path, columns=["id"])["id"].to_pylist()}
    return found


def similar_pairs(texts: list[str], least: float, size: int = 5) -> dict[tuple[int, int], float]:
    """All pairs with a Jaccard similarity of at least `least`, exactly: counts what each text shares with every other."""
    import re

    import numpy

    sets = []
    for text in texts:
        words = re.sub(r"[^\w\s]|_", "", text.lower()).split()
        runs = {hash(tuple(words[start : start + size])) for start in range(max(len(words) - size + 1, 1))}
        sets.append(numpy.fromiter(runs, dtype=numpy.int64, count=len(runs)))
    sizes = numpy.array([len(runs) for runs in sets])
    owners = numpy.repeat(numpy.arange(len(sets)), sizes)
    _, names = numpy.unique(numpy.concatenate(sets), return_inverse=True)
    owners_of = owners[numpy.argsort(names, kind="stable")]
    counts = numpy.bincount(names)
    begins = numpy.cumsum(counts) - counts
    found = {}
    for number, runs in enumerate(numpy.split(names, numpy.cumsum(sizes)[:-1])):
        lengths = counts[runs]
        ends = numpy.cumsum(lengths)
        places = numpy.arange(ends[-1]) + numpy.repeat(begins[runs] - (ends - lengths), lengths)
        shared = numpy.bincount(owners_of[places], minlength=len(sets))[:number]
        similarity = shared / (sizes[number] + sizes[:number] - shared)
        found |= {(int(other), number): float(similarity[other]) for other in numpy.flatnonzero(similarity >= least)}
    return found


def recall(pairs: dict[tuple[int, int], float], left: set[int]) -> str:
    """How many pairs, of which at least one text was kept, did not both stay; and what the bands' arithmetic expects."""
    from groundup.data.dedup.minhash import candidate_probability
    from groundup.recipe.data_config import MinHashDedupConfig

    judged = [pair for pair in pairs if pair[0] in left or pair[1] in left]
    parted = sum(not (a in left and b in left) for a, b in judged)
    expected = sum(candidate_probability(pairs[pair], MinHashDedupConfig()) for pair in judged)
    return f"{parted}/{len(judged)} ({expected:.1f})"


def compare(given: Any, folder: Path) -> None:
    count = make_input(given.places, folder / "input")
    texts = [
        (int(row["id"]), row["text"])
        for path in (folder / "input").glob("*.jsonl")
        for row in map(json.loads, path.open())
    ]
    ordered = [text for _, text in sorted(texts)]
    size = sum(len(text.encode()) for text in ordered) / 1e6
    pairs = similar_pairs(ordered, NEAR)
    print(f"{count} documents, {size:.1f} MB, {len(pairs)} pairs of a similarity of {NEAR} or more")
    print(
        f"{'':10} {'cores':>5} {'':10} {'seconds':>8} {'CPU s':>7} {'documents/s':>12} {'MB/s':>7} {'GB':>6} {'kept':>6}  "
        "pairs parted/judged (expected of bands)"
    )
    contestants = {"groundup": sys.executable} | ({"datatrove": given.peer_python} if given.peer_python else {})
    allowed = sorted(os.sched_getaffinity(0))
    for mode in given.modes.split(","):
        for cores in map(int, given.cores.split(",")):
            rates, lefts, work = {}, {}, {}
            for role, python in contestants.items():
                out = folder / f"{role}-{mode}-{cores}"
                runs = [
                    measure(role, python, mode, folder / "input", out, cores, allowed)
                    for number in range(given.rounds)
                    if number == 0 or shutil.rmtree(out) is None
                ]
                best = min(runs, key=lambda one: one["seconds"])
                left = kept(out)
                rates[role], lefts[role], work[role] = count / best["seconds"], left, best["processor"]
                print(
                    f"{mode:10} {cores:5} {role:10} {best['seconds']:8.1f} {best['processor']:7.1f} "
                    f"{rates[role]:12.1f} {size / best['seconds']:7.2f} "
                    f"{best['gigabytes']:6.2f} {len(left):6}  {recall(pairs, left)}",
                    flush=True,
                )
                shutil.rmtree(out)
            if len(rates) == 2:
                ours, theirs = lefts.values()
                print(
                    f"{mode:10} {cores:5} ratio {rates['groundup'] / rates['datatrove']:.1f}, of CPU time "
                    f"{work['datatrove'] / work['groundup']:.1f}; kept by both {len(ours & theirs)}, "
                    f"by groundup alone {alone(ours, theirs, pairs)}, by datatrove alone {alone(theirs, ours, pairs)}"
                )


def alone(mine: set[int], others: set[int], pairs: dict[tuple[int, int], float]) -> str:
    """How many documents one keeps and the other does not, and of how many of them the other kept a near duplicate."""
    near = {a for a, b in pairs if b in others} | {b for a, b in pairs if a in others}
    return f"{len(mine - others)} ({len((mine - others) & near)} of which the other has nearly the same)"


def memory(given: Any, folder: Path) -> None:
    print(f"{'times':>5} {'documents':>10} {'MB':>8} {'seconds':>8} {'GB':>6}")
    for times in (1, 2, 8, 24):
        source, out = folder / f"input{times}", folder / f"out{times}"
        count = make_input(given.places, source, times)
        size = sum(path.stat().st_size for path in source.glob("*")) / 1e6
        found = measure("groundup", sys.executable, "pipeline", source, out, 2, sorted(os.sched_getaffinity(0)))
        print(f"{times:5} {count:10} {size:8.1f} {found['seconds']:8.1f} {found['gigabytes']:6.2f}", flush=True)
        shutil.rmtree(source)
        shutil.rmtree(out)


def main() -> None:
    if sys.argv[1:2] == ["--role"]:
        _, _, role, mode, source, out, cores = sys.argv
        ROLES[role](mode, Path(source), Path(out), int(cores))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="+", metavar="KIND:GLOB")
    parser.add_argument("--peer-python", help="of the environment that datatrove is installed in")
    parser.add_argument("--modes", default="pipeline,minhash")
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--rounds", type=int, default=2, help="of each, of which the best counts")
    parser.add_argument("--memory", action="store_true", help="ours alone, at 1, 2, 8 and 24 times the input")
    given = parser.parse_args()
    from groundup.artifacts.machine import processor_name

    print(f"{date.today()}, {processor_name()}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as name:
        (memory if given.memory else compare)(given, Path(name))


if __name__ == "__main__":
    main()
