"""The one door to Daft: many units of work at once, and queries over parquet files larger than memory.

The same calls run on one machine (Daft's native runner) and on a Ray cluster; nothing else in the project imports Daft.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError

os.environ["DO_NOT_TRACK"] = "true"  # before the import: Daft reports its use to its makers otherwise
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import daft
from daft import DataType, Series, col
from daft.functions import minhash, normalize

Work = Callable[[dict[str, Any]], dict[str, Any]]


def map_units(work: Work, units: list[dict[str, Any]], processes: int) -> Iterator[dict[str, Any]]:
    """The answer of `work` to each unit, as they come in. Units and answers are plain JSON values.

    `work` is a module's function; it runs in worker processes when there are several, and writes its own files.
    A UserError there is raised here.
    """
    if not units:
        return
    several = processes > 1 and len(units) > 1

    @daft.cls(use_process=several, max_concurrency=min(processes, len(units)) if several else 1)
    class Worker:
        @daft.method(return_dtype=DataType.string())
        def run(self, unit: str) -> str:
            try:
                return json.dumps({"answer": work(json.loads(unit))})
            except UserError as error:
                return json.dumps({"error": [error.message, error.hint]})

    worker = Worker()
    table = daft.from_pydict({"unit": [json.dumps(unit) for unit in units]}).into_batches(1)
    for row in table.select(worker.run(table["unit"]).alias("answer")).iter_rows():
        result = json.loads(row["answer"])
        if "error" in result:
            raise UserError(result["error"][0], hint=result["error"][1])
        yield result["answer"]


def signatures(files: list[Path], target: Path, *, bands: int, rows: int, shingle: int, seed: int) -> None:
    """Write, for each row of `files`, its `ordinal` and the hash of each band of its MinHash signature (b0, b1 ...).

    Shingles are runs of words of the text in lower case without punctuation. Text streams through; only hashes stay.
    """
    import numpy

    @daft.func.batch(return_dtype=DataType.list(DataType.uint64()))
    def band_hashes(signature: Series) -> Any:
        values = numpy.array(signature.to_pylist(), dtype=numpy.uint64).reshape(-1, bands, rows)
        mixed = numpy.full(values.shape[:2], 0xCBF29CE484222325, dtype=numpy.uint64)
        for row in range(rows):  # FNV-1a over 32-bit words
            mixed = (mixed ^ values[:, :, row]) * numpy.uint64(0x100000001B3)
            mixed ^= mixed >> numpy.uint64(29)
        return mixed.tolist()

    text = normalize(col("text"), remove_punct=True, lowercase=True, white_space=True)
    hashes = minhash(
        text, num_hashes=bands * rows, ngram_size=shingle, seed=seed % (1 << 31), hash_function="xxhash64"
    )
    table = daft.read_parquet([str(file) for file in files]).select(
        col("ordinal"), band_hashes(hashes).alias("bands")
    )
    table = table.select(col("ordinal"), *[col("bands").get(band).alias(f"b{band}") for band in range(bands)])
    table.write_parquet(str(target), write_mode="overwrite")


def repeats(folder: Path, column: str) -> Iterator[tuple[int, list[int]]]:
    """For every value of `column` that more than one row has: the first ordinal, and the others in order."""
    table = daft.read_parquet(f"{folder}/*.parquet").select(col("ordinal"), col(column))
    groups = table.groupby(col(column)).agg(
        col("ordinal").count().alias("size"), col("ordinal").list_agg().alias("members")
    )
    for row in groups.where(col("size") > 1).select(col("members")).iter_rows():
        first, *others = sorted(row["members"])
        yield first, others
