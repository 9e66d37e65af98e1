"""Benchmark: conversations of a file to tokens with loss masks, beside datasets and transformers: seconds and peak memory.

    python benchmarks/encode_conversations.py [--conversations 200000] [--characters 1000] [--peer PYTHON]

Writes JSON lines of `messages` with words of the standard library's docstrings: four turns, whose lengths vary by the
exponential distribution. Each contestant reads and encodes them in a process of its own: seconds, and memory that the process
took beyond its imports. The peer, which `--peer` names the Python of, does what TRL's SFTTrainer does: load_dataset,
then `map` with apply_chat_template and the mask of the assistant's tokens, with its cache on disk.
"""

import argparse
import importlib
import json
import os
import pkgutil
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEMORY = 'int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) * 1024'
GROUNDUP = """
import json, sys, time
from functools import partial
from groundup.artifacts.machine import Machine
from groundup.finetune import ChatBatches, read_conversations
from groundup.finetune.chat_batches import encode_conversation
from groundup.finetune.training_data.read_stats import ReadStats
from groundup.finetune.training_set import encode_training_set
from groundup.recipe.finetune_config import ConversationSourceConfig
from groundup.tokenizer import Tokenizer
tokenizer = Tokenizer.load(sys.argv[2])
before, begin = MEMORY, time.perf_counter()
source = ConversationSourceConfig(name="b", kind="messages", path=sys.argv[1])
conversations, stats = read_conversations([source], Machine())
read = time.perf_counter() - begin
encode = partial(encode_conversation, tokenizer=tokenizer)
found = encode_training_set(conversations, encode, tokenizer.vocab_size, 2048, "cut", ReadStats())
seconds = time.perf_counter() - begin
tokens = int(sum(len(each.variants[0][0]) for each in found.encoded))
batches = ChatBatches(found.encoded, 2048, 4, 0, 0)
batches.batch(0)
print(json.dumps({"conversations": len(found), "tokens": tokens, "read_seconds": read, "seconds": seconds,
                  "bytes": MEMORY - before}))
"""
PEER = """
import json, sys, time
import datasets, transformers
datasets.disable_progress_bars()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[2])
before, begin = MEMORY, time.perf_counter()
rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[3])
read = time.perf_counter() - begin
def encode(row):
    found = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True,
                                          truncation=True, max_length=2048)
    return {"input_ids": found["input_ids"], "assistant_masks": found["assistant_masks"]}
rows = rows.map(encode, remove_columns=rows.column_names)
seconds = time.perf_counter() - begin
tokens = sum(len(row["input_ids"]) for row in rows)
print(json.dumps({"conversations": len(rows), "tokens": tokens, "read_seconds": read, "seconds": seconds,
                  "bytes": MEMORY - before}))
"""


def write_conversations(path: Path, count: int, characters: int) -> list[str]:
    """`count` conversations of about `characters` characters; some of the texts, to train a tokenizer on."""
    names = [module.name for module in pkgutil.iter_modules() if module.name in sys.stdlib_module_names]
    words: list[str] = []
    for name in sorted(names):
        if name not in ("antigravity", "this", "idlelib") and not name.startswith("_"):
            try:
                words += (importlib.import_module(name).__doc__ or "").split()
            except Exception:  # modules of other systems
                continue
    generator = random.Random(0)
    mean_words = characters / 4 / (1 + sum(map(len, words)) / len(words))
    sample: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            sizes = [1 + int(generator.expovariate(1 / mean_words)) for _ in range(4)]
            texts = [" ".join(generator.choices(words, k=size)) for size in sizes]
            roles = ("user", "assistant") * 2
            messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
            file.write(json.dumps({"messages": messages}) + "\n")
            sample += texts if number < 2_000 else []
    return sample


def measure(python: str, script: str, *arguments: str) -> dict[str, Any]:
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    code = script.replace("MEMORY", MEMORY)
    answer = subprocess.run([python, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=200_000)
    parser.add_argument("--characters", type=int, default=1_000)
    parser.add_argument("--peer", help="Python with datasets and transformers; default: none")
    arguments = parser.parse_args()

    from groundup.tokenizer import train_tokenizer
    from groundup.tokenizer.chat_template import CHATML

    with tempfile.TemporaryDirectory() as folder:
        path, tokenizer_folder = Path(folder) / "talk.jsonl", Path(folder) / "tokenizer"
        begin = time.perf_counter()
        sample = write_conversations(path, arguments.conversations, arguments.characters)
        tokenizer = train_tokenizer(sample, vocab_size=8_000)
        tokenizer.chat_template = CHATML
        tokenizer.save(tokenizer_folder)
        size, seconds = path.stat().st_size / 1e6, time.perf_counter() - begin
        print(f"{size:.0f} MB of {arguments.conversations:,} conversations, {seconds:.0f} s")
        rows = {"groundup": measure(sys.executable, GROUNDUP, str(path), str(tokenizer_folder))}
        if arguments.peer:
            cache = str(Path(folder) / "cache")
            rows["datasets + transformers"] = measure(arguments.peer, PEER, str(path), str(tokenizer_folder), cache)
    print("| contestant | conversations | tokens | read, s | all, s | peak memory, MB |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        counts = f"{row['conversations']:,} | {row['tokens']:,} | {row['read_seconds']:.1f} | {row['seconds']:.1f}"
        print(f"| {name} | {counts} | {row['bytes'] / 1e6:.0f} |")


if __name__ == "__main__":
    main()
