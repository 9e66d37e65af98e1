"""The one door to Daft: many units of work at once, and queries over parquet files larger than memory.

The same calls run on one machine (Daft's native runner) and on a Ray cluster whose nodes share a file system;
nothing else in the project imports Daft.
"""

import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy
import pyarrow

from groundup.artifacts.errors import UserError
from groundup.recipe.data import MinHash

os.environ["DO_NOT_TRACK"] = "true"  # before the import: Daft reports its use to its makers otherwise
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")

import daft
from daft import DataType, Series, col
from daft.functions import minhash, normalize

Work = Callable[[dict[str, Any]], dict[str, Any]]
Integers = numpy.typing.NDArray[numpy.int64]
Keys = numpy.typing.NDArray[numpy.uint64]


def start(engine: Literal["native", "ray"]) -> None:
    """Choose the runner for this process; the first choice stays. Raises UserError when Ray is asked for and
    absent.
    """
    if engine == "native":
        return
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            'data.engine = "ray", but Ray is not installed', hint='pip install "daft[ray]"'
        ) from None
    if not ray.is_initialized():
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    daft.set_runner_ray(noop_if_initialized=True)


def map_units(work: Work, units: list[dict[str, Any]], processes: int) -> Iterator[dict[str, Any]]:
    """The answer of `work` to each unit, as they come in. Units and answers are plain JSON values.

    `work` is a module's function; it runs in worker processes when there are several, and writes its own
    files. A UserError there is raised here.
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
            except Exception:
                return json.dumps({"bug": traceback.format_exc()})

    worker = Worker()
    table = daft.from_pydict({"unit": [json.dumps(unit) for unit in units]}).into_batches(1)
    for row in table.select(worker.run(table["unit"]).alias("answer")).iter_rows():
        result = json.loads(row["answer"])
        if "error" in result:
            raise UserError(result["error"][0], hint=result["error"][1])
        if "bug" in result:
            raise RuntimeError(f"in a worker:\n{result['bug']}")
        yield result["answer"]


class Table:
    """Parquet files with an `ordinal` column that numbers their rows as unit * 2**32 + row."""

    def __init__(self, files: list[Path], bases: dict[int, int]):
        """`bases`: unit -> the number of its first document among all; with it ordinals become 0 to N - 1."""
        self.files, self.bases = files, bases

    def keys(self, column: str, part: int, parts: int) -> tuple[Integers, Keys]:
        """Document numbers and keys of the rows whose key falls into one of `parts`."""
        table = self._read().select(col("ordinal"), col(column))
        if parts > 1:
            table = table.where((col(column) % daft.lit(parts)) == daft.lit(part))
        found = table.to_arrow()
        return self._numbers(found["ordinal"].to_numpy()), found[column].to_numpy()

    def band_hashes(self, folder: Path, settings: MinHash, seed: int) -> "Table":
        """The MinHash signature of each text, as one hash for each band: columns b0, b1 ... in a new table.

        Shingles are runs of words in lower case without punctuation. Text streams through; only hashes stay.
        """
        bands, rows = settings.bands, settings.rows

        @daft.func.batch(return_dtype=DataType.fixed_size_list(DataType.uint64(), bands))
        def hash_bands(signature: Series) -> Any:
            values = signature.to_arrow().flatten().to_numpy().astype(numpy.uint64).reshape(-1, bands, rows)
            mixed = numpy.full(values.shape[:2], 0xCBF29CE484222325, dtype=numpy.uint64)
            for row in range(rows):  # FNV-1a over words of 32 bits
                mixed = (mixed ^ values[:, :, row]) * numpy.uint64(0x100000001B3)
                mixed ^= mixed >> numpy.uint64(29)
            return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(mixed.reshape(-1)), bands)

        text = normalize(col("text"), remove_punct=True, lowercase=True, white_space=True)
        signature = minhash(
            text,
            num_hashes=bands * rows,
            ngram_size=settings.shingle,
            seed=seed % (1 << 31),
            hash_function="xxhash64",
        )
        kept = [col("signature")] if settings.threshold > 0 else []
        table = self._read().select(col("ordinal"), signature.alias("signature"))
        table = table.select(col("ordinal"), hash_bands(col("signature")).alias("bands"), *kept)
        table = table.select(
            col("ordinal"), *[col("bands").get(b).alias(f"b{b}") for b in range(bands)], *kept
        )
        table.write_parquet(str(folder), write_mode="overwrite")
        return Table(sorted(folder.glob("*.parquet")), self.bases)

    def signatures(self, numbers: Integers, length: int) -> Keys:
        """The whole signatures (len(numbers), length) of some documents, whose numbers ascend."""
        wanted = daft.from_pydict({"ordinal": self._ordinals(numbers)})
        found = (
            self._read().select(col("ordinal"), col("signature")).join(wanted, on="ordinal").sort("ordinal")
        )
        column = found.to_arrow()["signature"].combine_chunks()
        return column.flatten().to_numpy().reshape(-1, length)

    def _read(self) -> Any:
        return daft.read_parquet([str(file) for file in self.files])

    def _numbers(self, ordinals: Integers) -> Integers:
        units = ordinals >> 32
        bases = numpy.zeros(max(self.bases, default=0) + 1, dtype=numpy.int64)
        bases[list(self.bases)] = list(self.bases.values())
        return bases[units] + (ordinals & 0xFFFFFFFF)

    def _ordinals(self, numbers: Integers) -> Integers:
        units = numpy.array(sorted(self.bases))
        firsts = numpy.array([self.bases[unit] for unit in units])
        place = numpy.searchsorted(firsts, numbers, side="right") - 1
        return (units[place] << 32) + (numbers - firsts[place])
