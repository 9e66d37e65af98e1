"""The one door to Daft: many units of work at once, here or on a Ray cluster, and MinHash signatures.

Native or Ray, the same functions do the same work on the same units, and their results meet on disk (a cluster's
nodes share a file system). Nothing else in the project imports Daft.
"""

import json
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from groundup.artifacts.errors import UserError

os.environ["DO_NOT_TRACK"] = "true"  # before the import: Daft reports its use to its makers otherwise
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own keeps what was freed, 30 MB a worker
os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")  # a line on the terminal that says nothing to our users

import daft
import pyarrow
from daft import DataType, col
from daft.expressions import ExpressionsProjection
from daft.functions import minhash, normalize
from daft.recordbatch import MicroPartition

UnitFunction = Callable[[dict[str, Any]], dict[str, Any]]


def start_executor(engine: Literal["native", "ray"], threads: int) -> int:
    """Choose the runner for this process, once; returns how many workers there are: `threads`, or the cluster's cores.

    Ray is found by $RAY_ADDRESS; without it one is started here, and ends with this process. Raises UserError when
    Ray is asked for and absent.
    """
    if engine == "native":
        return threads
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            'data.executor = "ray", but Ray is not installed', hint='pip install "groundup[ray]"'
        ) from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        ray.init(
            address=address,
            num_cpus=None if address else threads,
            log_to_driver=False,
            include_dashboard=False,
        )
    daft.set_runner_ray(noop_if_initialized=True)
    return int(ray.cluster_resources().get("CPU", 1))


def useful_workers(workers: int, amount: float, min_per_worker: float) -> int:
    """How many workers such an amount of work is worth, when one that gets less than `least` would only cost its start."""
    return workers if _is_ray() else max(1, min(workers, int(amount / min_per_worker)))


def map_units(function: UnitFunction, units: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """The answer of `work` to each unit, as they come in. Units and answers are plain JSON values.

    `work` is a module's function and writes its own files. One native worker is this process; several are processes
    of their own. A UserError there is raised here, and so is a bug, with its traceback.
    """
    remote = _is_ray()
    if not units:
        return
    if not remote and min(workers, len(units)) == 1:
        yield from map(function, units)
        return

    @daft.cls(use_process=not remote, max_concurrency=min(workers, len(units)))
    class Worker:
        @daft.method(return_dtype=DataType.string())
        def run(self, unit: str) -> str:
            try:
                return json.dumps({"answer": function(json.loads(unit))})
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


def _is_ray() -> bool:
    """Ray's workers are there already; native ones start, which takes each of them a second."""
    return daft.runners.get_or_infer_runner_type() == "ray"


def minhash_signatures(texts: list[str], ngram_size: int, hashes: int, seed: int) -> NDArray[numpy.uint32]:
    """The MinHash signature of each text (N, hashes). Computed here, by one thread: units run side by side already.

    Shingles are runs of `shingle` words in lower case without punctuation; a shorter text is one shingle. A text
    without any word has the greatest number everywhere.
    """
    words = normalize(col("text"), remove_punct=True, lowercase=True, white_space=True)
    found = minhash(
        words, num_hashes=hashes, ngram_size=ngram_size, seed=seed % (1 << 31), hash_function="xxhash64"
    )
    table = MicroPartition.from_arrow(pyarrow.table({"text": pyarrow.array(texts, pyarrow.large_string())}))
    column = table.eval_expression_list(ExpressionsProjection([found.alias("signature")])).to_arrow()[
        "signature"
    ]
    return column.combine_chunks().flatten().to_numpy().astype(numpy.uint32).reshape(len(texts), hashes)
