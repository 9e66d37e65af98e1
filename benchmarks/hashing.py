"""Cost of the checks of files: SHA-256 of a file, of a checkpoint that is written, and of a model that is opened.

python benchmarks/hashing.py --gigabytes 0.5      in seconds of processor time too, for a machine with other work
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from groundup.artifacts.fingerprint import hash_file, hash_files
from groundup.artifacts.machine import processor_name
from groundup.artifacts.manifest import Manifest, list_files
from groundup.model import Decoder, load_model, save_model
from groundup.parallel.sharded_checkpoint import TensorShard, write_shards
from groundup.recipe import ModelConfig


def measure(name: str, gigabytes: float, work: Callable[[], object]) -> None:
    work()
    wall, processor = time.perf_counter(), time.process_time()
    work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    rates = f"{gigabytes / wall:5.2f} GB/s  {gigabytes / processor:5.2f} GB/s of CPU"
    print(f"  {name:<44} {wall:7.3f} s  {processor:7.3f} s of CPU  {rates}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    size = parser.parse_args().gigabytes
    torch.set_num_threads(1)
    print(f"{date.today()}, {processor_name()}; {size} GB, from the page cache")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tensors = {"weight": TensorShard(torch.randn(int(size * 2.5e8)), (0,))}
        path = folder / "rank-00000-of-00001.safetensors"
        measure("checkpoint: write", size, lambda: write_shards(tensors, path, {}))
        measure("checkpoint: hash of the written file", size, lambda: hash_file(path))
        for index in range(4):
            (folder / f"part-{index}").write_bytes(bytes(path.read_bytes()[: int(size * 2.5e8)]))
        parts = sorted(folder.glob("part-*"))
        measure("stage of 4 files: hash, one after the other", size, lambda: [hash_file(part) for part in parts])
        measure("stage of 4 files: hash_files", size, lambda: hash_files(parts))
        config = ModelConfig(vocab_size=4096, hidden_size=1024, num_layers=8, num_heads=16, context_length=256)
        model = Decoder(config)
        stage = folder / "04-base"
        save_model(model, stage)
        files = list_files(stage)
        Manifest(stage="base", version=1, fingerprint="", files=files).write(stage)
        size = sum(file["bytes"] for file in files.values()) / 1e9
        print(f"a model of {size:.2f} GB")
        measure("load_model", size, lambda: load_model(stage))
        measure("load_model, verify=False", size, lambda: load_model(stage, verify=False))


if __name__ == "__main__":
    main()
