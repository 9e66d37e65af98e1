"""Executor: map a function over work units with Daft, on this machine or a Ray cluster; and MinHash signatures.

Both runners apply the same functions to the same units and exchange results as files (a cluster's nodes share a file
system). No other module imports Daft.
"""

import json
import os
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from groundup.artifacts.errors import UserError
from groundup.artifacts.storage_errors import describe_storage_error
from groundup.data.clean.ngrams import separate_characters

os.environ["DO_NOT_TRACK"] = "true"  # before the import: disables telemetry
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # the default keeps 30 MB per worker
os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")

import daft
import pyarrow
from daft import DataType, col
from daft.expressions import ExpressionsProjection
from daft.functions import minhash, normalize
from daft.recordbatch import MicroPartition

UnitFunction = Callable[[dict[str, Any]], dict[str, Any]]


def start_executor(name: Literal["native", "ray"], threads: int) -> int:
    """Select the runner for this process; returns the number of workers: `threads`, or the cluster's cores.

    Ray connects to $RAY_ADDRESS, or starts a local cluster that ends with this process. Raises UserError if Ray is
    not installed.
    """
    if name == "native":
        return threads
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError('data.executor = "ray", but Ray is not installed', hint='pip install "groundup[ray]"') from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        num_cpus = None if address else threads
        ray.init(address=address, num_cpus=num_cpus, log_to_driver=False, include_dashboard=False)
    daft.set_runner_ray(noop_if_initialized=True)
    return int(ray.cluster_resources().get("CPU", 1))


def useful_workers(workers: int, amount: float, min_per_worker: float) -> int:
    """Workers for this amount of work, so that each gets at least `min_per_worker`: starting one takes a second."""
    return workers if _is_ray() else max(1, min(workers, int(amount / min_per_worker)))


def map_units(function: UnitFunction, units: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any]]:
    """Results of `function` for each unit, in order of completion. Units and results are JSON values.

    `function` is defined at module level and writes its own files. One native worker runs in this process; several
    run in subprocesses. A UserError in a worker is raised here; another exception as RuntimeError with its traceback.
    """
    is_ray = _is_ray()
    if not units:
        return
    if not is_ray and min(workers, len(units)) == 1:
        yield from map(function, units)
        return

    @daft.cls(use_process=not is_ray, max_concurrency=min(workers, len(units)))
    class Worker:
        @daft.method(return_dtype=DataType.string())
        def run(self, unit: str) -> str:
            try:
                return json.dumps({"result": function(json.loads(unit))})
            except UserError as error:
                return json.dumps({"error": [error.message, error.hint]})
            except ModuleNotFoundError as error:
                return json.dumps({"error": [f"{error.name} is not installed", "pip install 'groundup[data]'"]})
            except Exception as error:
                if isinstance(error, OSError) and (known := describe_storage_error(error)):
                    return json.dumps({"error": [known.message, known.hint]})
                return json.dumps({"traceback": traceback.format_exc()})

    worker = Worker()
    table = daft.from_pydict({"unit": [json.dumps(unit) for unit in units]}).into_batches(1)
    for row in table.select(worker.run(table["unit"]).alias("result")).iter_rows():
        result = json.loads(row["result"])
        if "error" in result:
            raise UserError(result["error"][0], hint=result["error"][1])
        if "traceback" in result:
            raise RuntimeError(f"in a worker:\n{result['traceback']}")
        yield result["result"]


def _is_ray() -> bool:
    """Whether the Ray runner is selected."""
    return daft.runners.get_or_infer_runner_type() == "ray"


def minhash_signatures(texts: list[str], ngram_size: int, hashes: int, seed: int) -> NDArray[numpy.uint32]:
    """MinHash signatures of texts (N, hashes), computed in this thread: units already run in parallel.

    N-grams of lower-case words without punctuation, or of characters in scripts without spaces; a shorter text is one
    n-gram. A text without words has the maximum value in each position.
    """
    texts = list(map(separate_characters, texts))
    words = normalize(col("text"), remove_punct=True, lowercase=True, white_space=True)
    signature = minhash(
        words, num_hashes=hashes, ngram_size=ngram_size, seed=seed % (1 << 31), hash_function="xxhash64"
    )
    table = MicroPartition.from_arrow(pyarrow.table({"text": pyarrow.array(texts, pyarrow.large_string())}))
    projection = ExpressionsProjection([signature.alias("signature")])
    column = table.eval_expression_list(projection).to_arrow()["signature"]
    return column.combine_chunks().flatten().to_numpy().astype(numpy.uint32).reshape(len(texts), hashes)
