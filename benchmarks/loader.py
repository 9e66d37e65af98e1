"""Data loading: tokens/s from token shards, beside nanoGPT's memory map and litdata, and as a fraction of a training step.

    python benchmarks/loader.py [--tokens 50000000] [--length 1024] [--sequences 32] [--seconds 5]

Each contender runs in a process of its own and makes shuffled batches of int64 from the same random tokens on disk, in a
single thread. Ratios are of CPU time, which other load affects least. The step is one of a small model on this CPU with the
same batch. litdata is skipped if it is not installed: it replaces CPU builds of torch, so install it in an environment of
its own, with --no-deps.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

VOCABULARY, END = 32_000, 0
MEAN_DOCUMENT = 800
TARGET_TOKENS_PER_SECOND = 1_000_000
"""The training speed of the fastest process that is expected."""
WARM_UP = 20
STEPS = 3


def write(folder: Path, tokens: int) -> None:
    """Random documents, as our shards and, if it is installed, as litdata's chunks."""
    from groundup.tokenizer.token_shards import ShardWriter

    random = np.random.default_rng(0)
    lengths = np.maximum(2, random.lognormal(np.log(MEAN_DOCUMENT) - 0.5, 1.0, tokens // MEAN_DOCUMENT).astype(int))
    ids = random.integers(1, VOCABULARY, lengths.sum(), dtype=np.uint16)
    ids[np.cumsum(lengths) - 1] = END
    with ShardWriter(folder, "train", vocab_size=VOCABULARY, tokenizer="random", end_of_text=END) as writer:
        writer.append(ids, lengths, ["random"] * len(lengths), lengths.tolist())
        writer.commit(1)
        writer.finish()
    if find_spec("litdata"):
        import litdata

        inputs = [
            (str(folder / "train.bin"), begin, min(begin + 1_000_000, len(ids)))
            for begin in range(0, len(ids), 1_000_000)
        ]
        litdata.optimize(
            fn=_read_chunk, inputs=inputs, output_dir=str(folder / "litdata"), chunk_size=8_000_000, num_workers=1,
            item_loader=litdata.TokensLoader(), verbose=False,
        )  # fmt: skip


def _read_chunk(chunk: tuple[str, int, int]) -> Iterator[torch.Tensor]:
    file, begin, end = chunk
    yield torch.from_numpy(np.fromfile(file, np.uint16, end - begin, offset=2 * begin).astype(np.int32))


def groundup(folder: Path, length: int, sequences: int, **options: Any) -> Iterator[dict[str, torch.Tensor]]:
    from groundup.tokenizer import TokenShard
    from groundup.train.token_batches import TokenBatches

    batches = TokenBatches(TokenShard(folder / "train"), length, sequences, seed=0, **options)
    step = 0
    while True:
        yield batches.batch(step)
        step += 1


def nanogpt(folder: Path, length: int, sequences: int) -> Iterator[dict[str, torch.Tensor]]:
    """train.py, get_batch: random positions, a new memory map for each batch, separate inputs and targets."""
    while True:
        data = np.memmap(folder / "train.bin", dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - length, (sequences,))
        x = torch.stack([torch.from_numpy(data[i : i + length].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + length].astype(np.int64)) for i in starts])
        yield {"tokens": x, "labels": y}


def litdata(folder: Path, length: int, sequences: int) -> Iterator[dict[str, torch.Tensor]]:
    import litdata

    data = litdata.StreamingDataset(
        str(folder / "litdata"), item_loader=litdata.TokensLoader(block_size=length), shuffle=True, drop_last=True
    )
    loader = litdata.StreamingDataLoader(data, batch_size=sequences, num_workers=0, drop_last=True)
    while True:
        for batch in loader:
            yield {"tokens": batch.long()}


CONTENDERS: dict[str, tuple[Callable[..., Iterator[dict[str, torch.Tensor]]], dict[str, Any]]] = {
    "groundup, concat": (groundup, {}),
    "groundup, best-fit": (groundup, {"packing": "best-fit"}),
    "groundup, document masks": (groundup, {"document_mask": True}),
    "nanoGPT's get_batch": (nanogpt, {}),
    "litdata": (litdata, {}),
}


def measure(name: str, folder: Path, length: int, sequences: int, seconds: float) -> tuple[float, float, float]:
    """Seconds until the first batch, then tokens per second of wall time and of CPU time."""
    torch.set_num_threads(1)
    function, options = CONTENDERS[name]
    began = time.perf_counter()
    batches = function(folder, length, sequences, **options)
    assert next(batches)["tokens"].shape == (sequences, length)
    first = time.perf_counter() - began
    for _ in range(WARM_UP):
        next(batches)
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while (wall := time.perf_counter() - began) < seconds:
        next(batches)
        count += sequences * length
    return first, count / wall, count / (time.process_time() - cpu)


def step_rate(length: int, sequences: int) -> tuple[float, float]:
    """Tokens of a training step per second of CPU time, and the number of parameters."""
    from groundup.model import Decoder
    from groundup.recipe.model_config import ModelConfig

    model = Decoder(
        ModelConfig(
            vocab_size=4096, hidden_size=256, num_layers=6, num_heads=4, intermediate_size=704, context_length=length
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = torch.randint(4096, (sequences, length))
    best = 0.0
    for _ in range(STEPS):
        cpu = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            model(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        best = max(best, batch.numel() / (time.process_time() - cpu))
    return best, float(sum(weight.numel() for weight in model.parameters()))


def main() -> None:
    from groundup.artifacts.machine import processor_name

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=50_000_000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    print(f"{date.today()}, {processor_name()}; {given.tokens:,} tokens, batches of {given.sequences} x {given.length}")
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, given.tokens)
        ours = None
        rates = {}
        for contender in CONTENDERS:
            if contender == "litdata" and not find_spec("litdata"):
                print("  litdata: not installed")
                continue
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                work = pool.submit(measure, contender, folder, given.length, given.sequences, given.seconds)
                first, wall, cpu = work.result()
            ours, rates[contender] = ours or cpu, cpu
            print(
                f"  {contender:26}{wall / 1e6:8.1f} million tokens/s{cpu / 1e6:8.1f} of CPU{cpu / ours:6.2f} of ours"
                f"{first:8.3f} s to the first, with imports",
                flush=True,
            )
    step, weights = step_rate(given.length, 4)
    print(f"a step of a model with {weights / 1e6:.1f} million weights: {step:,.0f} tokens for a second of CPU")
    for contender, rate in rates.items():
        if contender.startswith("groundup"):
            print(
                f"  {contender:26}{step / rate:9.4%} of that step{TARGET_TOKENS_PER_SECOND / rate:7.2%} "
                f"at {TARGET_TOKENS_PER_SECOND:,} tokens/s a process"
            )


if __name__ == "__main__":
    main()
