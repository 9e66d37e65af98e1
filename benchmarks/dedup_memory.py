"""Memory of deduplication: estimated by `groundup plan` and measured, over synthetic keys.

    python benchmarks/dedup_memory.py [--millions 1,4,16] [--limits 1,2]

A third of the documents repeat earlier ones, half of these exactly; a tenth of the rest shares one band with another
document. Measured is private memory (RssAnon); mapped file pages belong to the page cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import numpy

UNIT = 500_000
BANDS = 14


def make(folder: Path, millions: float) -> int:
    """Write key files; returns the number of documents."""
    from groundup.data.dedup.document_keys import CHUNK_DOCUMENTS

    random = numpy.random.default_rng(0)
    count = round(1e6 * millions)
    for unit, start in enumerate(range(0, count, UNIT)):
        size = min(UNIT, count - start)
        number = numpy.arange(start, start + size)
        source = numpy.where(random.random(size) < 1 / 3, random.integers(0, number + 1), number)
        equal = numpy.where(random.random(size) < 0.5, source, number)
        met = numpy.where(random.random(size) < 0.1, random.integers(0, number + 1), source)
        rows = numpy.stack([equal, met, *([source] * (BANDS - 1))]).astype(numpy.uint64)
        keys = mixed(rows + (numpy.arange(1 + BANDS, dtype=numpy.uint64) << numpy.uint64(40))[:, None])
        with (folder / f"{unit:05d}.keys").open("wb") as file:
            for first in range(0, size, CHUNK_DOCUMENTS):
                file.write(numpy.ascontiguousarray(keys[:, first : first + CHUNK_DOCUMENTS]).data)
    return count


def mixed(values: numpy.ndarray) -> numpy.ndarray:
    from groundup.data.stable_hash import splitmix64

    return splitmix64(values) | numpy.uint64(1)


def measure(folder: Path, count: int, gigabytes: float) -> None:
    """Run in a subprocess: prints seconds, peak memory in GB and the number of documents kept."""
    from groundup.artifacts.machine import Machine
    from groundup.data.dedup import duplicates
    from groundup.recipe.data_config import DataConfig

    peak = [0]

    def watch() -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            peak[0] = max(peak[0], 1024 * int(line.split()[1]))
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    counts = {unit: min(UNIT, count - start) for unit, start in enumerate(range(0, count, UNIT))}
    source = {"name": "x", "kind": "jsonl", "path": "x"}
    config = DataConfig.model_validate({"sources": [source], "memory_gigabytes": gigabytes})
    began = time.perf_counter()
    found = duplicates.deduplicate_units(config, folder, counts, Machine())
    print(time.perf_counter() - began, peak[0] / 1e9, int((found.codes == duplicates.KEEP).sum()))


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--millions", default="1,4,16", help="of documents")
    parser.add_argument("--limits", default="0.5,1,2", help="GB allowed")
    options = parser.parse_args()
    from groundup.artifacts.errors import UserError
    from groundup.artifacts.machine import processor_name
    from groundup.data.dedup_estimate import num_passes, peak_bytes

    print(f"{date.today()}, {processor_name()}, {len(os.sched_getaffinity(0))} cores")
    print(
        f"{'documents':>12} {'GB allowed':>10} {'passes':>7} {'estimated':>10} {'measured':>8} {'seconds':>8} {'kept':>12}"
    )
    for millions in map(float, options.millions.split(",")):
        with tempfile.TemporaryDirectory() as name:
            count = make(Path(name), millions)
            for limit in map(float, options.limits.split(",")):
                try:
                    parts = num_passes(count, count, 1e9 * limit)
                except UserError as error:
                    print(f"{count:12,} {limit:10g} refused: {error.message}", flush=True)
                    continue
                command = [sys.executable, __file__, "--measure", name, str(count), str(limit)]
                seconds, measured_gb, kept = subprocess.run(
                    command, check=True, capture_output=True, text=True
                ).stdout.split()
                print(
                    f"{count:12,} {limit:10g} {parts:7} {peak_bytes(count, count, parts) / 1e9:10.2f} {float(measured_gb):8.2f} "
                    f"{float(seconds):8.1f} {int(kept):12,}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
